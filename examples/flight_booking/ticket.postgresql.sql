CREATE TABLE IF NOT EXISTS tickets (
    number     BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    booking_id TEXT NOT NULL UNIQUE,  -- a booking has one ticket
    flight     TEXT NOT NULL,
    seat       TEXT NOT NULL,
    passenger  TEXT NOT NULL,
    issued_at  TEXT NOT NULL
);
