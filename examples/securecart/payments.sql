CREATE TABLE IF NOT EXISTS charges (
    nr          INTEGER PRIMARY KEY,    -- in the order of booking
    order_id    TEXT NOT NULL UNIQUE,   -- an order is charged once
    account     TEXT NOT NULL,
    cents       INTEGER NOT NULL CHECK (cents > 0),
    number      TEXT NOT NULL UNIQUE,   -- in the bank's books
    charged_at  TEXT NOT NULL,
    refund      TEXT UNIQUE,            -- in the bank's books
    refunded_at TEXT
);

CREATE TABLE IF NOT EXISTS given_up (
    order_id TEXT PRIMARY KEY
) WITHOUT ROWID;
