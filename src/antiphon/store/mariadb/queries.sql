-- What MariaDB says in its own way, in named blocks: the rest is in the files of the folder above, and in that of what
-- is served. A part_ is none by itself.

-- name: draw_positions
-- So many positions, and the note of this transaction. Until the commit nobody else draws any: they become visible in
-- order. The newest of them is what the statement gives as its last id.
UPDATE antiphon_head AS h, antiphon_commits AS c SET h.seq = last_insert_id(h.seq + ?1), c.nr = ?2, c.at_ms = ?3
WHERE h.name = 'log' AND c.slot = ?4

-- name: draw_more
-- The same in a transaction that has its note, or makes it later.
UPDATE antiphon_head SET seq = last_insert_id(seq + ?) WHERE name = 'log'

-- name: note_commit
-- The note of a transaction that appends nothing.
UPDATE antiphon_commits SET nr = ?, at_ms = ? WHERE slot = ?

-- name: put_slot
-- A connection's place for its notes.
INSERT INTO antiphon_commits (slot, owner, nr, at_ms) VALUES (?1, ?2, ?3, ?4)
ON CONFLICT (slot) DO UPDATE SET nr = excluded.nr, at_ms = excluded.at_ms

-- name: forget_slots
-- Those of a process that ends, and what others have left long ago.
DELETE FROM antiphon_commits WHERE owner = ? OR at_ms < ?

-- name: doubt
-- A connection's last transaction that was kept. Waits for one that is still under way.
SELECT nr FROM antiphon_commits WHERE slot = ? FOR UPDATE

-- name: reach_disk
-- Its commit is on the disk when it is answered, and with it all that came before.
UPDATE antiphon_workers SET touched = touched + 1 WHERE owner = ?

-- name: log_head
-- How far the log has come.
SELECT seq FROM antiphon_head WHERE name = 'log'

-- name: lock_register
-- Until the commit nobody else registers handlers.
SELECT seq FROM antiphon_head WHERE name = 'register' FOR UPDATE

-- name: part_bucket
-- Of the log as l: which of 256 buckets an event is in.
l.bucket

-- name: read_owed_of
-- The next events of one type after a position that a handler is owed, of one partition (those with some low bits of
-- their bucket): without what is addressed to another handler or service, or stays inside one.
SELECT l.seq, l.id, l.type, l.version, l.key, l.service, l.time_ms, l.correlation_id, l.causation_id, l.traceparent,
       l.target, l.request_id, l.deadline_ms, l.origin, l.data
FROM antiphon_handlers AS h STRAIGHT_JOIN antiphon_log AS l FORCE INDEX (antiphon_log_type)
WHERE h.id = ? AND l.type = ? AND l.seq > ? AND l.bucket & ? = ?
  AND (l.addressee = coalesce(h.first_id, h.id) OR l.addressee IS NULL AND (l.origin <> 2 OR l.service = h.service)
       AND (l.target IS NULL OR l.target = h.service))
ORDER BY l.seq LIMIT ?

-- name: part_owed_seqs
-- The positions of one of several types, in the same way.
(SELECT l.seq FROM antiphon_handlers AS h STRAIGHT_JOIN antiphon_log AS l FORCE INDEX (antiphon_log_type)
 WHERE h.id = ? AND l.type = ? AND l.seq > ? AND l.bucket & ? = ?
   AND (l.addressee = coalesce(h.first_id, h.id) OR l.addressee IS NULL AND (l.origin <> 2 OR l.service = h.service)
        AND (l.target IS NULL OR l.target = h.service))
 ORDER BY l.seq LIMIT ?)

-- name: part_type_seqs
-- The positions of one type after one.
(SELECT l.seq FROM antiphon_log AS l FORCE INDEX (antiphon_log_type) WHERE l.type = ? AND l.seq > ? ORDER BY l.seq LIMIT ?)

-- name: part_at_seqs
-- The events at the next of these positions: one statement, so all as of one moment.
SELECT l.seq, l.id, l.type, l.version, l.key, l.service, l.time_ms, l.correlation_id, l.causation_id, l.traceparent,
       l.target, l.request_id, l.deadline_ms, l.origin, l.data
FROM ({found} ORDER BY seq LIMIT ?) AS found STRAIGHT_JOIN antiphon_log AS l ON l.seq = found.seq ORDER BY l.seq

-- name: read_seqs
-- The events of a JSON list of positions.
SELECT seq, id, type, version, key, service, time_ms, correlation_id, causation_id, traceparent,
       target, request_id, deadline_ms, origin, data
