CREATE TABLE IF NOT EXISTS flights (
    flight VARCHAR(64) PRIMARY KEY,
    sold   INTEGER     NOT NULL
);

CREATE TABLE IF NOT EXISTS seats (
    flight     VARCHAR(64) NOT NULL,
    seat       VARCHAR(8)  NOT NULL,
    booking_id VARCHAR(64) NOT NULL UNIQUE,  -- a booking has one seat
    PRIMARY KEY (flight, seat)               -- a seat is sold once
);
