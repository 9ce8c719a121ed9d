CREATE TABLE IF NOT EXISTS charges (
    booking_id  VARCHAR(64) PRIMARY KEY,  -- a booking is charged once
    amount      VARCHAR(32) NOT NULL,     -- a decimal number
    card_last4  VARCHAR(4)  NOT NULL,
    charged_at  TEXT        NOT NULL,
    refunded_at TEXT
);