FROM antiphon_log WHERE seq IN (SELECT value FROM json_table(?, '$[*]' COLUMNS (value BIGINT PATH '$')) AS wanted)
ORDER BY seq

-- name: part_open_keys
-- Which of some keys have a delivery that is not over; a digest and a key each.
SELECT DISTINCT d.key FROM antiphon_deliveries AS d FORCE INDEX (antiphon_deliveries_key)
WHERE d.handler_id = ? AND d.open_key IN ({digests}) AND d.key IN ({keys})

-- name: promote_next
-- The first open delivery of a key may run, if it waited behind one that is over now.
UPDATE antiphon_deliveries SET due_ms = ?1
WHERE handler_id = ?2 AND status = 'UNPROCESSED' AND due_ms IS NULL
  AND seq = (SELECT first FROM (SELECT min(e.seq) AS first FROM antiphon_deliveries AS e
             WHERE e.handler_id = ?2 AND e.open_key = unhex(md5(?3)) AND e.key = ?3) AS found)

-- name: due_deliveries
-- Deliveries whose time has come, earliest first; of a key only the first one that is open, and none while
-- one runs (a later one may, when an earlier one is redriven).
SELECT d.seq, d.status, d.attempts, d.crashes, d.suspect, d.first_ms, d.key
FROM antiphon_deliveries AS d FORCE INDEX (antiphon_deliveries_due)
WHERE d.handler_id = ?1 AND d.waiting_ms <= ?2
  AND (d.key IS NULL OR (
       NOT EXISTS (
           SELECT 1 FROM antiphon_deliveries AS earlier
           WHERE earlier.handler_id = ?1 AND earlier.open_key = d.open_key AND earlier.key = d.key
             AND earlier.seq < d.seq)
       AND NOT EXISTS (
           SELECT 1 FROM antiphon_deliveries AS running
           WHERE running.handler_id = ?1 AND running.open_key = d.open_key AND running.key = d.key
             AND running.status = 'IN_PROGRESS')))
ORDER BY d.waiting_ms, d.seq LIMIT ?3

-- name: due_in_lane
-- The same, of one lane.
SELECT d.seq, d.status, d.attempts, d.crashes, d.suspect, d.first_ms, d.key
FROM antiphon_deliveries AS d FORCE INDEX (antiphon_deliveries_lane)
WHERE d.handler_id = ?1 AND d.lane = ?4 AND d.waiting_ms <= ?2
  AND (d.key IS NULL OR (
       NOT EXISTS (
           SELECT 1 FROM antiphon_deliveries AS earlier
           WHERE earlier.handler_id = ?1 AND earlier.open_key = d.open_key AND earlier.key = d.key
             AND earlier.seq < d.seq)
       AND NOT EXISTS (
           SELECT 1 FROM antiphon_deliveries AS running
           WHERE running.handler_id = ?1 AND running.open_key = d.open_key AND running.key = d.key
             AND running.status = 'IN_PROGRESS')))
ORDER BY d.waiting_ms, d.seq LIMIT ?3

-- name: next_due
-- When the earliest delivery is due that waits for nothing but its time (as in due_deliveries).
SELECT d.waiting_ms FROM antiphon_deliveries AS d FORCE INDEX (antiphon_deliveries_due)
WHERE d.handler_id = ?1 AND d.waiting_ms IS NOT NULL
  AND (d.key IS NULL OR (
       NOT EXISTS (
           SELECT 1 FROM antiphon_deliveries AS earlier
           WHERE earlier.handler_id = ?1 AND earlier.open_key = d.open_key AND earlier.key = d.key
             AND earlier.seq < d.seq)
       AND NOT EXISTS (
           SELECT 1 FROM antiphon_deliveries AS running
           WHERE running.handler_id = ?1 AND running.open_key = d.open_key AND running.key = d.key
             AND running.status = 'IN_PROGRESS')))
ORDER BY d.waiting_ms LIMIT 1

-- name: following_deliveries
-- The open deliveries of a key after one, in order.
SELECT seq, status, attempts, crashes, suspect, first_ms, key FROM antiphon_deliveries
WHERE handler_id = ?1 AND open_key = unhex(md5(?2)) AND key = ?2 AND seq > ?3
ORDER BY seq LIMIT ?4

