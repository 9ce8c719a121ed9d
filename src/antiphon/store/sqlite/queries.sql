-- What SQLite says in its own way, in named blocks: the rest is in the files of the folder above. A part_ is none by itself.

-- name: append
-- Append one event; an id that is there already is skipped.
INSERT INTO antiphon_log
    (id, type, version, key, service, time_ms, correlation_id, causation_id, traceparent,
     target, request_id, deadline_ms, origin, data, bucket)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO NOTHING

-- name: append_plain
-- The same of an event without a trace, target, request or deadline. It costs 1 us less: to bind a NULL is dear.
INSERT INTO antiphon_log (id, type, version, key, service, time_ms, correlation_id, causation_id, origin, data, bucket)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO NOTHING

-- name: append_for
-- Append an event that one handler alone is owed.
INSERT INTO antiphon_log
    (id, type, version, key, service, time_ms, correlation_id, causation_id, traceparent,
     target, request_id, deadline_ms, origin, data, bucket, addressee)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- name: part_bucket
-- Of the log as l: which of 256 buckets an event is in.
l.bucket

-- name: read_owed
-- One type's events after a position, of one partition (those with some low bits of their bucket), without what is
-- addressed to another handler or service, or stays inside another one.
SELECT seq, id, type, version, key, service, time_ms, correlation_id, causation_id, traceparent,
       target, request_id, deadline_ms, origin, data
FROM antiphon_log WHERE type = ?1 AND seq > ?2 AND (?5 = 0 OR bucket & ?5 = ?6)
  AND (addressee = (SELECT coalesce(h.first_id, h.id) FROM antiphon_handlers AS h WHERE h.id = ?3) OR addressee IS NULL
  AND (origin <> 2 OR service = (SELECT h.service FROM antiphon_handlers AS h WHERE h.id = ?3))
  AND (target IS NULL OR target = (SELECT h.service FROM antiphon_handlers AS h WHERE h.id = ?3)))
ORDER BY seq LIMIT ?4

-- name: read_seqs
-- The events of a JSON list of positions.
SELECT seq, id, type, version, key, service, time_ms, correlation_id, causation_id, traceparent,
       target, request_id, deadline_ms, origin, data
FROM antiphon_log WHERE seq IN (SELECT value FROM json_each(?)) ORDER BY seq

-- name: move_cursor
-- Fenced: changes nothing unless the lease is still the handler's.
UPDATE antiphon_handlers
SET strikes = CASE WHEN seq < ?1 THEN 0 ELSE strikes END, seq = max(seq, ?1), handled = handled + ?2,
    failed_invocations = failed_invocations + ?3, updated_ms = ?4
WHERE id = ?5 AND epoch = ?6

-- name: open_keys
-- Which keys have a delivery that is not over; one mark for each. (In JSON, older SQLites cut a text at its NUL.)
SELECT DISTINCT key FROM antiphon_deliveries
WHERE handler_id = ? AND key IN (?)
  AND status IN ('UNPROCESSED', 'IN_PROGRESS', 'RETRY')

-- name: promote_next
-- The first open delivery of a key may run, if it waited behind one that is over now.
UPDATE antiphon_deliveries SET due_ms = ?1
WHERE handler_id = ?2 AND status = 'UNPROCESSED' AND due_ms IS NULL
  AND seq = (SELECT min(seq) FROM antiphon_deliveries INDEXED BY antiphon_deliveries_key
             WHERE handler_id = ?2 AND key = ?3 AND status IN ('UNPROCESSED', 'IN_PROGRESS', 'RETRY'))

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

-- name: put_compensates
-- Whose work a handler undoes, as its code says now.
UPDATE antiphon_handlers SET compensates = ?1 WHERE name = ?2 AND compensates IS NOT ?1

-- name: note_removed
-- Since when services (a JSON list) have no handlers but some (a JSON list).
UPDATE antiphon_handlers
SET removed_ms = CASE WHEN name IN (SELECT value FROM json_each(?1)) THEN NULL ELSE coalesce(removed_ms, ?2) END
WHERE service IN (SELECT value FROM json_each(?3))
  AND EXISTS (SELECT 1 FROM antiphon_subscriptions AS s WHERE s.handler_id = antiphon_handlers.id)

-- name: report_taken
-- A receiver of a bus has come so far.
UPDATE antiphon_handlers SET seq = max(seq, ?), updated_ms = ? WHERE name = ?

