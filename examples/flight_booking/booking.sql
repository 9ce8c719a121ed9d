CREATE TABLE IF NOT EXISTS bookings (
    booking_id TEXT PRIMARY KEY,
    flight     TEXT NOT NULL,
    passenger  TEXT NOT NULL,
    price      TEXT NOT NULL,  -- a decimal number
    card_last4 TEXT NOT NULL,
    status     TEXT NOT NULL DEFAULT 'CREATED'
               CHECK (status IN ('CREATED', 'PAID', 'SEATED', 'TICKETED', 'CANCELLED')),
    reason     TEXT,
    seat       TEXT,
    ticket     TEXT,
    created_at TEXT NOT NULL
);