-- name: lanes
-- The lanes from one on in which something waits for its time or its turn: a step of the index each.
SELECT DISTINCT lane FROM antiphon_deliveries FORCE INDEX (antiphon_deliveries_lane)
WHERE handler_id = ?1 AND lane >= ?2 AND waiting_ms IS NOT NULL ORDER BY lane LIMIT ?3

-- name: count_deliveries
-- Delivery rows by handler and status.
SELECT handler_id, status, archived IS NOT NULL AS is_archived, count(*) FROM antiphon_deliveries
GROUP BY handler_id, status, is_archived

-- name: put_timer
-- An event, or a schedule, that waits for its time.
INSERT INTO antiphon_timers
    (id, due_ms, clock, recurrence, type, version, key, service, correlation_id, causation_id, traceparent,
     target, request_id, deadline_ms, origin, data, created_ms)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET
    due_ms = CASE WHEN antiphon_timers.recurrence <=> excluded.recurrence THEN antiphon_timers.due_ms ELSE excluded.due_ms END,
    clock = excluded.clock, recurrence = excluded.recurrence, type = excluded.type, version = excluded.version,
    key = excluded.key, service = excluded.service, data = excluded.data

-- name: put_compensates
-- Whose work a handler undoes, as its code says now.
UPDATE antiphon_handlers SET compensates = ?1 WHERE name = ?2 AND NOT (compensates <=> ?1)

-- name: note_removed
-- Since when services (a JSON list) have no handlers but some (a JSON list).
UPDATE antiphon_handlers AS h
JOIN json_table(?3, '$[*]' COLUMNS (service VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin PATH '$')) AS their
     ON their.service = h.service
LEFT JOIN json_table(?1, '$[*]' COLUMNS (name VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin PATH '$')) AS known
     ON known.name = h.name
SET h.removed_ms = CASE WHEN known.name IS NOT NULL THEN NULL ELSE coalesce(h.removed_ms, ?2) END
WHERE EXISTS (SELECT 1 FROM antiphon_subscriptions AS s WHERE s.handler_id = h.id)
  AND (h.removed_ms IS NULL) <> (known.name IS NOT NULL)

-- name: move_position
-- Positions never go back.
INSERT INTO antiphon_positions (name, seq, updated_ms) VALUES (?, ?, ?)
ON CONFLICT (name) DO UPDATE SET seq = greatest(antiphon_positions.seq, excluded.seq), updated_ms = excluded.updated_ms

-- name: put_mark
-- The log has come this far by now.
INSERT INTO antiphon_marks (at_ms, seq)
SELECT ?1, ?2 FROM dual WHERE ?2 > coalesce((SELECT max(seq) FROM antiphon_marks), -1)
ON CONFLICT (at_ms) DO NOTHING

-- name: arrivals
-- What has arrived of some types for a run: of its correlation, or of its key since it began.
SELECT seq, id, type, version, data, causation_id FROM antiphon_inbox
WHERE workflow = ?1 AND (correlation_id = ?2 OR any_key = unhex(md5(?3)) AND key = ?3 AND seq > ?4)
  AND type IN (SELECT value FROM json_table(?5, '$[*]' COLUMNS (value VARCHAR(300) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin PATH '$')) AS wanted)
ORDER BY seq

-- name: live_run
-- The live run of a key.
SELECT id FROM antiphon_runs WHERE workflow = ?1 AND live_key = unhex(md5(?2)) AND key = ?2

-- name: known_runs
-- Where an event lies in the log; the run of an id, ended or not; the live run of a key.
SELECT seq, NULL, 2 FROM antiphon_log WHERE id = ?4
UNION ALL
SELECT NULL, id, 0 FROM antiphon_runs WHERE id = ?3 AND workflow = ?1
UNION ALL
SELECT NULL, id, 1 FROM antiphon_runs WHERE workflow = ?1 AND live_key = unhex(md5(?2)) AND key = ?2

-- name: newest_run
-- The run of a key that began last.
SELECT id FROM antiphon_runs WHERE any_key = unhex(md5(?2)) AND key = ?2 AND workflow = ?1 ORDER BY nr DESC LIMIT 1

-- name: awaiting_runs
-- The live runs that an event may be awaited by: of its key, or of its correlation.
SELECT id, order_key, correlation_id FROM antiphon_runs
WHERE workflow = ?1 AND live_key = unhex(md5(?2)) AND key = ?2
UNION
SELECT id, order_key, correlation_id FROM antiphon_runs WHERE correlation_id = ?3 AND workflow = ?1
  AND live_key IS NOT NULL

