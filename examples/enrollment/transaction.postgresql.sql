CREATE TABLE IF NOT EXISTS postings (
    transaction_id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer_id    TEXT    NOT NULL,
    kind           TEXT    NOT NULL,
    points         INTEGER NOT NULL,
    posted_at      TEXT    NOT NULL,
    UNIQUE (customer_id, kind)  -- a customer is given the bonus of enrolling once
);
