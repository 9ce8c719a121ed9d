CREATE TABLE IF NOT EXISTS orders (
    order_id   TEXT PRIMARY KEY,
    account    TEXT NOT NULL,
    email      TEXT NOT NULL,
    card_last4 TEXT NOT NULL,
    country    TEXT NOT NULL,
    cents      INTEGER NOT NULL CHECK (cents > 0),
    window_s   INTEGER NOT NULL,
    status     TEXT NOT NULL DEFAULT 'QUEUED'
               CHECK (status IN ('QUEUED', 'RESERVED', 'PAID', 'SHIPPING', 'SHIPPED', 'CANCELLING', 'CANCELLED', 'FAILED')),
    detail     TEXT,          -- the parcel's number, or why there is none
    replaces   TEXT UNIQUE,   -- the failed order that this one was placed for again
    placed_at  TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS order_lines (
    order_id TEXT NOT NULL,
    sku      TEXT NOT NULL,
    quantity INTEGER NOT NULL,
    PRIMARY KEY (order_id, sku)
) WITHOUT ROWID;
