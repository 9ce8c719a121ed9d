-- Version 1 of the tables that Antiphon keeps beside a service's own. Times ending in _ms are milliseconds:
-- *_ms "wall" are Unix time, UTC; "store" are the server's clock. Texts compare by their bytes. What PostgreSQL says
-- with an index of some rows only is here a column that the others have no value in; a key may be longer than an index
-- can hold, so its digest finds it. Each statement can run over what it has made.

CREATE TABLE IF NOT EXISTS antiphon_log (
    seq            BIGINT       PRIMARY KEY,         -- commit order: drawn from antiphon_head under its lock
    id             VARCHAR(500) NOT NULL,            -- the inbox: an id is seen once
    type           VARCHAR(255) NOT NULL,
    version        INTEGER      NOT NULL,
    `key`          MEDIUMTEXT,
    service        VARCHAR(255) NOT NULL,            -- the producing service
    time_ms        BIGINT       NOT NULL,            -- wall
    correlation_id VARCHAR(500),                     -- NULL: the event is the first of its process
    causation_id   VARCHAR(500),
    traceparent    VARCHAR(255),                     -- NULL: derived from correlation_id and id
    target         VARCHAR(255),                     -- the one service that is owed it; NULL: whoever subscribes
    request_id     VARCHAR(500),                     -- the command that it answers; NULL: it is no reply
    deadline_ms    BIGINT,                           -- wall; work that is because of it is not started later
    origin         SMALLINT     NOT NULL DEFAULT 0,  -- 0 published here, 1 received, 2 stays inside its service
    addressee      BIGINT,                           -- the one handler that is owed it (an edited dead letter)
    data           LONGBLOB     NOT NULL,
    bucket         SMALLINT AS (crc32(coalesce(`key`, id)) & 255) STORED,  -- its handlers' partitions share by these
    UNIQUE INDEX antiphon_log_id (id),
    INDEX antiphon_log_type (type, seq),
    INDEX antiphon_log_correlation (correlation_id)
);

-- How far the log has come (log): its row is locked from the drawing of positions until the commit. It also moves when
-- others are to be woken. Whoever registers handlers has the other row (register) for himself meanwhile.
CREATE TABLE IF NOT EXISTS antiphon_head (
    name VARCHAR(32) PRIMARY KEY,
    seq  BIGINT      NOT NULL
);

-- The last transaction of each connection: where a commit was not answered, this tells what has come of it.
CREATE TABLE IF NOT EXISTS antiphon_commits (
    slot  VARCHAR(64)  PRIMARY KEY,
    owner VARCHAR(255) NOT NULL,
    nr    BIGINT       NOT NULL,
    at_ms BIGINT       NOT NULL,                     -- store
    INDEX antiphon_commits_owner (owner)
);

-- When the log had come how far, noted every few minutes.
CREATE TABLE IF NOT EXISTS antiphon_marks (
    at_ms BIGINT PRIMARY KEY,                        -- wall
    seq   BIGINT NOT NULL
);

-- One row a partition of a handler: its cursor, lease, pause and counters.
CREATE TABLE IF NOT EXISTS antiphon_handlers (
    id                 BIGINT       PRIMARY KEY AUTO_INCREMENT,
    name               VARCHAR(255) NOT NULL,        -- the handler's
    part               INTEGER      NOT NULL DEFAULT 0,  -- the rest of its events' buckets, divided by
    parts              INTEGER      NOT NULL DEFAULT 1,  -- this power of two
    first_id           BIGINT,                       -- the row from which it was split, to whose id events are addressed
    split_seq          BIGINT       NOT NULL DEFAULT 0,  -- where: what it had done before is noted there
    service            VARCHAR(255) NOT NULL,
    seq                BIGINT       NOT NULL,        -- the cursor: up to here all is done or has a delivery row
    owner              VARCHAR(255),                 -- the worker that holds the lease
    epoch              BIGINT       NOT NULL DEFAULT 0,  -- the fencing token
    lease_until_ms     BIGINT       NOT NULL DEFAULT 0,  -- store
    strikes            INTEGER      NOT NULL DEFAULT 0,  -- unclean takeovers without progress between
    suspect_seq        BIGINT       NOT NULL DEFAULT 0,  -- up to here events run one at a time
    paused_until_ms    BIGINT,                       -- store; NULL: not paused
    pause_reason       MEDIUMTEXT,
    handled            BIGINT       NOT NULL DEFAULT 0,
    failed_invocations BIGINT       NOT NULL DEFAULT 0,
    removed_ms         BIGINT,                       -- wall; since then its service's code has no such handler
    compensates        MEDIUMTEXT,                   -- whose work it undoes
    updated_ms         BIGINT       NOT NULL,        -- wall
    UNIQUE INDEX antiphon_handlers_name (name, part)
);
CREATE TABLE IF NOT EXISTS antiphon_subscriptions (
    handler_id BIGINT       NOT NULL REFERENCES antiphon_handlers (id) ON DELETE CASCADE,
    type       VARCHAR(255) NOT NULL,
    start_seq  BIGINT       NOT NULL,                -- events up to here are not owed
    PRIMARY KEY (handler_id, type),
    INDEX antiphon_subscriptions_type (type)
);

