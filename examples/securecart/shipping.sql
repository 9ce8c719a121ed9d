CREATE TABLE IF NOT EXISTS parcels (
    number     INTEGER PRIMARY KEY,
    order_id   TEXT NOT NULL UNIQUE,  -- an order is one parcel
    country    TEXT NOT NULL,
    pieces     INTEGER NOT NULL,
    shipped_at TEXT NOT NULL
);

CREATE TABLE IF NOT EXISTS given_up (
    order_id TEXT PRIMARY KEY
) WITHOUT ROWID;
