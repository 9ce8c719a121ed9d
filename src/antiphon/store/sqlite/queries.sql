-- The SQL of the store, in named blocks. `-- name:` starts a block; the lines of comment after it are its purpose.

-- name: append
-- Append one event; an id that is there already is skipped.
INSERT INTO antiphon_log
    (id, type, version, key, service, time_ms, correlation_id, causation_id, traceparent,
     target, request_id, deadline_ms, origin, data)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO NOTHING

-- name: append_plain
-- The same of an event without a trace, target, request or deadline. It costs 1 us less: to bind a NULL is dear.
INSERT INTO antiphon_log (id, type, version, key, service, time_ms, correlation_id, causation_id, origin, data)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO NOTHING

-- name: read_type
-- One type's events after a position: served by the index on type at any depth of backlog.
SELECT seq, id, type, version, key, service, time_ms, correlation_id, causation_id, traceparent,
       target, request_id, deadline_ms, origin, data
FROM antiphon_log WHERE type = ? AND seq > ? ORDER BY seq LIMIT ?

-- name: read_owed
-- The same, without what is addressed to another handler or service, or stays inside another one.
SELECT seq, id, type, version, key, service, time_ms, correlation_id, causation_id, traceparent,
       target, request_id, deadline_ms, origin, data
FROM antiphon_log WHERE type = ?1 AND seq > ?2 AND (addressee = ?3 OR addressee IS NULL
  AND (origin <> 2 OR service = (SELECT h.service FROM antiphon_handlers AS h WHERE h.id = ?3))
  AND (target IS NULL OR target = (SELECT h.service FROM antiphon_handlers AS h WHERE h.id = ?3)))
ORDER BY seq LIMIT ?4

-- name: read_log
-- Everything after a position.
SELECT seq, id, type, version, key, service, time_ms, correlation_id, causation_id, traceparent,
       target, request_id, deadline_ms, origin, data
FROM antiphon_log WHERE seq > ? ORDER BY seq LIMIT ?

-- name: read_seqs
-- The events of a JSON list of positions.
SELECT seq, id, type, version, key, service, time_ms, correlation_id, causation_id, traceparent,
       target, request_id, deadline_ms, origin, data
FROM antiphon_log WHERE seq IN (SELECT value FROM json_each(?)) ORDER BY seq

-- name: answer_to
-- The first answer to a command that began a process: its id is the correlation.
SELECT type, version, data FROM antiphon_log WHERE correlation_id = ?1 AND request_id = ?1 ORDER BY seq LIMIT 1

-- name: head
-- The newest position of the log.
SELECT coalesce(max(seq), 0) FROM antiphon_log

-- name: move_cursor
-- Fenced: changes nothing unless the lease is still the handler's.
UPDATE antiphon_handlers
SET strikes = CASE WHEN seq < ?1 THEN 0 ELSE strikes END, seq = max(seq, ?1), handled = handled + ?2,
    failed_invocations = failed_invocations + ?3, updated_ms = ?4
WHERE id = ?5 AND epoch = ?6

-- name: mark_progress
-- When everything up to here was settled.
INSERT INTO antiphon_progress (handler_id, seq, at_ms) VALUES (?, ?, ?)
ON CONFLICT (handler_id, seq) DO UPDATE SET at_ms = excluded.at_ms

-- name: has_open
-- Whether the handler has any delivery that is not over.
SELECT EXISTS (SELECT 1 FROM antiphon_deliveries
               WHERE handler_id = ? AND status IN ('UNPROCESSED', 'IN_PROGRESS', 'RETRY'))

-- name: open_keys
-- Which keys have a delivery that is not over; one mark for each. (In JSON, older SQLites cut a text at its NUL.)
SELECT DISTINCT key FROM antiphon_deliveries
WHERE handler_id = ? AND key IN (?)
  AND status IN ('UNPROCESSED', 'IN_PROGRESS', 'RETRY')

-- name: put_delivery
-- Write the row of a delivery that is not plainly done.
INSERT INTO antiphon_deliveries
    (handler_id, seq, key, status, attempts, first_ms, due_ms, reason, error_type, message, traceback,
     fingerprint, updated_ms)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (handler_id, seq) DO UPDATE SET
    status = excluded.status, attempts = excluded.attempts, first_ms = coalesce(first_ms, excluded.first_ms),
    due_ms = excluded.due_ms, reason = excluded.reason, error_type = excluded.error_type,
    message = excluded.message, traceback = excluded.traceback, fingerprint = excluded.fingerprint,
    updated_ms = excluded.updated_ms

