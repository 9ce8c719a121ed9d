-- Workflows: their runs, what each has done so far, and what has arrived for them.

-- One row a run. Those that have ended stay until retention removes them.
CREATE TABLE antiphon_runs (
    nr             INTEGER PRIMARY KEY,
    id             TEXT    NOT NULL,                 -- that of the event that began it, or a child's own
    workflow       TEXT    NOT NULL,                 -- service.function
    key            TEXT    NOT NULL,
    order_key      TEXT    NOT NULL,                 -- the key of its deliveries
    version        INTEGER NOT NULL,                 -- of the definition that it began with
    state          TEXT    NOT NULL CHECK (state IN
                   ('RUNNING', 'WAITING', 'PAUSED', 'COMPENSATING', 'STUCK',
                    'COMPLETED', 'COMPENSATED', 'FAILED', 'CANCELLED')),
    rev            INTEGER NOT NULL,                 -- grows with each write: the fence against a worker that lost it
    correlation_id TEXT    NOT NULL,
    parent         TEXT,                             -- workflow and id of the run that waits for it
    start_seq      INTEGER NOT NULL,                 -- the log position of the event that began it
    start_type     TEXT    NOT NULL,
    start_version  INTEGER NOT NULL,
    start_data     BLOB    NOT NULL,
    shape          TEXT    NOT NULL DEFAULT '',      -- a digest of its journal's positions, kinds and names
    waiting        TEXT,                             -- what it waits for, in words; why it is stuck or paused
    due_ms         INTEGER,                          -- store: until when at most
    user_state     BLOB,                             -- JSON: what the function shows of itself
    result         BLOB,                             -- JSON
    error          TEXT,
    cancelled      TEXT,                             -- the reason
    started_ms     INTEGER NOT NULL,                 -- wall
    updated_ms     INTEGER NOT NULL                  -- wall
);
CREATE UNIQUE INDEX antiphon_runs_id ON antiphon_runs (id, workflow);
CREATE INDEX antiphon_runs_key ON antiphon_runs (key, workflow);
CREATE UNIQUE INDEX antiphon_runs_live ON antiphon_runs (workflow, key)
    WHERE state IN ('RUNNING', 'WAITING', 'PAUSED', 'COMPENSATING', 'STUCK');
CREATE INDEX antiphon_runs_correlation ON antiphon_runs (correlation_id)
    WHERE state IN ('RUNNING', 'WAITING', 'PAUSED', 'COMPENSATING', 'STUCK');

-- What a run has done, and waits for.
CREATE TABLE antiphon_journal (
    run        INTEGER NOT NULL,                     -- antiphon_runs.nr
    position   TEXT    NOT NULL,                     -- the place in the function
    kind       TEXT    NOT NULL,
    name       TEXT    NOT NULL,
    mark       TEXT    NOT NULL,                     -- DONE, WAITING, RETRY, FAILED, TIMED_OUT, CANCELLED, SKIPPED
    nr         INTEGER NOT NULL,                     -- in the order in which they were closed
    attempts   INTEGER NOT NULL,
    first_ms   INTEGER,                              -- store
    due_ms     INTEGER,                              -- store
    timer      TEXT,
    result     BLOB,                                 -- JSON
    error_type TEXT,
    error      TEXT,
    at_ms      INTEGER NOT NULL,                     -- wall
    PRIMARY KEY (run, position)
) WITHOUT ROWID;

-- Events and signals that a workflow's runs may await, until retention removes them.
CREATE TABLE antiphon_inbox (
    workflow       TEXT    NOT NULL,
    seq            INTEGER NOT NULL,                 -- its position in the log
    type           TEXT    NOT NULL,                 -- of a signal: its name after "signal:"
    version        INTEGER NOT NULL,
    id             TEXT    NOT NULL,
    key            TEXT,
    correlation_id TEXT    NOT NULL,                 -- of a signal: the run's id
    causation_id   TEXT,
    data           BLOB    NOT NULL,
    at_ms          INTEGER NOT NULL,                 -- wall
    PRIMARY KEY (workflow, seq)
) WITHOUT ROWID;
CREATE INDEX antiphon_inbox_key ON antiphon_inbox (key, workflow, type) WHERE key IS NOT NULL;
CREATE INDEX antiphon_inbox_correlation ON antiphon_inbox (correlation_id, workflow, type);
CREATE INDEX antiphon_inbox_age ON antiphon_inbox (at_ms);
