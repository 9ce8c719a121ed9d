-- Version 2: commands and their replies, deadlines.

ALTER TABLE antiphon_log ADD COLUMN target TEXT;          -- the one service that is owed it; NULL: whoever subscribes
ALTER TABLE antiphon_log ADD COLUMN request_id TEXT;      -- the command that it answers; NULL: it is no reply
ALTER TABLE antiphon_log ADD COLUMN deadline_ms INTEGER;  -- wall; work that is because of it is not started later
-- No index on them, which every plain event would pay for: an answer has the correlation of its request.

ALTER TABLE antiphon_timers ADD COLUMN target TEXT;
ALTER TABLE antiphon_timers ADD COLUMN request_id TEXT;
ALTER TABLE antiphon_timers ADD COLUMN deadline_ms INTEGER;

-- The handler or route of the same service whose work a handler undoes.
ALTER TABLE antiphon_handlers ADD COLUMN compensates TEXT;

-- Whose turn a waiting delivery is part of, if its handler shares its time fairly (fair_by); '': nobody's.
ALTER TABLE antiphon_deliveries ADD COLUMN lane TEXT NOT NULL DEFAULT '';
CREATE INDEX antiphon_deliveries_lane ON antiphon_deliveries (handler_id, lane, due_ms, seq)
    WHERE status IN ('UNPROCESSED', 'RETRY') AND due_ms IS NOT NULL;

-- Calls to the outside world: the intent before one, its outcome after it.
CREATE TABLE antiphon_effects (
    event_id   TEXT    NOT NULL,
    handler    TEXT    NOT NULL,
    name       TEXT    NOT NULL,
    key        TEXT    NOT NULL,                 -- the idempotency key
    state      TEXT    NOT NULL CHECK (state IN ('INTENDED', 'DONE', 'NOT_DONE', 'AMBIGUOUS')),
    calls      INTEGER NOT NULL DEFAULT 1,
    result     BLOB,                             -- JSON; NULL: none is known
    error      TEXT,
    resolution TEXT,                             -- what a person said of it
    created_ms INTEGER NOT NULL,                 -- wall
    updated_ms INTEGER NOT NULL,                 -- wall
    PRIMARY KEY (event_id, handler, name)
) WITHOUT ROWID;
CREATE INDEX antiphon_effects_open ON antiphon_effects (state, updated_ms) WHERE state <> 'DONE';
