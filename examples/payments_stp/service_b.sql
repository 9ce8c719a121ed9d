CREATE TABLE IF NOT EXISTS payments (
    payment_id  TEXT PRIMARY KEY,  -- a payment is answered once
    outcome     TEXT NOT NULL CHECK (outcome IN ('COMPLETED', 'REJECTED')),
    reason      TEXT,
    answered_at TEXT NOT NULL
) WITHOUT ROWID;