-- name: start_delivery
-- Record that an attempt begins, before it begins.
INSERT INTO antiphon_deliveries (handler_id, seq, key, status, attempts, first_ms, due_ms, suspect, updated_ms)
VALUES (?, ?, ?, 'IN_PROGRESS', ?, ?, NULL, ?, ?)
ON CONFLICT (handler_id, seq) DO UPDATE SET
    status = 'IN_PROGRESS', attempts = excluded.attempts, first_ms = coalesce(first_ms, excluded.first_ms),
    due_ms = NULL, suspect = excluded.suspect, updated_ms = excluded.updated_ms

-- name: park_delivery
-- A fresh event that waits behind an earlier one of its key.
INSERT INTO antiphon_deliveries (handler_id, seq, key, status, due_ms, updated_ms)
VALUES (?, ?, ?, 'UNPROCESSED', NULL, ?)
ON CONFLICT (handler_id, seq) DO NOTHING

-- name: end_delivery
-- It took effect: no row is needed any more.
DELETE FROM antiphon_deliveries WHERE handler_id = ? AND seq = ?

-- name: promote_next
-- The first open delivery of a key may run, if it waited behind one that is over now.
UPDATE antiphon_deliveries SET due_ms = ?1
WHERE handler_id = ?2 AND status = 'UNPROCESSED' AND due_ms IS NULL
  AND seq = (SELECT min(seq) FROM antiphon_deliveries INDEXED BY antiphon_deliveries_key
             WHERE handler_id = ?2 AND key = ?3 AND status IN ('UNPROCESSED', 'IN_PROGRESS', 'RETRY'))

-- name: put_attempt
-- One attempt that did not simply succeed.
INSERT INTO antiphon_attempts (handler_id, seq, number, outcome, error_type, message, traceback, at_ms)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)

-- name: due_deliveries
-- Deliveries whose time has come, earliest first; of a key only the first one that is open, and none while
-- one runs (a later one may, when an earlier one is redriven).
SELECT d.seq, d.status, d.attempts, d.crashes, d.suspect, d.first_ms, d.key
FROM antiphon_deliveries AS d
WHERE d.handler_id = ?1 AND d.status IN ('UNPROCESSED', 'RETRY') AND d.due_ms IS NOT NULL AND d.due_ms <= ?2
  AND (d.key IS NULL OR (
       NOT EXISTS (
           SELECT 1 FROM antiphon_deliveries AS earlier INDEXED BY antiphon_deliveries_key
           WHERE earlier.handler_id = ?1 AND earlier.key = d.key AND earlier.seq < d.seq
             AND earlier.status IN ('UNPROCESSED', 'IN_PROGRESS', 'RETRY'))
       AND NOT EXISTS (
           SELECT 1 FROM antiphon_deliveries AS running INDEXED BY antiphon_deliveries_status
           WHERE running.handler_id = ?1 AND running.status = 'IN_PROGRESS' AND running.key = d.key)))
ORDER BY d.due_ms, d.seq LIMIT ?3

-- name: due_in_lane
-- The same, of one lane.
SELECT d.seq, d.status, d.attempts, d.crashes, d.suspect, d.first_ms, d.key
FROM antiphon_deliveries AS d INDEXED BY antiphon_deliveries_lane
WHERE d.handler_id = ?1 AND d.lane = ?4 AND d.status IN ('UNPROCESSED', 'RETRY')
  AND d.due_ms IS NOT NULL AND d.due_ms <= ?2
  AND (d.key IS NULL OR (
       NOT EXISTS (
           SELECT 1 FROM antiphon_deliveries AS earlier INDEXED BY antiphon_deliveries_key
           WHERE earlier.handler_id = ?1 AND earlier.key = d.key AND earlier.seq < d.seq
             AND earlier.status IN ('UNPROCESSED', 'IN_PROGRESS', 'RETRY'))
       AND NOT EXISTS (
           SELECT 1 FROM antiphon_deliveries AS running INDEXED BY antiphon_deliveries_status
           WHERE running.handler_id = ?1 AND running.status = 'IN_PROGRESS' AND running.key = d.key)))
ORDER BY d.due_ms, d.seq LIMIT ?3

