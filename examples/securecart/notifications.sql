CREATE TABLE IF NOT EXISTS emails (
    order_id   TEXT PRIMARY KEY,  -- an order ends once
    message_id TEXT NOT NULL UNIQUE,
    recipient  TEXT NOT NULL,
    status     TEXT NOT NULL,
    sent_at    TEXT NOT NULL
) WITHOUT ROWID;
