-- Version 1 of the tables that Antiphon keeps beside a service's own. Times ending in _ms are milliseconds:
-- *_ms "wall" are Unix time, UTC; "store" are the store's clock (see host.py), which no wall clock can move.

CREATE TABLE antiphon_log (
    seq            INTEGER PRIMARY KEY,          -- commit order; never reused: the newest row is never pruned
    id             TEXT    NOT NULL,
    type           TEXT    NOT NULL,
    version        INTEGER NOT NULL,
    key            TEXT,
    service        TEXT    NOT NULL,             -- the producing service
    time_ms        INTEGER NOT NULL,             -- wall
    correlation_id TEXT,                         -- NULL: the event is the first of its process
    causation_id   TEXT,
    traceparent    TEXT,                         -- NULL: derived from correlation_id and id
    origin         INTEGER NOT NULL DEFAULT 0,   -- 0 published here, 1 received from the bus, 2 stays inside its service
    addressee      INTEGER,                      -- the one handler that is owed it (an edited dead letter); NULL: all
    data           BLOB    NOT NULL
);
CREATE UNIQUE INDEX antiphon_log_id ON antiphon_log (id);          -- the inbox: an id is seen once
CREATE INDEX antiphon_log_type ON antiphon_log (type);             -- seq, the row id, is part of every index
CREATE INDEX antiphon_log_correlation ON antiphon_log (correlation_id) WHERE correlation_id IS NOT NULL;

-- When the log had come how far, noted every few minutes: what is old is told by these, since the time of an
-- event is its producer's word.
CREATE TABLE antiphon_marks (
    at_ms INTEGER PRIMARY KEY,                       -- wall
    seq   INTEGER NOT NULL
);

-- One row a handler: its cursor, lease, pause and counters.
CREATE TABLE antiphon_handlers (
    id                 INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used again: events and history refer to it
    name               TEXT    NOT NULL UNIQUE,
    service            TEXT    NOT NULL,
    seq                INTEGER NOT NULL,             -- the cursor: up to here all is done or has a delivery row
    owner              TEXT,                         -- the worker that holds the lease
    epoch              INTEGER NOT NULL DEFAULT 0,   -- the fencing token
    lease_until_ms     INTEGER NOT NULL DEFAULT 0,   -- store
    strikes            INTEGER NOT NULL DEFAULT 0,   -- unclean takeovers without progress between
    suspect_seq        INTEGER NOT NULL DEFAULT 0,   -- up to here events run one at a time, recorded before they start
    paused_until_ms    INTEGER,                      -- store; NULL: not paused
    pause_reason       TEXT,
    handled            INTEGER NOT NULL DEFAULT 0,
    failed_invocations INTEGER NOT NULL DEFAULT 0,
    removed_ms         INTEGER,                      -- wall; since then its service's code has no such handler
    updated_ms         INTEGER NOT NULL              -- wall
);
CREATE TABLE antiphon_subscriptions (
    handler_id INTEGER NOT NULL REFERENCES antiphon_handlers (id) ON DELETE CASCADE,
    type       TEXT    NOT NULL,
    start_seq  INTEGER NOT NULL,                     -- events up to here are not owed
    PRIMARY KEY (handler_id, type)
) WITHOUT ROWID;
CREATE INDEX antiphon_subscriptions_type ON antiphon_subscriptions (type);

-- A row a committed batch: when, and by whom, everything up to here was settled.
CREATE TABLE antiphon_progress (
    handler_id INTEGER NOT NULL,
    seq        INTEGER NOT NULL,
    at_ms      INTEGER NOT NULL,                     -- wall
    PRIMARY KEY (handler_id, seq)
) WITHOUT ROWID;

-- Only deliveries that are not plainly done have a row here.
CREATE TABLE antiphon_deliveries (
    handler_id  INTEGER NOT NULL,
    seq         INTEGER NOT NULL,
    key         TEXT,
    status      TEXT    NOT NULL CHECK (status IN
                ('UNPROCESSED', 'IN_PROGRESS', 'COMPLETED', 'RETRY', 'ERROR', 'FAILED')),
    attempts    INTEGER NOT NULL DEFAULT 0,
    crashes     INTEGER NOT NULL DEFAULT 0,
    suspect     INTEGER NOT NULL DEFAULT 0,          -- it was running when its process died: run it alone
    first_ms    INTEGER,                             -- store: when it was first attempted
    due_ms      INTEGER,                             -- store; NULL: waits behind an earlier event of its key
    reason      TEXT,
    error_type  TEXT,
    message     TEXT,
    traceback   TEXT,
    fingerprint TEXT,
    archived    TEXT,                                -- why a dead letter was archived
    updated_ms  INTEGER NOT NULL,                    -- wall
    PRIMARY KEY (handler_id, seq)
) WITHOUT ROWID;
CREATE INDEX antiphon_deliveries_due ON antiphon_deliveries (handler_id, due_ms, seq)
    WHERE status IN ('UNPROCESSED', 'RETRY') AND due_ms IS NOT NULL;
