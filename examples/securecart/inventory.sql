CREATE TABLE IF NOT EXISTS stock (
    sku      TEXT PRIMARY KEY,
    free     INTEGER NOT NULL CHECK (free >= 0),
    received INTEGER NOT NULL  -- ever: free, reserved and shipped together
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS reservations (
    order_id TEXT NOT NULL,
    sku      TEXT NOT NULL,
    quantity INTEGER NOT NULL CHECK (quantity > 0),
    state    TEXT NOT NULL DEFAULT 'RESERVED' CHECK (state IN ('RESERVED', 'RELEASED', 'SHIPPED')),
    PRIMARY KEY (order_id, sku)  -- an order reserves once
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS given_up (
    order_id TEXT PRIMARY KEY
) WITHOUT ROWID;
