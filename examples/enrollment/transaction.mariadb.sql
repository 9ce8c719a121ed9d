CREATE TABLE IF NOT EXISTS postings (
    transaction_id BIGINT      PRIMARY KEY AUTO_INCREMENT,
    customer_id    VARCHAR(64) NOT NULL,
    kind           VARCHAR(32) NOT NULL,
    points         INTEGER     NOT NULL,
    posted_at      TEXT        NOT NULL,
    UNIQUE (customer_id, kind)  -- a customer is given the bonus of enrolling once
);
