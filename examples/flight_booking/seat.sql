CREATE TABLE IF NOT EXISTS flights (
    flight TEXT PRIMARY KEY,
    sold   INTEGER NOT NULL
);

CREATE TABLE IF NOT EXISTS seats (
    flight     TEXT NOT NULL,
    seat       TEXT NOT NULL,
    booking_id TEXT NOT NULL UNIQUE,  -- a booking has one seat
    PRIMARY KEY (flight, seat)        -- a seat is sold once
);
