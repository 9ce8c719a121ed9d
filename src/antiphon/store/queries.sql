-- The SQL of the store, in named blocks. `-- name:` starts a block; the lines of comment after it are its purpose.

-- name: read_type
-- One type's events after a position: served by the index on type at any depth of backlog.
SELECT seq, id, type, version, key, service, time_ms, correlation_id, causation_id, traceparent,
       target, request_id, deadline_ms, origin, data
FROM antiphon_log WHERE type = ? AND seq > ? ORDER BY seq LIMIT ?

-- name: read_log
-- Everything after a position.
SELECT seq, id, type, version, key, service, time_ms, correlation_id, causation_id, traceparent,
       target, request_id, deadline_ms, origin, data
FROM antiphon_log WHERE seq > ? ORDER BY seq LIMIT ?

-- name: answer_to
-- The first answer to a command that began a process: its id is the correlation.
SELECT type, version, data FROM antiphon_log WHERE correlation_id = ?1 AND request_id = ?1 ORDER BY seq LIMIT 1

-- name: head
-- The newest position of the log.
SELECT coalesce(max(seq), 0) FROM antiphon_log

-- name: mark_progress
-- When everything up to here was settled.
INSERT INTO antiphon_progress (handler_id, seq, at_ms) VALUES (?, ?, ?)
ON CONFLICT (handler_id, seq) DO UPDATE SET at_ms = excluded.at_ms

-- name: has_open
-- Whether the handler has any delivery that is not over.
SELECT EXISTS (SELECT 1 FROM antiphon_deliveries
               WHERE handler_id = ? AND status IN ('UNPROCESSED', 'IN_PROGRESS', 'RETRY'))

-- name: put_delivery
-- Write the row of a delivery that is not plainly done.
INSERT INTO antiphon_deliveries
    (handler_id, seq, key, status, attempts, first_ms, due_ms, reason, error_type, message, traceback,
     fingerprint, updated_ms)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (handler_id, seq) DO UPDATE SET
    status = excluded.status, attempts = excluded.attempts, first_ms = coalesce(antiphon_deliveries.first_ms, excluded.first_ms),
    due_ms = excluded.due_ms, reason = excluded.reason, error_type = excluded.error_type,
    message = excluded.message, traceback = excluded.traceback, fingerprint = excluded.fingerprint,
    updated_ms = excluded.updated_ms

-- name: start_delivery
-- Record that an attempt begins, before it begins.
INSERT INTO antiphon_deliveries (handler_id, seq, key, status, attempts, first_ms, due_ms, suspect, updated_ms)
VALUES (?, ?, ?, 'IN_PROGRESS', ?, ?, NULL, ?, ?)
ON CONFLICT (handler_id, seq) DO UPDATE SET
    status = 'IN_PROGRESS', attempts = excluded.attempts, first_ms = coalesce(antiphon_deliveries.first_ms, excluded.first_ms),
    due_ms = NULL, suspect = excluded.suspect, updated_ms = excluded.updated_ms

-- name: park_delivery
-- A fresh event that waits behind an earlier one of its key.
INSERT INTO antiphon_deliveries (handler_id, seq, key, status, due_ms, updated_ms)
VALUES (?, ?, ?, 'UNPROCESSED', NULL, ?)
ON CONFLICT (handler_id, seq) DO NOTHING

-- name: end_delivery
-- It took effect: no row is needed any more.
DELETE FROM antiphon_deliveries WHERE handler_id = ? AND seq = ?

-- name: put_attempt
-- One attempt that did not simply succeed.
INSERT INTO antiphon_attempts (handler_id, seq, number, outcome, error_type, message, traceback, at_ms)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)

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
-- A handler not seen before: one partition has it all.
INSERT INTO antiphon_handlers (name, service, seq, updated_ms) VALUES (?, ?, ?, ?) ON CONFLICT (name, part) DO NOTHING

-- name: partitions
-- The partitions of all handlers, and who has their leases.
SELECT name, part, parts, owner, lease_until_ms FROM antiphon_handlers ORDER BY name, part

-- name: put_partition
-- A further partition, as far as the one that it is split from. It has done nothing itself.
INSERT INTO antiphon_handlers
    (name, part, parts, first_id, split_seq, service, seq, epoch, lease_until_ms, strikes, suspect_seq, removed_ms,
     compensates, updated_ms)
SELECT name, ?, ?, coalesce(first_id, id), seq, service, seq, epoch + 1, ?, strikes, suspect_seq, removed_ms,
       compensates, ?
FROM antiphon_handlers WHERE id = ?

-- name: copy_subscriptions
-- A partition is owed what the one is owed that it is split from.
INSERT INTO antiphon_subscriptions (handler_id, type, start_seq)
SELECT ?, type, start_seq FROM antiphon_subscriptions WHERE handler_id = ?

-- name: give_back_split
-- The first part of what was one, given back. Whoever had the whole is fenced off.
UPDATE antiphon_handlers SET parts = ?, owner = NULL, epoch = epoch + 1, lease_until_ms = ? WHERE id = ?

-- name: bound_types
-- The types that a handler is owed.
SELECT DISTINCT s.type FROM antiphon_subscriptions AS s JOIN antiphon_handlers AS h ON h.id = s.handler_id WHERE h.name = ?

-- name: put_subscription
-- The handler is owed this type's events after a position.
INSERT INTO antiphon_subscriptions (handler_id, type, start_seq) VALUES (?, ?, ?)
ON CONFLICT (handler_id, type) DO NOTHING

-- name: take_lease
-- Take a lease that is free, expired, or whose owner was seen to be dead. A pause was its worker's.
UPDATE antiphon_handlers
SET owner = ?, epoch = epoch + 1, lease_until_ms = ?, paused_until_ms = NULL, pause_reason = NULL
WHERE id = ?

-- name: fence_off
-- Whoever runs a handler has lost it, as if he had given it back when he last renewed.
UPDATE antiphon_handlers
SET epoch = epoch + 1, lease_until_ms = CASE WHEN owner IS NULL THEN lease_until_ms ELSE lease_until_ms - ?1 END, owner = NULL
WHERE name = ?2

-- name: suspect_handler
-- What repeated deaths say about the handler's next events.
UPDATE antiphon_handlers SET strikes = ?, suspect_seq = ? WHERE id = ?

-- name: renew_leases
-- A worker still lives.
UPDATE antiphon_handlers SET lease_until_ms = ? WHERE owner = ?

-- name: release_lease
-- A clean hand-over: nobody is suspected.
UPDATE antiphon_handlers SET owner = NULL, lease_until_ms = ? WHERE id = ? AND epoch = ?

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

-- name: forget_position
-- It is no place in what is read now.
DELETE FROM antiphon_positions WHERE name = ?

-- name: put_position
-- A position not seen before.
INSERT INTO antiphon_positions (name, seq, updated_ms) VALUES (?, 0, ?) ON CONFLICT (name) DO NOTHING

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
