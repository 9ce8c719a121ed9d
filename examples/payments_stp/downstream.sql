CREATE TABLE IF NOT EXISTS advices (
    payment_id TEXT PRIMARY KEY,  -- a payment is advised once
    outcome    TEXT NOT NULL CHECK (outcome IN ('COMPLETED', 'REJECTED')),
    reason     TEXT,
    advised_at TEXT NOT NULL
) WITHOUT ROWID;