-- name: lanes
-- The lanes from one on in which something waits for its time or its turn: a step of the index each.
WITH RECURSIVE found (lane) AS (
    SELECT (SELECT min(lane) FROM antiphon_deliveries INDEXED BY antiphon_deliveries_lane
            WHERE handler_id = ?1 AND lane >= ?2 AND status IN ('UNPROCESSED', 'RETRY') AND due_ms IS NOT NULL)
    UNION ALL
    SELECT (SELECT min(d.lane) FROM antiphon_deliveries AS d INDEXED BY antiphon_deliveries_lane
            WHERE d.handler_id = ?1 AND d.lane > found.lane AND d.status IN ('UNPROCESSED', 'RETRY')
              AND d.due_ms IS NOT NULL)
    FROM found WHERE found.lane IS NOT NULL LIMIT ?3)
SELECT lane FROM found WHERE lane IS NOT NULL

-- name: line_up
-- A fresh event in its lane; due at once, unless (NULL) an earlier one of its key is open.
INSERT INTO antiphon_deliveries (handler_id, seq, key, status, due_ms, lane, updated_ms)
VALUES (?, ?, ?, 'UNPROCESSED', ?, ?, ?)
ON CONFLICT (handler_id, seq) DO NOTHING

-- name: following_deliveries
-- The open deliveries of a key after one, in order.
SELECT seq, status, attempts, crashes, suspect, first_ms, key FROM antiphon_deliveries
WHERE handler_id = ? AND key = ? AND seq > ? AND status IN ('UNPROCESSED', 'IN_PROGRESS', 'RETRY')
ORDER BY seq LIMIT ?

-- name: next_due
-- When the earliest delivery is due that waits for nothing but its time (as in due_deliveries).
SELECT d.due_ms FROM antiphon_deliveries AS d
WHERE d.handler_id = ?1 AND d.status IN ('UNPROCESSED', 'RETRY') AND d.due_ms IS NOT NULL
  AND (d.key IS NULL OR (
       NOT EXISTS (
           SELECT 1 FROM antiphon_deliveries AS earlier INDEXED BY antiphon_deliveries_key
           WHERE earlier.handler_id = ?1 AND earlier.key = d.key AND earlier.seq < d.seq
             AND earlier.status IN ('UNPROCESSED', 'IN_PROGRESS', 'RETRY'))
       AND NOT EXISTS (
           SELECT 1 FROM antiphon_deliveries AS running INDEXED BY antiphon_deliveries_status
           WHERE running.handler_id = ?1 AND running.status = 'IN_PROGRESS' AND running.key = d.key)))
ORDER BY d.due_ms LIMIT 1

-- name: put_timer
-- An event, or a schedule, that waits for its time.
INSERT INTO antiphon_timers
    (id, due_ms, clock, recurrence, type, version, key, service, correlation_id, causation_id, traceparent,
     target, request_id, deadline_ms, origin, data, created_ms)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET
    due_ms = CASE WHEN recurrence IS excluded.recurrence THEN due_ms ELSE excluded.due_ms END,
    clock = excluded.clock, recurrence = excluded.recurrence, type = excluded.type, version = excluded.version,
    key = excluded.key, service = excluded.service, data = excluded.data

-- name: due_timers
-- Timers of one clock whose time has come.
SELECT id, due_ms, clock, recurrence, type, version, key, service, correlation_id, causation_id, traceparent,
       target, request_id, deadline_ms, origin, data
FROM antiphon_timers WHERE clock = ? AND due_ms <= ? ORDER BY due_ms, id LIMIT ?

-- name: next_timer
-- When the earliest timer of a clock is due.
SELECT min(due_ms) FROM antiphon_timers WHERE clock = ?

-- name: move_timer
-- A recurring timer's next time.
UPDATE antiphon_timers SET due_ms = ? WHERE id = ? AND due_ms = ?

-- name: end_timer
-- The timer has fired, or was cancelled.
DELETE FROM antiphon_timers WHERE id = ?

-- name: put_handler
-- A handler not seen before.
INSERT INTO antiphon_handlers (name, service, seq, updated_ms) VALUES (?, ?, ?, ?) ON CONFLICT (name) DO NOTHING

-- name: put_compensates
-- Whose work a handler undoes, as its code says now.
UPDATE antiphon_handlers SET compensates = ?1 WHERE name = ?2 AND compensates IS NOT ?1

-- name: put_subscription
-- The handler is owed this type's events after a position.
INSERT INTO antiphon_subscriptions (handler_id, type, start_seq) VALUES (?, ?, ?)
ON CONFLICT (handler_id, type) DO NOTHING

-- name: note_removed
-- Since when services (a JSON list) have no handlers but some (a JSON list).
UPDATE antiphon_handlers
SET removed_ms = CASE WHEN name IN (SELECT value FROM json_each(?1)) THEN NULL ELSE coalesce(removed_ms, ?2) END
WHERE service IN (SELECT value FROM json_each(?3))
  AND EXISTS (SELECT 1 FROM antiphon_subscriptions AS s WHERE s.handler_id = antiphon_handlers.id)