CREATE INDEX antiphon_deliveries_key ON antiphon_deliveries (handler_id, key, seq)
    WHERE status IN ('UNPROCESSED', 'IN_PROGRESS', 'RETRY');
CREATE INDEX antiphon_deliveries_dead ON antiphon_deliveries (fingerprint, handler_id, seq)
    WHERE status IN ('ERROR', 'FAILED');
CREATE INDEX antiphon_deliveries_died ON antiphon_deliveries (updated_ms)
    WHERE status IN ('ERROR', 'FAILED');
CREATE INDEX antiphon_deliveries_status ON antiphon_deliveries (handler_id, status, archived);

-- Every attempt of a delivery that did not succeed at once, and what a person did between two of them.
CREATE TABLE antiphon_attempts (
    id         INTEGER PRIMARY KEY,
    handler_id INTEGER NOT NULL,
    seq        INTEGER NOT NULL,
    number     INTEGER NOT NULL,
    outcome    TEXT    NOT NULL,                     -- completed, failed, crashed, probe; redriven, edited, archived
    error_type TEXT,
    message    TEXT,
    traceback  TEXT,
    at_ms      INTEGER NOT NULL                      -- wall
);
CREATE INDEX antiphon_attempts_delivery ON antiphon_attempts (handler_id, seq, number);

-- Events that wait for their time, and recurring schedules.
CREATE TABLE antiphon_timers (
    id             TEXT    PRIMARY KEY,              -- the event's id, or the schedule's name
    due_ms         INTEGER NOT NULL,
    clock          TEXT    NOT NULL CHECK (clock IN ('store', 'wall')),
    recurrence     TEXT,                             -- JSON: every_ms or cron, and zone; NULL: once
    type           TEXT    NOT NULL,
    version        INTEGER NOT NULL,
    key            TEXT,
    service        TEXT    NOT NULL,
    correlation_id TEXT,
    causation_id   TEXT,
    traceparent    TEXT,
    origin         INTEGER NOT NULL DEFAULT 0,
    data           BLOB    NOT NULL,
    created_ms     INTEGER NOT NULL                  -- wall
) WITHOUT ROWID;
CREATE INDEX antiphon_timers_due ON antiphon_timers (clock, due_ms);

-- How far each inlet has read its source, and (in a bus) how far each service's outlet has sent.
CREATE TABLE antiphon_positions (
    name       TEXT    PRIMARY KEY,
    seq        INTEGER NOT NULL,
    updated_ms INTEGER NOT NULL                      -- wall
) WITHOUT ROWID;

-- The answers given to requests that carried an Idempotency-Key.
CREATE TABLE antiphon_idempotency (
    route       TEXT    NOT NULL,
    key         TEXT    NOT NULL,
    fingerprint TEXT    NOT NULL,
    status      INTEGER NOT NULL,
    headers     TEXT    NOT NULL,
    body        BLOB    NOT NULL,
    created_ms  INTEGER NOT NULL,                    -- wall
    PRIMARY KEY (route, key)
) WITHOUT ROWID;
CREATE INDEX antiphon_idempotency_created ON antiphon_idempotency (created_ms);

-- Redrives of many dead letters. Which ones is settled when it is submitted; it goes on after a crash.
CREATE TABLE antiphon_redrives (
    id         TEXT    PRIMARY KEY,
    state      TEXT    NOT NULL CHECK (state IN ('canary', 'running', 'settling', 'done', 'stopped', 'cancelled')),
    reason     TEXT,                                 -- why it was stopped
    what       TEXT    NOT NULL,                     -- JSON: the filter
    canary     INTEGER NOT NULL,                     -- whether one goes ahead
    rate       REAL,                                 -- a second; NULL: no limit
    stop_share REAL,                                 -- the share of failures that stops it; NULL: none does
    stop_after INTEGER NOT NULL,                     -- of at least so many outcomes
    total      INTEGER NOT NULL,
    waiting    INTEGER NOT NULL,
    succeeded  INTEGER NOT NULL DEFAULT 0,
    failed     INTEGER NOT NULL DEFAULT 0,
    skipped    INTEGER NOT NULL DEFAULT 0,
    next_ms    INTEGER NOT NULL,                     -- store; nothing goes before
    created_ms INTEGER NOT NULL,                     -- wall
    updated_ms INTEGER NOT NULL                      -- wall
) WITHOUT ROWID;
CREATE TABLE antiphon_redrive_items (
    redrive_id TEXT    NOT NULL,
    seq        INTEGER NOT NULL,
    handler_id INTEGER NOT NULL,
    state      TEXT    NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'sent', 'succeeded', 'failed', 'skipped')),
    PRIMARY KEY (redrive_id, seq, handler_id)
) WITHOUT ROWID;
CREATE INDEX antiphon_redrive_items_state ON antiphon_redrive_items (redrive_id, state);
