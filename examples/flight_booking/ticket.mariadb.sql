CREATE TABLE IF NOT EXISTS tickets (
    number     BIGINT      PRIMARY KEY AUTO_INCREMENT,
    booking_id VARCHAR(64) NOT NULL UNIQUE,  -- a booking has one ticket
    flight     TEXT        NOT NULL,
    seat       TEXT        NOT NULL,
    passenger  TEXT        NOT NULL,
    issued_at  TEXT        NOT NULL
);
