-- What A keeps between its request to B and B's answer.
CREATE TABLE IF NOT EXISTS working_data (
    request_id TEXT PRIMARY KEY,      -- RQ_B_STP or RQ_B_REJ
    payment_id TEXT NOT NULL UNIQUE,
    asked_by   TEXT NOT NULL          -- RQ_A_INIT, which is still to be answered
) WITHOUT ROWID;
