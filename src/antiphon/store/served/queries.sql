-- What databases on a server say alike, and SQLite in its own way: max() has the name greatest() there, and a row that
-- is to be changed is locked when it is read. In named blocks.

-- name: move_cursor
-- Fenced: changes nothing unless the lease is still the handler's.
UPDATE antiphon_handlers
SET strikes = CASE WHEN seq < ?1 THEN 0 ELSE strikes END, seq = greatest(seq, ?1), handled = handled + ?2,
    failed_invocations = failed_invocations + ?3, updated_ms = ?4
WHERE id = ?5 AND epoch = ?6

-- name: due_timers
-- Timers of one clock whose time has come. Another process that fires them waits for this one.
SELECT id, due_ms, clock, recurrence, type, version, key, service, correlation_id, causation_id, traceparent,
       target, request_id, deadline_ms, origin, data
FROM antiphon_timers WHERE clock = ? AND due_ms <= ? ORDER BY due_ms, id LIMIT ? FOR UPDATE

-- name: report_taken
-- A receiver of a bus has come so far.
UPDATE antiphon_handlers SET seq = greatest(seq, ?), updated_ms = ? WHERE name = ?

-- name: release_running
-- Attempts that a stop of ours interrupted are due at once and have burnt nothing.
UPDATE antiphon_deliveries SET status = 'RETRY', attempts = greatest(attempts - 1, 0), due_ms = ?, updated_ms = ?
WHERE handler_id = ? AND status = 'IN_PROGRESS'

-- name: suspect_running
-- Attempts that were running when their process died: due at once, to be run alone. One that ran alone is to blame.
UPDATE antiphon_deliveries
SET status = 'RETRY', crashes = crashes + suspect, suspect = 1, attempts = greatest(attempts - 1, 0), due_ms = ?,
    updated_ms = ?
WHERE handler_id = ? AND status = 'IN_PROGRESS'

-- name: take_turn
-- The row of a partition of a handler, which nobody else changes until the transaction ends.
SELECT * FROM antiphon_handlers WHERE name = ? AND part = ? FOR UPDATE

-- name: take_redrives
-- The redrives under way, which nobody else moves on until the transaction ends.
SELECT id FROM antiphon_redrives WHERE state IN ('canary', 'running', 'settling') ORDER BY id FOR UPDATE

-- name: take_redrive
-- A redrive, which nobody else moves on until the transaction ends.
SELECT * FROM antiphon_redrives WHERE id = ? FOR UPDATE

-- name: oldest_open
-- When the first event was published whose delivery is open.
SELECT time_ms FROM antiphon_log WHERE seq = (
    SELECT min(seq) FROM antiphon_deliveries
    WHERE handler_id = ?1 AND status IN ('UNPROCESSED', 'IN_PROGRESS', 'RETRY') AND archived IS NULL)

-- name: dead_letters_of
-- Those of one event.
SELECT l.id, l.seq, l.type, l.version, l.key, h.name, h.service, d.status, d.reason, d.error_type, d.message,
       d.fingerprint, d.attempts, l.time_ms, d.updated_ms, d.archived, d.handler_id, d.traceback,
       coalesce(h.first_id, h.id) AS first_id
FROM antiphon_log AS l
JOIN antiphon_deliveries AS d ON d.seq = l.seq
JOIN antiphon_handlers AS h ON h.id = d.handler_id
WHERE l.id = ? AND d.status IN ('ERROR', 'FAILED') ORDER BY h.name