-- name: release_running
-- Attempts that a stop of ours interrupted are due at once and have burnt nothing.
UPDATE antiphon_deliveries SET status = 'RETRY', attempts = max(attempts - 1, 0), due_ms = ?, updated_ms = ?
WHERE handler_id = ? AND status = 'IN_PROGRESS'

-- name: suspect_running
-- Attempts that were running when their process died: due at once, to be run alone. One that ran alone is to blame.
UPDATE antiphon_deliveries
SET status = 'RETRY', crashes = crashes + suspect, suspect = 1, attempts = max(attempts - 1, 0), due_ms = ?, updated_ms = ?
WHERE handler_id = ? AND status = 'IN_PROGRESS'

-- name: move_position
-- Positions never go back.
INSERT INTO antiphon_positions (name, seq, updated_ms) VALUES (?, ?, ?)
ON CONFLICT (name) DO UPDATE SET seq = max(seq, excluded.seq), updated_ms = excluded.updated_ms

-- name: arrivals
-- What has arrived of some types for a run: of its correlation, or of its key since it began.
SELECT seq, id, type, version, data, causation_id FROM antiphon_inbox
WHERE correlation_id = ?2 AND workflow = ?1 AND type IN (SELECT value FROM json_each(?5))
UNION
SELECT seq, id, type, version, data, causation_id FROM antiphon_inbox
WHERE key = ?3 AND workflow = ?1 AND type IN (SELECT value FROM json_each(?5)) AND seq > ?4
ORDER BY seq

-- name: oldest_open
-- When the first event was published whose delivery is open.
SELECT time_ms FROM antiphon_log WHERE seq = min(
    coalesce((SELECT min(seq) FROM antiphon_deliveries
              WHERE handler_id = ?1 AND status = 'UNPROCESSED' AND archived IS NULL), 9e18),
    coalesce((SELECT min(seq) FROM antiphon_deliveries
              WHERE handler_id = ?1 AND status = 'IN_PROGRESS' AND archived IS NULL), 9e18),
    coalesce((SELECT min(seq) FROM antiphon_deliveries
              WHERE handler_id = ?1 AND status = 'RETRY' AND archived IS NULL), 9e18))

-- name: deliveries_of
-- For a JSON list of event ids: the handlers that are or were owed them, and how each stands. The receivers of
-- a bus (inlet:service) only pass events on.
SELECT l.id AS event_id, l.seq, l.time_ms, h.id AS handler_id, h.name, h.service, h.seq AS cursor,
       d.status, d.attempts, d.updated_ms, d.due_ms, d.reason, d.archived, h.compensates,
       (SELECT p.at_ms FROM antiphon_progress AS p
         WHERE p.handler_id = CASE WHEN l.seq <= h.split_seq THEN h.first_id ELSE h.id END AND p.seq >= l.seq
         ORDER BY p.seq LIMIT 1) AS passed_ms,
       (SELECT w.id FROM antiphon_deliveries AS e INDEXED BY antiphon_deliveries_key
         JOIN antiphon_log AS w ON w.seq = e.seq
         WHERE e.handler_id = h.id AND e.key = d.key AND e.seq < d.seq AND d.status = 'UNPROCESSED'
           AND e.status IN ('UNPROCESSED', 'IN_PROGRESS', 'RETRY') ORDER BY e.seq LIMIT 1) AS waits_for
FROM antiphon_log AS l CROSS JOIN antiphon_handlers AS h
LEFT JOIN antiphon_subscriptions AS s ON s.handler_id = h.id AND s.type = l.type AND l.seq > s.start_seq
      AND (l.addressee = coalesce(h.first_id, h.id) OR l.addressee IS NULL AND (l.origin <> 2 OR l.service = h.service)
           AND (l.target IS NULL OR l.target = h.service))
      AND l.bucket & (h.parts - 1) = h.part
LEFT JOIN antiphon_deliveries AS d ON d.handler_id = h.id AND d.seq = l.seq
WHERE l.id IN (SELECT value FROM json_each(?)) AND (s.type IS NOT NULL OR d.seq IS NOT NULL)
  AND h.name NOT GLOB 'inlet:*'
ORDER BY l.seq, h.name

-- name: history
-- For a JSON list of positions: every attempt on record, in order.
SELECT a.handler_id, a.seq, a.number, a.outcome, a.at_ms, a.error_type, a.message, a.traceback
FROM json_each(?) AS wanted CROSS JOIN antiphon_handlers AS h
CROSS JOIN antiphon_attempts AS a INDEXED BY antiphon_attempts_delivery
    ON a.handler_id = h.id AND a.seq = wanted.value