-- name: report_taken
-- A receiver of a bus has come so far.
UPDATE antiphon_handlers SET seq = max(seq, ?), updated_ms = ? WHERE name = ?

-- name: take_lease
-- Take a lease that is free, expired, or whose owner was seen to be dead. A pause was its worker's.
UPDATE antiphon_handlers
SET owner = ?, epoch = epoch + 1, lease_until_ms = ?, paused_until_ms = NULL, pause_reason = NULL
WHERE name = ?

-- name: suspect_handler
-- What repeated deaths say about the handler's next events.
UPDATE antiphon_handlers SET strikes = ?, suspect_seq = ? WHERE id = ?

-- name: renew_leases
-- A worker still lives.
UPDATE antiphon_handlers SET lease_until_ms = ? WHERE owner = ?

-- name: release_lease
-- A clean hand-over: nobody is suspected.
UPDATE antiphon_handlers SET owner = NULL, lease_until_ms = ? WHERE id = ? AND epoch = ?

-- name: release_running
-- Attempts that a stop of ours interrupted are due at once and have burnt nothing.
UPDATE antiphon_deliveries SET status = 'RETRY', attempts = max(attempts - 1, 0), due_ms = ?, updated_ms = ?
WHERE handler_id = ? AND status = 'IN_PROGRESS'

-- name: suspect_running
-- Attempts that were running when their process died: due at once, to be run alone. One that ran alone is to blame.
UPDATE antiphon_deliveries
SET status = 'RETRY', crashes = crashes + suspect, suspect = 1, attempts = max(attempts - 1, 0), due_ms = ?, updated_ms = ?
WHERE handler_id = ? AND status = 'IN_PROGRESS'

-- name: suspect_due
-- After repeated crashes, whatever may run next runs alone.
UPDATE antiphon_deliveries SET suspect = 1
WHERE handler_id = ? AND status IN ('UNPROCESSED', 'RETRY') AND due_ms IS NOT NULL

-- name: record_crashes
-- An attempt that ended with its process.
INSERT INTO antiphon_attempts (handler_id, seq, number, outcome, error_type, message, at_ms)
SELECT handler_id, seq, attempts, 'crashed', 'ProcessDied', 'the process died while this attempt ran', ?
FROM antiphon_deliveries WHERE handler_id = ? AND status = 'IN_PROGRESS'

-- name: latest_store_ms
-- A moment that the store's clock is known to have reached: a lease was given back, or extended.
SELECT coalesce(max(CASE WHEN owner IS NULL THEN lease_until_ms ELSE lease_until_ms - ? END), 0)
FROM antiphon_handlers

-- name: pause_handler
-- Pause (or, with NULL, resume) a handler.
UPDATE antiphon_handlers SET paused_until_ms = ?, pause_reason = ? WHERE id = ? AND epoch = ?

-- name: advance_position
-- Two movers cannot both win: who starts from a place that the other has passed changes nothing.
UPDATE antiphon_positions SET seq = ?, updated_ms = ? WHERE name = ? AND seq <= ?

-- name: put_position
-- A position not seen before.
INSERT INTO antiphon_positions (name, seq, updated_ms) VALUES (?, 0, ?) ON CONFLICT (name) DO NOTHING

-- name: move_position
-- Positions never go back.
INSERT INTO antiphon_positions (name, seq, updated_ms) VALUES (?, ?, ?)
ON CONFLICT (name) DO UPDATE SET seq = max(seq, excluded.seq), updated_ms = excluded.updated_ms

-- name: positions
-- All positions.
SELECT name, seq FROM antiphon_positions

-- name: effect
-- What is known of one call to the outside.
SELECT event_id, handler, name, key, state, calls, result, error, resolution, created_ms, updated_ms
FROM antiphon_effects WHERE event_id = ? AND handler = ? AND name = ?

-- name: put_effect
-- What is known of a call now.
INSERT INTO antiphon_effects
    (event_id, handler, name, key, state, calls, result, error, resolution, created_ms, updated_ms)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (event_id, handler, name) DO UPDATE SET
    state = excluded.state, calls = excluded.calls, result = excluded.result, error = excluded.error,
    resolution = excluded.resolution, updated_ms = excluded.updated_ms

-- name: holds_lease
-- Whether a handler's lease is still the one that is meant.
SELECT 1 FROM antiphon_handlers WHERE id = ? AND epoch = ?
