CREATE TABLE IF NOT EXISTS customers (
    customer_id VARCHAR(64) PRIMARY KEY,
    name        TEXT        NOT NULL,
    email       TEXT        NOT NULL,
    plan        TEXT        NOT NULL,
    status      VARCHAR(16) NOT NULL DEFAULT 'PENDING' CHECK (status IN ('PENDING', 'ENROLLED', 'UNENROLLED')),
    reason      TEXT,
    points      INTEGER     NOT NULL DEFAULT 0,
    enrolled_at TEXT        NOT NULL
);