ORDER BY a.id

-- name: part_unneeded
-- Of the log as l: what no handler is owed any more, and no delivery that matters refers to. A condition.
NOT EXISTS (
    SELECT 1 FROM antiphon_subscriptions AS s CROSS JOIN antiphon_handlers AS h ON h.id = s.handler_id
    WHERE s.type = l.type AND l.seq > max(h.seq, s.start_seq) AND l.bucket & (h.parts - 1) = h.part
      AND (l.addressee = coalesce(h.first_id, h.id) OR l.addressee IS NULL AND (l.origin <> 2 OR l.service = h.service)
           AND (l.target IS NULL OR l.target = h.service)))
AND NOT EXISTS (
    SELECT 1 FROM antiphon_handlers AS h CROSS JOIN antiphon_deliveries AS d ON d.handler_id = h.id AND d.seq = l.seq
    WHERE d.archived IS NULL)

-- name: next_runs
-- So many numbers that no run has.
WITH RECURSIVE some (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM some WHERE n < ?)
SELECT (SELECT coalesce(max(nr), 0) FROM antiphon_runs) + n FROM some

-- name: end_subscriptions
-- The handler is owed no more types than those of a JSON list.
DELETE FROM antiphon_subscriptions WHERE handler_id = ? AND type NOT IN (SELECT value FROM json_each(?))

-- name: part_dead_groups
-- Dead letters (the letters) by failure, the most frequent first.
SELECT failure, size, names, first_ms, last_ms,
       (SELECT id FROM antiphon_log AS l WHERE l.seq = newest) AS example
FROM (SELECT coalesce(fingerprint, '{none} ' || reason) AS failure, count(*) AS size,
             json_group_array(DISTINCT name) AS names, min(updated_ms) AS first_ms, max(updated_ms) AS last_ms,
             max(seq) AS newest
      FROM ({letters}) AS found GROUP BY failure) AS grouped
ORDER BY size DESC, failure LIMIT ?

-- name: part_data_text
-- The data of an event as text.
CAST(l.data AS TEXT)

-- name: part_contains
-- Whether the text contains another, whatever the case of their letters.
instr(lower({text}), lower(?))

-- name: part_state_contains
-- Whether what a run shows of itself contains a text.
instr(CAST(user_state AS TEXT), ?) > 0

-- name: part_of_ids
-- Runs of a JSON list of ids.
WHERE id IN (SELECT value FROM json_each(?)) ORDER BY nr

-- name: take_turn
-- A partition of a handler, which nobody else changes until the transaction ends.
SELECT * FROM antiphon_handlers WHERE name = ? AND part = ?

-- name: take_redrives
-- The redrives under way, which nobody else moves on until the transaction ends.
SELECT id FROM antiphon_redrives WHERE state IN ('canary', 'running', 'settling')

-- name: take_redrive
-- A redrive, which nobody else moves on until the transaction ends.
SELECT * FROM antiphon_redrives WHERE id = ?

-- name: dead_letters
-- Dead letters; an AND follows.
SELECT l.id, l.seq, l.type, l.version, l.key, h.name, h.service, d.status, d.reason, d.error_type, d.message,
       d.fingerprint, d.attempts, l.time_ms, d.updated_ms, d.archived, d.handler_id, d.traceback,
       coalesce(h.first_id, h.id) AS first_id
FROM antiphon_deliveries AS d
CROSS JOIN antiphon_handlers AS h ON h.id = d.handler_id
CROSS JOIN antiphon_log AS l ON l.seq = d.seq
WHERE d.status IN ('ERROR', 'FAILED')

-- name: dead_letters_of
-- Those of one event.
SELECT l.id, l.seq, l.type, l.version, l.key, h.name, h.service, d.status, d.reason, d.error_type, d.message,
       d.fingerprint, d.attempts, l.time_ms, d.updated_ms, d.archived, d.handler_id, d.traceback,
       coalesce(h.first_id, h.id) AS first_id
FROM antiphon_log AS l
CROSS JOIN antiphon_handlers AS h
JOIN antiphon_deliveries AS d ON d.handler_id = h.id AND d.seq = l.seq
WHERE l.id = ? AND d.status IN ('ERROR', 'FAILED') ORDER BY h.name
