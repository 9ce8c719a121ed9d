CREATE TABLE IF NOT EXISTS charges (
    booking_id  TEXT PRIMARY KEY,  -- a booking is charged once
    amount      TEXT NOT NULL,     -- a decimal number
    card_last4  TEXT NOT NULL,
    charged_at  TEXT NOT NULL,
    refunded_at TEXT
);
