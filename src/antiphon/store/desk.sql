-- What people ask and do. Events are read with the columns of the read_ blocks in queries.sql and two more.

-- name: views
-- The columns of an event to be shown; a WHERE follows.
SELECT seq, id, type, version, key, service, time_ms, correlation_id, causation_id, traceparent,
       target, request_id, deadline_ms, origin, data,
       (SELECT name FROM antiphon_handlers AS h WHERE h.id = addressee) AS only_for
FROM antiphon_log

-- name: handlers
-- Every partition of every handler.
SELECT * FROM antiphon_handlers ORDER BY name, part

-- name: handler_id
-- The numbers of a handler's partitions.
SELECT id FROM antiphon_handlers WHERE name = ?

-- name: running_handlers
-- The handlers that have an attempt on record as running, with their service.
SELECT DISTINCT name, service FROM antiphon_handlers AS h WHERE EXISTS
    (SELECT 1 FROM antiphon_deliveries AS d WHERE d.handler_id = h.id AND d.status = 'IN_PROGRESS')

-- name: subscriptions
-- What handlers are owed.
SELECT handler_id, type, start_seq FROM antiphon_subscriptions ORDER BY handler_id, type

-- name: count_deliveries
-- Delivery rows by handler and status: the index alone is read.
SELECT handler_id, status, archived IS NOT NULL, count(*) FROM antiphon_deliveries GROUP BY 1, 2, 3

-- name: count_fresh
-- How many events of a type lie after a position, counted up to a limit: the index alone is read.
SELECT count(*) FROM (SELECT 1 FROM antiphon_log WHERE type = ? AND seq > ? LIMIT ?) AS few

-- name: count_owed
-- How many of them a handler is owed (as in read_owed); what tells one partition from the others may follow.
SELECT count(*) FROM antiphon_log AS l WHERE type = ?1 AND seq > ?2
  AND (addressee = (SELECT coalesce(h.first_id, h.id) FROM antiphon_handlers AS h WHERE h.id = ?3) OR addressee IS NULL
  AND (origin <> 2 OR service = (SELECT h.service FROM antiphon_handlers AS h WHERE h.id = ?3))
  AND (target IS NULL OR target = (SELECT h.service FROM antiphon_handlers AS h WHERE h.id = ?3)))

-- name: positions_seen
-- Positions with when they moved.
SELECT name, seq, updated_ms FROM antiphon_positions ORDER BY name

-- name: archive
-- Set aside for good.
UPDATE antiphon_deliveries SET archived = ?
WHERE handler_id = ? AND seq = ? AND status IN ('ERROR', 'FAILED') AND archived IS NULL

-- name: put_act
-- What a person did to a delivery, among its attempts.
INSERT INTO antiphon_attempts (handler_id, seq, number, outcome, message, at_ms) VALUES (?, ?, 0, ?, ?, ?)

-- name: append_for
-- Append an event that one handler alone is owed.
INSERT INTO antiphon_log
    (id, type, version, key, service, time_ms, correlation_id, causation_id, traceparent,
     target, request_id, deadline_ms, origin, data, addressee)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- name: put_redrive
-- A redrive, before its items are counted.
INSERT INTO antiphon_redrives
    (id, state, what, canary, rate, stop_share, stop_after, total, waiting, next_ms, created_ms, updated_ms)
VALUES (?, ?, ?, ?, ?, ?, ?, 0, 0, ?, ?, ?)

-- name: redrives_under_way
-- What the redriver has to do.
SELECT * FROM antiphon_redrives WHERE state IN ('canary', 'running', 'settling') ORDER BY id

-- name: redrive_outcomes
-- Items whose outcome is known by now: no row, it was handled; dead again, it failed.
SELECT i.seq, i.handler_id, d.status IS NOT NULL AS dead
FROM antiphon_redrive_items AS i
LEFT JOIN antiphon_deliveries AS d ON d.handler_id = i.handler_id AND d.seq = i.seq
WHERE i.redrive_id = ? AND i.state = 'sent' AND (d.status IS NULL OR d.status IN ('ERROR', 'FAILED'))
LIMIT ?

-- name: redrive_waiting
-- The next items, in the order of the log.
SELECT i.seq, i.handler_id, l.type FROM antiphon_redrive_items AS i
LEFT JOIN antiphon_log AS l ON l.seq = i.seq
WHERE i.redrive_id = ? AND i.state = 'waiting' ORDER BY i.seq, i.handler_id LIMIT ?

-- name: move_item
-- An item's next state.
UPDATE antiphon_redrive_items SET state = ? WHERE redrive_id = ? AND seq = ? AND handler_id = ?

-- name: move_redrive
-- How far a redrive is.
UPDATE antiphon_redrives
SET state = ?, reason = ?, waiting = ?, succeeded = ?, failed = ?, skipped = ?, next_ms = ?, updated_ms = ?
WHERE id = ?

-- name: window_end
-- Where the next so many events after a position end, up to a bound.
SELECT max(seq) FROM (SELECT seq FROM antiphon_log WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?) AS few

-- name: prune_deliveries
-- Rows of events in a window that are gone.
DELETE FROM antiphon_deliveries
WHERE handler_id = ?1 AND seq > ?2 AND seq <= ?3
  AND NOT EXISTS (SELECT 1 FROM antiphon_log AS l WHERE l.seq = antiphon_deliveries.seq)