-- A row a committed batch: when, and by whom, everything up to here was settled.
CREATE TABLE IF NOT EXISTS antiphon_progress (
    handler_id BIGINT NOT NULL,
    seq        BIGINT NOT NULL,
    at_ms      BIGINT NOT NULL,                      -- wall
    PRIMARY KEY (handler_id, seq)
);

-- Only deliveries that are not plainly done have a row here.
CREATE TABLE IF NOT EXISTS antiphon_deliveries (
    handler_id  BIGINT       NOT NULL,
    seq         BIGINT       NOT NULL,
    `key`       MEDIUMTEXT,
    status      VARCHAR(16)  NOT NULL CHECK (status IN
                ('UNPROCESSED', 'IN_PROGRESS', 'COMPLETED', 'RETRY', 'ERROR', 'FAILED')),
    attempts    INTEGER      NOT NULL DEFAULT 0,
    crashes     INTEGER      NOT NULL DEFAULT 0,
    suspect     INTEGER      NOT NULL DEFAULT 0,     -- it was running when its process died: run it alone
    first_ms    BIGINT,                              -- store: when it was first attempted
    due_ms      BIGINT,                              -- store; NULL: waits behind an earlier event of its key
    reason      MEDIUMTEXT,
    error_type  MEDIUMTEXT,
    message     MEDIUMTEXT,
    traceback   MEDIUMTEXT,
    fingerprint MEDIUMTEXT,
    archived    MEDIUMTEXT,                          -- why a dead letter was archived
    lane        VARCHAR(255) NOT NULL DEFAULT '',
    updated_ms  BIGINT       NOT NULL,               -- wall
    waiting_ms  BIGINT AS (CASE WHEN status IN ('UNPROCESSED', 'RETRY') THEN due_ms END) STORED,
    open_key    BINARY(16) AS (CASE WHEN status IN ('UNPROCESSED', 'IN_PROGRESS', 'RETRY') THEN unhex(md5(`key`)) END) STORED,
    died_ms     BIGINT AS (CASE WHEN status IN ('ERROR', 'FAILED') THEN updated_ms END) STORED,
    PRIMARY KEY (handler_id, seq),
    INDEX antiphon_deliveries_due (handler_id, waiting_ms, seq),
    INDEX antiphon_deliveries_lane (handler_id, lane, waiting_ms, seq),
    INDEX antiphon_deliveries_key (handler_id, open_key, seq),
    INDEX antiphon_deliveries_status (handler_id, status, seq),
    INDEX antiphon_deliveries_died (died_ms, fingerprint(64)),
    INDEX antiphon_deliveries_event (seq)
);

-- Every attempt of a delivery that did not succeed at once, and what a person did between two of them.
CREATE TABLE IF NOT EXISTS antiphon_attempts (
    id         BIGINT      PRIMARY KEY AUTO_INCREMENT,
    handler_id BIGINT      NOT NULL,
    seq        BIGINT      NOT NULL,
    number     INTEGER     NOT NULL,
    outcome    VARCHAR(32) NOT NULL,                 -- completed, failed, crashed, probe; redriven, edited, archived
    error_type MEDIUMTEXT,
    message    MEDIUMTEXT,
    traceback  MEDIUMTEXT,
    at_ms      BIGINT      NOT NULL,                 -- wall
    INDEX antiphon_attempts_delivery (handler_id, seq, number),
    INDEX antiphon_attempts_event (seq)
);

-- Events that wait for their time, and recurring schedules.
CREATE TABLE IF NOT EXISTS antiphon_timers (
    id             VARCHAR(600) PRIMARY KEY,         -- the event's id, or the schedule's name
    due_ms         BIGINT       NOT NULL,
    clock          VARCHAR(8)   NOT NULL CHECK (clock IN ('store', 'wall')),
    recurrence     MEDIUMTEXT,                       -- JSON: every_ms or cron, and zone; NULL: once
    type           VARCHAR(255) NOT NULL,
    version        INTEGER      NOT NULL,
    `key`          MEDIUMTEXT,
    service        VARCHAR(255) NOT NULL,
    correlation_id VARCHAR(500),
    causation_id   VARCHAR(500),
    traceparent    VARCHAR(255),
    target         VARCHAR(255),
    request_id     VARCHAR(500),
    deadline_ms    BIGINT,
    origin         SMALLINT     NOT NULL DEFAULT 0,
    data           LONGBLOB     NOT NULL,
    created_ms     BIGINT       NOT NULL,            -- wall
    INDEX antiphon_timers_due (clock, due_ms)
);

