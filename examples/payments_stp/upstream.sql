CREATE TABLE IF NOT EXISTS payments (
    payment_id TEXT PRIMARY KEY,
    status     TEXT NOT NULL DEFAULT 'IN_PROGRESS' CHECK (status IN ('IN_PROGRESS', 'COMPLETED', 'REJECTED')),
    reason     TEXT,
    answers    INTEGER NOT NULL DEFAULT 0,  -- how often it was answered: once
    taken_at   TEXT NOT NULL
) WITHOUT ROWID;