-- name: prune_attempts
-- The history of events in a window that are gone.
DELETE FROM antiphon_attempts
WHERE handler_id = ?1 AND seq > ?2 AND seq <= ?3
  AND NOT EXISTS (SELECT 1 FROM antiphon_log AS l WHERE l.seq = antiphon_attempts.seq)

-- name: prune_progress
-- Batches in a window of which no event is left.
DELETE FROM antiphon_progress
WHERE handler_id = ?1 AND seq > ?2 AND seq <= ?3
  AND NOT EXISTS (
      SELECT 1 FROM antiphon_log AS l
      WHERE l.seq <= antiphon_progress.seq AND l.seq > coalesce(
          (SELECT max(p.seq) FROM antiphon_progress AS p WHERE p.handler_id = ?1 AND p.seq < antiphon_progress.seq), 0))

-- name: put_mark
-- The log has come this far by now.
INSERT INTO antiphon_marks (at_ms, seq)
SELECT ?1, ?2 WHERE ?2 > coalesce((SELECT max(seq) FROM antiphon_marks), -1)
ON CONFLICT (at_ms) DO NOTHING

-- name: mark_before
-- What had come by a time for certain: a mark of a clock that had gone wrong is beyond one that was right.
SELECT coalesce(max(seq), 0) FROM antiphon_marks
WHERE at_ms <= ?1 AND seq <= coalesce((SELECT min(seq) FROM antiphon_marks WHERE at_ms > ?1), ?2)

-- name: prune_marks
-- Marks that say no more than a later one.
DELETE FROM antiphon_marks WHERE seq < ?

-- name: sent
-- Up to where the outlet of a service's own store has sent its log, as far as it has noted.
SELECT seq FROM antiphon_positions WHERE name = 'sent'

-- name: prune_idempotency
-- Answers that are too old to be given again.
DELETE FROM antiphon_idempotency WHERE (route, key) IN
    (SELECT route, key FROM antiphon_idempotency WHERE created_ms < ? LIMIT ?)

-- name: old_redrives
-- Redrives that have been over for long.
SELECT id FROM antiphon_redrives WHERE state IN ('done', 'stopped', 'cancelled') AND updated_ms < ?

-- name: prune_items
-- Items of a redrive.
DELETE FROM antiphon_redrive_items WHERE redrive_id = ?1 AND (seq, handler_id) IN
    (SELECT seq, handler_id FROM antiphon_redrive_items WHERE redrive_id = ?1 LIMIT ?2)

-- name: prune_redrive
-- A redrive without items.
DELETE FROM antiphon_redrives WHERE id = ?

-- name: has_delivery
-- Whether the delivery of an event to a handler is not plainly done.
SELECT 1 FROM antiphon_deliveries
WHERE seq = (SELECT seq FROM antiphon_log WHERE id = ?) AND handler_id IN (SELECT id FROM antiphon_handlers WHERE name = ?)

-- name: unneeded_effects
-- Calls that nothing refers to any more.
SELECT event_id, handler, name FROM antiphon_effects AS e
WHERE updated_ms < ? AND NOT EXISTS (SELECT 1 FROM antiphon_log AS l WHERE l.id = e.event_id)
  AND NOT EXISTS (SELECT 1 FROM antiphon_runs AS r WHERE r.id = e.event_id AND r.workflow = e.handler)

-- name: end_effect
-- A call is forgotten.
DELETE FROM antiphon_effects WHERE event_id = ? AND handler = ? AND name = ?

-- name: ids_from
-- An id, if it is one, and some that begin with it; the second mark is what comes after all of these.
SELECT id FROM antiphon_log WHERE id = ?1
UNION
SELECT id FROM (SELECT id FROM antiphon_log WHERE id > ?1 AND id < ?2 ORDER BY id LIMIT 5) AS few

-- name: effects_from
-- The calls to the outside whose key begins with a text: the id of their event, and more of it.
SELECT event_id, handler, name, key, state, calls, result, error, resolution, created_ms, updated_ms
FROM antiphon_effects
WHERE event_id >= ?2 AND event_id < ?3 AND (key = ?1 OR substr(key, 1, length(?1)) = ?1)
ORDER BY key LIMIT 20

-- name: revive
-- Dead no more: due at once, with all of its attempts before it. One that killed its process runs alone again;
-- one whose handler is bound to its type no more stays dead.
UPDATE antiphon_deliveries
SET status = 'UNPROCESSED', attempts = 0, suspect = CASE WHEN crashes > 0 THEN 1 ELSE 0 END, crashes = 0, first_ms = NULL, due_ms = ?,
    reason = NULL, error_type = NULL, message = NULL, traceback = NULL, fingerprint = NULL, updated_ms = ?
WHERE handler_id = ? AND seq = ? AND status IN ('ERROR', 'FAILED') AND archived IS NULL
  AND EXISTS (SELECT 1 FROM antiphon_subscriptions AS s WHERE s.handler_id = antiphon_deliveries.handler_id AND s.type = ?)

-- name: redrive_failing
-- How many have failed since, and are tried again.
SELECT count(*) FROM antiphon_redrive_items AS i
JOIN antiphon_deliveries AS d ON d.handler_id = i.handler_id AND d.seq = i.seq
WHERE i.redrive_id = ? AND i.state = 'sent' AND d.status IN ('RETRY', 'IN_PROGRESS')
  AND (d.crashes > 0 OR d.attempts > CASE d.status WHEN 'IN_PROGRESS' THEN 1 ELSE 0 END)