-- Calls to the outside world: the intent before one, its outcome after it.
CREATE TABLE IF NOT EXISTS antiphon_effects (
    event_id   VARCHAR(300) NOT NULL,
    handler    VARCHAR(200) NOT NULL,
    name       VARCHAR(200) NOT NULL,
    `key`      MEDIUMTEXT   NOT NULL,                -- the idempotency key
    state      VARCHAR(16)  NOT NULL CHECK (state IN ('INTENDED', 'DONE', 'NOT_DONE', 'AMBIGUOUS')),
    calls      INTEGER      NOT NULL DEFAULT 1,
    result     LONGBLOB,                             -- JSON; NULL: none is known
    error      MEDIUMTEXT,
    resolution MEDIUMTEXT,                           -- what a person said of it
    created_ms BIGINT       NOT NULL,                -- wall
    updated_ms BIGINT       NOT NULL,                -- wall
    PRIMARY KEY (event_id, handler, name),
    INDEX antiphon_effects_open (state, updated_ms)
);

-- How far each inlet has read its source, and (in a bus) how far each service's outlet has sent.
CREATE TABLE IF NOT EXISTS antiphon_positions (
    name       VARCHAR(500) PRIMARY KEY,
    seq        BIGINT       NOT NULL,
    updated_ms BIGINT       NOT NULL                 -- wall
);

-- The answers given to requests that carried an Idempotency-Key.
CREATE TABLE IF NOT EXISTS antiphon_idempotency (
    route       VARCHAR(255) NOT NULL,
    `key`       VARCHAR(500) NOT NULL,
    fingerprint VARCHAR(255) NOT NULL,
    status      INTEGER      NOT NULL,
    headers     MEDIUMTEXT   NOT NULL,
    body        LONGBLOB     NOT NULL,
    created_ms  BIGINT       NOT NULL,               -- wall
    PRIMARY KEY (route, `key`),
    INDEX antiphon_idempotency_created (created_ms)
);

-- Redrives of many dead letters. Which ones is settled when it is submitted; it goes on after a crash.
CREATE TABLE IF NOT EXISTS antiphon_redrives (
    id         VARCHAR(64)  PRIMARY KEY,
    state      VARCHAR(16)  NOT NULL CHECK (state IN ('canary', 'running', 'settling', 'done', 'stopped', 'cancelled')),
    reason     MEDIUMTEXT,                           -- why it was stopped
    what       MEDIUMTEXT   NOT NULL,                -- JSON: the filter
    canary     INTEGER      NOT NULL,                -- whether one goes ahead
    rate       DOUBLE,                               -- a second; NULL: no limit
    stop_share DOUBLE,                               -- the share of failures that stops it; NULL: none does
    stop_after INTEGER      NOT NULL,                -- of at least so many outcomes
    total      INTEGER      NOT NULL,
    waiting    INTEGER      NOT NULL,
    succeeded  INTEGER      NOT NULL DEFAULT 0,
    failed     INTEGER      NOT NULL DEFAULT 0,
    skipped    INTEGER      NOT NULL DEFAULT 0,
    next_ms    BIGINT       NOT NULL,                -- store; nothing goes before
    created_ms BIGINT       NOT NULL,                -- wall
    updated_ms BIGINT       NOT NULL                 -- wall
);
CREATE TABLE IF NOT EXISTS antiphon_redrive_items (
    redrive_id VARCHAR(64) NOT NULL,
    seq        BIGINT      NOT NULL,
    handler_id BIGINT      NOT NULL,
    state      VARCHAR(16) NOT NULL DEFAULT 'waiting'
               CHECK (state IN ('waiting', 'sent', 'succeeded', 'failed', 'skipped')),
    PRIMARY KEY (redrive_id, seq, handler_id),
    INDEX antiphon_redrive_items_state (redrive_id, state)
);