-- name: insert_run
-- A run that has no row yet.
INSERT INTO antiphon_runs
    (nr, id, workflow, key, order_key, version, state, rev, correlation_id, parent, start_seq, start_type, start_version,
     start_data, shape, waiting, due_ms, user_state, result, error, cancelled, started_ms, updated_ms)
VALUES (nextval(antiphon_run_numbers), ?, ?, ?, ?, ?, ?, 1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
RETURNING nr

-- name: next_runs
-- So many numbers that no run has.
WITH RECURSIVE some (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM some WHERE n < ?)
SELECT nextval(antiphon_run_numbers) FROM some

-- name: prune_journals
-- What runs have done that ended before a time; some of them.
DELETE FROM antiphon_journal WHERE run IN (SELECT nr FROM (SELECT nr FROM antiphon_runs
    WHERE state IN ('COMPLETED', 'COMPENSATED', 'FAILED', 'CANCELLED') AND updated_ms < ?1 ORDER BY nr LIMIT ?2) AS few)

-- name: prune_runs
-- Those runs.
DELETE FROM antiphon_runs
WHERE state IN ('COMPLETED', 'COMPENSATED', 'FAILED', 'CANCELLED') AND updated_ms < ?1 ORDER BY nr LIMIT ?2

-- name: prune_inbox
-- What arrived before a time and no live run can take any more; some of it.
DELETE FROM antiphon_inbox WHERE (workflow, seq) IN (SELECT workflow, seq FROM (
    SELECT i.workflow, i.seq FROM antiphon_inbox AS i WHERE i.at_ms < ?1
       AND NOT EXISTS (SELECT 1 FROM antiphon_runs AS r WHERE r.workflow = i.workflow AND r.live_key = i.any_key
                       AND r.key = i.key)
       AND NOT EXISTS (SELECT 1 FROM antiphon_runs AS r
                       WHERE r.correlation_id = i.correlation_id AND r.workflow = i.workflow AND r.live_key IS NOT NULL)
       AND NOT EXISTS (SELECT 1 FROM antiphon_runs AS r WHERE r.id = i.correlation_id AND r.workflow = i.workflow
                       AND r.live_key IS NOT NULL)
    LIMIT ?2) AS few)

-- name: prune_idempotency
-- Answers that are too old to be given again.
DELETE FROM antiphon_idempotency WHERE created_ms < ? LIMIT ?

-- name: prune_items
-- Items of a redrive.
DELETE FROM antiphon_redrive_items WHERE redrive_id = ?1 LIMIT ?2

-- name: deliveries_of
-- For a JSON list of event ids: the handlers that are or were owed them, and how each stands. The receivers of
-- a bus (inlet:service) only pass events on.
SELECT l.id AS event_id, l.seq, l.time_ms, h.id AS handler_id, h.name, h.service, h.seq AS cursor,
       d.status, d.attempts, d.updated_ms, d.due_ms, d.reason, d.archived, h.compensates,
       (SELECT p.at_ms FROM antiphon_progress AS p
         WHERE p.handler_id = CASE WHEN l.seq <= h.split_seq THEN h.first_id ELSE h.id END AND p.seq >= l.seq
         ORDER BY p.seq LIMIT 1) AS passed_ms,
       (SELECT w.id FROM antiphon_deliveries AS e JOIN antiphon_log AS w ON w.seq = e.seq
         WHERE e.handler_id = h.id AND e.open_key = d.open_key AND e.key = d.key
           AND e.seq < d.seq AND d.status = 'UNPROCESSED' ORDER BY e.seq LIMIT 1) AS waits_for
FROM antiphon_log AS l CROSS JOIN antiphon_handlers AS h
LEFT JOIN antiphon_subscriptions AS s ON s.handler_id = h.id AND s.type = l.type AND l.seq > s.start_seq
      AND (l.addressee = coalesce(h.first_id, h.id) OR l.addressee IS NULL AND (l.origin <> 2 OR l.service = h.service)
           AND (l.target IS NULL OR l.target = h.service))
      AND l.bucket & (h.parts - 1) = h.part
LEFT JOIN antiphon_deliveries AS d ON d.handler_id = h.id AND d.seq = l.seq
WHERE l.id IN (SELECT value FROM json_table(?, '$[*]' COLUMNS (value VARCHAR(500) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin PATH '$')) AS wanted)
  AND (s.type IS NOT NULL OR d.seq IS NOT NULL)
  AND h.name NOT LIKE 'inlet:%'
ORDER BY l.seq, h.name

-- name: history
-- For a JSON list of positions: every attempt on record, in order.
SELECT a.handler_id, a.seq, a.number, a.outcome, a.at_ms, a.error_type, a.message, a.traceback
FROM antiphon_attempts AS a
WHERE a.seq IN (SELECT value FROM json_table(?, '$[*]' COLUMNS (value BIGINT PATH '$')) AS wanted)
ORDER BY a.id

-- name: part_unneeded
-- Of the log as l: what no handler is owed any more, and no delivery that matters refers to. A condition.
NOT EXISTS (
    SELECT 1 FROM antiphon_subscriptions AS s JOIN antiphon_handlers AS h ON h.id = s.handler_id
    WHERE s.type = l.type AND l.seq > greatest(h.seq, s.start_seq) AND l.bucket & (h.parts - 1) = h.part
      AND (l.addressee = coalesce(h.first_id, h.id) OR l.addressee IS NULL AND (l.origin <> 2 OR l.service = h.service)
           AND (l.target IS NULL OR l.target = h.service)))
AND NOT EXISTS (SELECT 1 FROM antiphon_deliveries AS d WHERE d.seq = l.seq AND d.archived IS NULL)

-- name: end_subscriptions
-- The handler is owed no more types than those of a JSON list.
DELETE FROM antiphon_subscriptions WHERE handler_id = ? AND type NOT IN (SELECT value FROM
    json_table(?, '$[*]' COLUMNS (value VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin PATH '$')) AS wanted)

-- name: part_dead_groups
-- Dead letters (the letters) by failure, the most frequent first.
SELECT failure, size, names, first_ms, last_ms,
       (SELECT id FROM antiphon_log AS l WHERE l.seq = newest) AS example
FROM (SELECT coalesce(fingerprint, '{none} ' || reason) AS failure, count(*) AS size,
             json_arrayagg(DISTINCT name) AS names, min(updated_ms) AS first_ms, max(updated_ms) AS last_ms,
             max(seq) AS newest
      FROM ({letters}) AS found GROUP BY failure) AS grouped
ORDER BY size DESC, failure LIMIT ?

-- name: part_data_text
-- The data of an event as text.
convert(l.data USING utf8mb4)

-- name: part_contains
-- Whether the text contains another, whatever the case of their letters.
instr(lower({text}), lower(?)) > 0

-- name: part_state_contains
-- Whether what a run shows of itself contains a text.
instr(convert(user_state USING utf8mb4), ?) > 0

-- name: part_of_ids
-- Runs of a JSON list of ids.
WHERE id IN (SELECT value FROM json_table(?, '$[*]' COLUMNS (value VARCHAR(500) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin PATH '$')) AS wanted)
ORDER BY nr

-- name: glance
-- The server's clock and how far the log has come.
SELECT cast(unix_timestamp(sysdate(3)) * 1000 AS SIGNED), (SELECT seq FROM antiphon_head WHERE name = 'log')

-- name: live_workers
-- The workers that live, and their services.
SELECT owner, services FROM antiphon_workers WHERE is_used_lock(lock_name) IS NOT NULL

-- name: holds_lease
-- Whether a handler's lease is still the one that is meant; until the commit it stays so.
SELECT 1 FROM antiphon_handlers WHERE id = ? AND epoch = ? FOR UPDATE

-- name: put_worker
-- A process has this open now.
INSERT INTO antiphon_workers (owner, lock_name, services) VALUES (?, ?, ?)
ON CONFLICT (owner) DO UPDATE SET lock_name = excluded.lock_name, services = excluded.services

-- name: effects_from
-- The calls to the outside whose key begins with a text: the id of their event, and more of it.
SELECT event_id, handler, name, key, state, calls, result, error, resolution, created_ms, updated_ms
FROM antiphon_effects
WHERE event_id >= ?2 AND event_id < ?3 AND left(key, char_length(?1)) = ?1
ORDER BY key LIMIT 20

-- name: dead_letters
-- Dead letters; an AND follows.
SELECT l.id, l.seq, l.type, l.version, l.key, h.name, h.service, d.status, d.reason, d.error_type, d.message,
       d.fingerprint, d.attempts, l.time_ms, d.updated_ms, d.archived, d.handler_id, d.traceback,
       coalesce(h.first_id, h.id) AS first_id
FROM antiphon_deliveries AS d
JOIN antiphon_handlers AS h ON h.id = d.handler_id
JOIN antiphon_log AS l ON l.seq = d.seq
WHERE d.died_ms IS NOT NULL
