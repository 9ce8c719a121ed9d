CREATE TABLE IF NOT EXISTS bookings (
    booking_id VARCHAR(64) PRIMARY KEY,
    flight     TEXT        NOT NULL,
    passenger  TEXT        NOT NULL,
    price      VARCHAR(32) NOT NULL,  -- a decimal number
    card_last4 VARCHAR(4)  NOT NULL,
    status     VARCHAR(16) NOT NULL DEFAULT 'CREATED'
               CHECK (status IN ('CREATED', 'PAID', 'SEATED', 'TICKETED', 'CANCELLED')),
    reason     TEXT,
    seat       TEXT,
    ticket     TEXT,
    created_at TEXT        NOT NULL
);