-- Workflows: one row a run. Those that have ended stay until retention removes them.
CREATE SEQUENCE IF NOT EXISTS antiphon_run_numbers;
CREATE TABLE IF NOT EXISTS antiphon_runs (
    nr             BIGINT       PRIMARY KEY,         -- of antiphon_run_numbers
    id             VARCHAR(500) NOT NULL,            -- that of the event that began it, or a child's own
    workflow       VARCHAR(255) NOT NULL,            -- service.function
    `key`          MEDIUMTEXT   NOT NULL,
    order_key      MEDIUMTEXT   NOT NULL,            -- the key of its deliveries
    version        INTEGER      NOT NULL,            -- of the definition that it began with
    state          VARCHAR(16)  NOT NULL CHECK (state IN
                   ('RUNNING', 'WAITING', 'PAUSED', 'COMPENSATING', 'STUCK',
                    'COMPLETED', 'COMPENSATED', 'FAILED', 'CANCELLED')),
    rev            BIGINT       NOT NULL,            -- grows with each write: the fence against a worker that lost it
    correlation_id VARCHAR(500) NOT NULL,
    parent         MEDIUMTEXT,                       -- workflow and id of the run that waits for it
    start_seq      BIGINT       NOT NULL,            -- the log position of the event that began it
    start_type     VARCHAR(255) NOT NULL,
    start_version  INTEGER      NOT NULL,
    start_data     LONGBLOB     NOT NULL,
    shape          VARCHAR(255) NOT NULL DEFAULT '', -- a digest of its journal's positions, kinds and names
    waiting        MEDIUMTEXT,                       -- what it waits for, in words; why it is stuck or paused
    due_ms         BIGINT,                           -- store: until when at most
    user_state     LONGBLOB,                         -- JSON: what the function shows of itself
    result         LONGBLOB,                         -- JSON
    error          MEDIUMTEXT,
    cancelled      MEDIUMTEXT,                       -- the reason
    started_ms     BIGINT       NOT NULL,            -- wall
    updated_ms     BIGINT       NOT NULL,            -- wall
    any_key        BINARY(16) AS (unhex(md5(`key`))) STORED,
    live_key       BINARY(16) AS (CASE WHEN state IN ('RUNNING', 'WAITING', 'PAUSED', 'COMPENSATING', 'STUCK')
                                       THEN unhex(md5(`key`)) END) STORED,
    UNIQUE INDEX antiphon_runs_id (id, workflow),
    INDEX antiphon_runs_key (any_key),
    UNIQUE INDEX antiphon_runs_live (workflow, live_key),
    INDEX antiphon_runs_correlation (correlation_id),
    INDEX antiphon_runs_state (state, updated_ms)
);

-- What a run has done, and waits for.
CREATE TABLE IF NOT EXISTS antiphon_journal (
    run        BIGINT       NOT NULL,                -- antiphon_runs.nr
    position   VARCHAR(500) NOT NULL,                -- the place in the function
    kind       VARCHAR(32)  NOT NULL,
    name       VARCHAR(500) NOT NULL,
    mark       VARCHAR(16)  NOT NULL,                -- DONE, WAITING, RETRY, FAILED, TIMED_OUT, CANCELLED, SKIPPED
    nr         INTEGER      NOT NULL,                -- in the order in which they were closed
    attempts   INTEGER      NOT NULL,
    first_ms   BIGINT,                               -- store
    due_ms     BIGINT,                               -- store
    timer      VARCHAR(600),
    result     LONGBLOB,                             -- JSON
    error_type MEDIUMTEXT,
    error      MEDIUMTEXT,
    at_ms      BIGINT       NOT NULL,                -- wall
    PRIMARY KEY (run, position)
);

-- Events and signals that a workflow's runs may await, until retention removes them.
CREATE TABLE IF NOT EXISTS antiphon_inbox (
    workflow       VARCHAR(255) NOT NULL,
    seq            BIGINT       NOT NULL,            -- its position in the log
    type           VARCHAR(300) NOT NULL,            -- of a signal: its name after "signal:"
    version        INTEGER      NOT NULL,
    id             VARCHAR(500) NOT NULL,
    `key`          MEDIUMTEXT,
    correlation_id VARCHAR(500) NOT NULL,            -- of a signal: the run's id
    causation_id   VARCHAR(500),
    data           LONGBLOB     NOT NULL,
    at_ms          BIGINT       NOT NULL,            -- wall
    any_key        BINARY(16) AS (unhex(md5(`key`))) STORED,
    PRIMARY KEY (workflow, seq),
    INDEX antiphon_inbox_key (any_key),
    INDEX antiphon_inbox_correlation (correlation_id),
    INDEX antiphon_inbox_age (at_ms)
);

-- The processes that have this open; each holds the server's lock of that name as long as it lives.
CREATE TABLE IF NOT EXISTS antiphon_workers (
    owner     VARCHAR(255) PRIMARY KEY,
    lock_name VARCHAR(64)  NOT NULL,
    services  MEDIUMTEXT   NOT NULL,                 -- JSON
    touched   BIGINT       NOT NULL DEFAULT 0        -- so often it has had the server's log reach the disk
);

INSERT INTO antiphon_head (name, seq) SELECT 'log', coalesce(max(seq), 0) FROM antiphon_log
ON DUPLICATE KEY UPDATE name = VALUES(name);
INSERT INTO antiphon_head (name, seq) VALUES ('register', 0) ON DUPLICATE KEY UPDATE name = VALUES(name);
