-- Version 4: a handler's events may be divided among several workers, by their keys.

-- Of each event the low byte of a hash of its key (of its id, if it has none). `migrate` fills in what is there.
ALTER TABLE antiphon_log ADD COLUMN bucket INTEGER NOT NULL DEFAULT 0;

-- One row a partition of a handler now, made anew since a name is no longer there once.
DROP VIEW IF EXISTS antiphon_events;
DROP VIEW IF EXISTS antiphon_inbound;
DROP VIEW IF EXISTS antiphon_payloads;
DROP VIEW IF EXISTS antiphon_dead_letters;
DROP VIEW IF EXISTS antiphon_requests;
DROP VIEW IF EXISTS antiphon_responses;
DROP VIEW IF EXISTS antiphon_working_data;
CREATE TABLE antiphon_partitions (
    id                 INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used again: events and history refer to it
    name               TEXT    NOT NULL,             -- the handler's
    part               INTEGER NOT NULL DEFAULT 0,   -- the rest of its events' buckets, divided by
    parts              INTEGER NOT NULL DEFAULT 1,   -- this power of two
    first_id           INTEGER,                      -- the row from which it was split, to whose id events are addressed
    split_seq          INTEGER NOT NULL DEFAULT 0,   -- where: what it had done before is noted there
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
    updated_ms         INTEGER NOT NULL,             -- wall
    compensates        TEXT                          -- whose work it undoes
);
INSERT INTO antiphon_partitions
    (id, name, service, seq, owner, epoch, lease_until_ms, strikes, suspect_seq, paused_until_ms, pause_reason, handled,
     failed_invocations, removed_ms, updated_ms, compensates)
SELECT id, name, service, seq, owner, epoch, lease_until_ms, strikes, suspect_seq, paused_until_ms, pause_reason, handled,
       failed_invocations, removed_ms, updated_ms, compensates
FROM antiphon_handlers;
DELETE FROM sqlite_sequence WHERE name = 'antiphon_partitions';
INSERT INTO sqlite_sequence (name, seq)
SELECT 'antiphon_partitions', seq FROM sqlite_sequence WHERE name = 'antiphon_handlers';
CREATE TABLE antiphon_kept AS SELECT handler_id, type, start_seq FROM antiphon_subscriptions;
DROP TABLE antiphon_subscriptions;
DROP TABLE antiphon_handlers;
ALTER TABLE antiphon_partitions RENAME TO antiphon_handlers;
CREATE UNIQUE INDEX antiphon_handlers_name ON antiphon_handlers (name, part);
CREATE TABLE antiphon_subscriptions (
    handler_id INTEGER NOT NULL REFERENCES antiphon_handlers (id) ON DELETE CASCADE,
    type       TEXT    NOT NULL,
    start_seq  INTEGER NOT NULL,                     -- events up to here are not owed
    PRIMARY KEY (handler_id, type)
) WITHOUT ROWID;
CREATE INDEX antiphon_subscriptions_type ON antiphon_subscriptions (type);
INSERT INTO antiphon_subscriptions SELECT handler_id, type, start_seq FROM antiphon_kept;
DROP TABLE antiphon_kept;
