-- What PostgreSQL says in its own way, in named blocks: the rest is in the files of the folder above, and in that of what
-- is served. A part_ is none by itself.

-- name: lock_log
-- Until the commit nobody else appends: positions become visible in order. (Here and below: who has what others wait
-- for, and then says nothing for as long as a lease lasts, stands still, or is gone without a word, and loses it.)
SELECT set_config('idle_in_transaction_session_timeout', '15s', true), pg_advisory_xact_lock($1)

-- name: append
-- Append events, a column each; an id that is there already is skipped.
INSERT INTO antiphon_log
    (id, type, version, key, service, time_ms, correlation_id, causation_id, traceparent,
     target, request_id, deadline_ms, origin, data, addressee)
SELECT id, type, version, key, service, time_ms, correlation_id, causation_id, traceparent,
       target, request_id, deadline_ms, origin, data, addressee
FROM unnest($1::text[], $2::text[], $3::int[], $4::text[], $5::text[], $6::bigint[], $7::text[], $8::text[], $9::text[],
            $10::text[], $11::text[], $12::bigint[], $13::smallint[], $14::bytea[], $15::bigint[])
     WITH ORDINALITY AS new (id, type, version, key, service, time_ms, correlation_id, causation_id, traceparent,
                             target, request_id, deadline_ms, origin, data, addressee, nr)
ORDER BY nr
ON CONFLICT (id) DO NOTHING

-- name: part_bucket
-- Of the log as l: which of 256 buckets an event is in.
antiphon_bucket(l.key, l.id)

-- name: read_types
-- The next events of each type after its position: each is served by the index at any depth of backlog.
SELECT l.* FROM unnest(?1::text[], ?2::bigint[]) AS wanted (type, seq) CROSS JOIN LATERAL (
    SELECT l.seq, l.id, l.type, l.version, l.key, l.service, l.time_ms, l.correlation_id, l.causation_id, l.traceparent,
       l.target, l.request_id, l.deadline_ms, l.origin, l.data
    FROM antiphon_log AS l WHERE l.type = wanted.type AND l.seq > wanted.seq ORDER BY l.seq LIMIT ?3) AS l
ORDER BY l.seq LIMIT ?3

-- name: read_owed
-- The same after one position, of one partition (those with some low bits of their bucket), without what is addressed
-- to another handler or service, or stays inside one.
SELECT l.* FROM antiphon_handlers AS h CROSS JOIN unnest(?1::text[]) AS wanted (type) CROSS JOIN LATERAL (
    SELECT l.seq, l.id, l.type, l.version, l.key, l.service, l.time_ms, l.correlation_id, l.causation_id, l.traceparent,
       l.target, l.request_id, l.deadline_ms, l.origin, l.data
    FROM antiphon_log AS l WHERE l.type = wanted.type AND l.seq > ?2
      AND (l.addressee = coalesce(h.first_id, h.id) OR l.addressee IS NULL AND (l.origin <> 2 OR l.service = h.service)
           AND (l.target IS NULL OR l.target = h.service))
      AND (?5::int = 0 OR antiphon_bucket(l.key, l.id) & ?5::int = ?6::int)
    ORDER BY l.seq LIMIT ?4) AS l
WHERE h.id = ?3 ORDER BY l.seq LIMIT ?4

-- name: read_seqs
-- The events of a JSON list of positions.
SELECT seq, id, type, version, key, service, time_ms, correlation_id, causation_id, traceparent,
       target, request_id, deadline_ms, origin, data
FROM antiphon_log WHERE seq IN (SELECT value::bigint FROM json_array_elements_text(?::json)) ORDER BY seq

-- name: move_cursor_on
-- The same, with a note of when everything up to here was settled.
WITH moved AS (UPDATE antiphon_handlers
    SET strikes = CASE WHEN seq < ?1 THEN 0 ELSE strikes END, seq = greatest(seq, ?1), handled = handled + ?2,
        failed_invocations = failed_invocations + ?3, updated_ms = ?4
    WHERE id = ?5 AND epoch = ?6
    RETURNING id, set_config('idle_in_transaction_session_timeout', '15s', true))
INSERT INTO antiphon_progress (handler_id, seq, at_ms) SELECT id, ?1, ?4 FROM moved
ON CONFLICT (handler_id, seq) DO UPDATE SET at_ms = excluded.at_ms

-- name: open_keys
-- Which of some keys have a delivery that is not over.
SELECT DISTINCT key FROM antiphon_deliveries
WHERE handler_id = ?1 AND hashtextextended(key, 0) IN (SELECT hashtextextended(wanted, 0) FROM unnest(?2::text[]) AS wanted)
  AND key = ANY (?2::text[]) AND status IN ('UNPROCESSED', 'IN_PROGRESS', 'RETRY')

-- name: promote_next
-- The first open delivery of a key may run, if it waited behind one that is over now.
UPDATE antiphon_deliveries SET due_ms = ?1
WHERE handler_id = ?2 AND status = 'UNPROCESSED' AND due_ms IS NULL
  AND seq = (SELECT min(seq) FROM antiphon_deliveries
             WHERE handler_id = ?2 AND hashtextextended(key, 0) = hashtextextended(?3, 0) AND key = ?3
               AND status IN ('UNPROCESSED', 'IN_PROGRESS', 'RETRY'))

-- name: due_deliveries
-- Deliveries whose time has come, earliest first; of a key only the first one that is open, and none while
-- one runs (a later one may, when an earlier one is redriven).
SELECT d.seq, d.status, d.attempts, d.crashes, d.suspect, d.first_ms, d.key
FROM antiphon_deliveries AS d
WHERE d.handler_id = ?1 AND d.status IN ('UNPROCESSED', 'RETRY') AND d.due_ms IS NOT NULL AND d.due_ms <= ?2
  AND (d.key IS NULL OR (
       NOT EXISTS (
           SELECT 1 FROM antiphon_deliveries AS earlier
           WHERE earlier.handler_id = ?1 AND hashtextextended(earlier.key, 0) = hashtextextended(d.key, 0)
             AND earlier.key = d.key AND earlier.seq < d.seq
             AND earlier.status IN ('UNPROCESSED', 'IN_PROGRESS', 'RETRY'))
       AND NOT EXISTS (
           SELECT 1 FROM antiphon_deliveries AS running
           WHERE running.handler_id = ?1 AND hashtextextended(running.key, 0) = hashtextextended(d.key, 0)
             AND running.status = 'IN_PROGRESS' AND running.key = d.key)))
ORDER BY d.due_ms, d.seq LIMIT ?3

-- name: due_in_lane
-- The same, of one lane.
SELECT d.seq, d.status, d.attempts, d.crashes, d.suspect, d.first_ms, d.key
FROM antiphon_deliveries AS d
WHERE d.handler_id = ?1 AND d.lane = ?4 AND d.status IN ('UNPROCESSED', 'RETRY') AND d.due_ms IS NOT NULL AND d.due_ms <= ?2
  AND (d.key IS NULL OR (
       NOT EXISTS (
           SELECT 1 FROM antiphon_deliveries AS earlier
           WHERE earlier.handler_id = ?1 AND hashtextextended(earlier.key, 0) = hashtextextended(d.key, 0)
             AND earlier.key = d.key AND earlier.seq < d.seq
             AND earlier.status IN ('UNPROCESSED', 'IN_PROGRESS', 'RETRY'))
       AND NOT EXISTS (
           SELECT 1 FROM antiphon_deliveries AS running
           WHERE running.handler_id = ?1 AND hashtextextended(running.key, 0) = hashtextextended(d.key, 0)
             AND running.status = 'IN_PROGRESS' AND running.key = d.key)))
ORDER BY d.due_ms, d.seq LIMIT ?3

-- name: next_due
-- When the earliest delivery is due that waits for nothing but its time (as in due_deliveries).
SELECT d.due_ms FROM antiphon_deliveries AS d
WHERE d.handler_id = ?1 AND d.status IN ('UNPROCESSED', 'RETRY') AND d.due_ms IS NOT NULL
  AND (d.key IS NULL OR (
       NOT EXISTS (
           SELECT 1 FROM antiphon_deliveries AS earlier
           WHERE earlier.handler_id = ?1 AND hashtextextended(earlier.key, 0) = hashtextextended(d.key, 0)
             AND earlier.key = d.key AND earlier.seq < d.seq
             AND earlier.status IN ('UNPROCESSED', 'IN_PROGRESS', 'RETRY'))
       AND NOT EXISTS (
           SELECT 1 FROM antiphon_deliveries AS running
           WHERE running.handler_id = ?1 AND hashtextextended(running.key, 0) = hashtextextended(d.key, 0)
             AND running.status = 'IN_PROGRESS' AND running.key = d.key)))
ORDER BY d.due_ms LIMIT 1

-- name: following_deliveries
-- The open deliveries of a key after one, in order.
SELECT seq, status, attempts, crashes, suspect, first_ms, key FROM antiphon_deliveries
WHERE handler_id = ?1 AND hashtextextended(key, 0) = hashtextextended(?2, 0) AND key = ?2 AND seq > ?3
  AND status IN ('UNPROCESSED', 'IN_PROGRESS', 'RETRY')
ORDER BY seq LIMIT ?4

-- name: lanes
-- The lanes from one on in which something waits for its time or its turn: a step of the index each.
WITH RECURSIVE found (lane) AS (
    SELECT (SELECT min(lane) FROM antiphon_deliveries
            WHERE handler_id = ?1 AND lane >= ?2 AND status IN ('UNPROCESSED', 'RETRY') AND due_ms IS NOT NULL)
    UNION ALL
    SELECT (SELECT min(d.lane) FROM antiphon_deliveries AS d
            WHERE d.handler_id = ?1 AND d.lane > found.lane AND d.status IN ('UNPROCESSED', 'RETRY')
              AND d.due_ms IS NOT NULL)
    FROM found WHERE found.lane IS NOT NULL)
SELECT lane FROM found WHERE lane IS NOT NULL LIMIT ?3

-- name: put_timer
-- An event, or a schedule, that waits for its time.
INSERT INTO antiphon_timers AS t
    (id, due_ms, clock, recurrence, type, version, key, service, correlation_id, causation_id, traceparent,
     target, request_id, deadline_ms, origin, data, created_ms)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET
    due_ms = CASE WHEN t.recurrence IS NOT DISTINCT FROM excluded.recurrence THEN t.due_ms ELSE excluded.due_ms END,
    clock = excluded.clock, recurrence = excluded.recurrence, type = excluded.type, version = excluded.version,
    key = excluded.key, service = excluded.service, data = excluded.data

-- name: put_compensates
-- Whose work a handler undoes, as its code says now.
UPDATE antiphon_handlers SET compensates = ?1 WHERE name = ?2 AND compensates IS DISTINCT FROM ?1

-- name: note_removed
-- Since when services (a JSON list) have no handlers but some (a JSON list).
UPDATE antiphon_handlers
SET removed_ms = CASE WHEN name IN (SELECT value FROM json_array_elements_text(?1::json)) THEN NULL
                      ELSE coalesce(removed_ms, ?2) END
WHERE service IN (SELECT value FROM json_array_elements_text(?3::json))
  AND EXISTS (SELECT 1 FROM antiphon_subscriptions AS s WHERE s.handler_id = antiphon_handlers.id)
  AND (removed_ms IS NULL) <> (name IN (SELECT value FROM json_array_elements_text(?1::json)))

-- name: move_position
-- Positions never go back.
INSERT INTO antiphon_positions AS p (name, seq, updated_ms) VALUES (?, ?, ?)
ON CONFLICT (name) DO UPDATE SET seq = greatest(p.seq, excluded.seq), updated_ms = excluded.updated_ms

-- name: put_mark
-- The log has come this far by now.
INSERT INTO antiphon_marks (at_ms, seq)
SELECT ?1::bigint, ?2::bigint WHERE ?2::bigint > coalesce((SELECT max(seq) FROM antiphon_marks), -1)
ON CONFLICT (at_ms) DO NOTHING

-- name: arrivals
-- What has arrived of some types for a run: of its correlation, or of its key since it began.
SELECT seq, id, type, version, data, causation_id FROM antiphon_inbox
WHERE correlation_id = ?2 AND workflow = ?1 AND type IN (SELECT value FROM json_array_elements_text(?5::json))
UNION
SELECT seq, id, type, version, data, causation_id FROM antiphon_inbox
WHERE key = ?3 AND workflow = ?1 AND type IN (SELECT value FROM json_array_elements_text(?5::json)) AND seq > ?4
ORDER BY seq

-- name: deliveries_of
-- For a JSON list of event ids: the handlers that are or were owed them, and how each stands. The receivers of
-- a bus (inlet:service) only pass events on.
SELECT l.id AS event_id, l.seq, l.time_ms, h.id AS handler_id, h.name, h.service, h.seq AS cursor,
       d.status, d.attempts, d.updated_ms, d.due_ms, d.reason, d.archived, h.compensates,
       (SELECT p.at_ms FROM antiphon_progress AS p
         WHERE p.handler_id = CASE WHEN l.seq <= h.split_seq THEN h.first_id ELSE h.id END AND p.seq >= l.seq
         ORDER BY p.seq LIMIT 1) AS passed_ms,
       (SELECT w.id FROM antiphon_deliveries AS e JOIN antiphon_log AS w ON w.seq = e.seq
         WHERE e.handler_id = h.id AND hashtextextended(e.key, 0) = hashtextextended(d.key, 0) AND e.key = d.key
           AND e.seq < d.seq AND d.status = 'UNPROCESSED'
           AND e.status IN ('UNPROCESSED', 'IN_PROGRESS', 'RETRY') ORDER BY e.seq LIMIT 1) AS waits_for
FROM antiphon_log AS l CROSS JOIN antiphon_handlers AS h
LEFT JOIN antiphon_subscriptions AS s ON s.handler_id = h.id AND s.type = l.type AND l.seq > s.start_seq
      AND (l.addressee = coalesce(h.first_id, h.id) OR l.addressee IS NULL AND (l.origin <> 2 OR l.service = h.service)
           AND (l.target IS NULL OR l.target = h.service))
      AND antiphon_bucket(l.key, l.id) & (h.parts - 1) = h.part
LEFT JOIN antiphon_deliveries AS d ON d.handler_id = h.id AND d.seq = l.seq
WHERE l.id IN (SELECT value FROM json_array_elements_text(?::json)) AND (s.type IS NOT NULL OR d.seq IS NOT NULL)
  AND h.name NOT LIKE 'inlet:%'
ORDER BY l.seq, h.name

-- name: history
-- For a JSON list of positions: every attempt on record, in order.
SELECT a.handler_id, a.seq, a.number, a.outcome, a.at_ms, a.error_type, a.message, a.traceback
FROM antiphon_handlers AS h JOIN antiphon_attempts AS a ON a.handler_id = h.id
WHERE a.seq IN (SELECT value::bigint FROM json_array_elements_text(?::json))
ORDER BY a.id

-- name: part_unneeded
-- Of the log as l: what no handler is owed any more, and no delivery that matters refers to. A condition.
NOT EXISTS (
    SELECT 1 FROM antiphon_subscriptions AS s JOIN antiphon_handlers AS h ON h.id = s.handler_id
    WHERE s.type = l.type AND l.seq > greatest(h.seq, s.start_seq)
      AND antiphon_bucket(l.key, l.id) & (h.parts - 1) = h.part
      AND (l.addressee = coalesce(h.first_id, h.id) OR l.addressee IS NULL AND (l.origin <> 2 OR l.service = h.service)
           AND (l.target IS NULL OR l.target = h.service)))
AND NOT EXISTS (
    SELECT 1 FROM antiphon_handlers AS h JOIN antiphon_deliveries AS d ON d.handler_id = h.id AND d.seq = l.seq
    WHERE d.archived IS NULL)

-- name: next_runs
-- So many numbers that no run has.
SELECT nextval(pg_get_serial_sequence('antiphon_runs', 'nr')) FROM generate_series(1, ?)

-- name: end_subscriptions
-- The handler is owed no more types than those of a JSON list.
DELETE FROM antiphon_subscriptions
WHERE handler_id = ? AND type NOT IN (SELECT value FROM json_array_elements_text(?::json))

-- name: part_dead_groups
-- Dead letters (the letters) by failure, the most frequent first.
SELECT failure, size, names, first_ms, last_ms,
       (SELECT id FROM antiphon_log AS l WHERE l.seq = newest) AS example
FROM (SELECT coalesce(fingerprint, '{none} ' || reason) AS failure, count(*) AS size,
             json_agg(DISTINCT name)::text AS names, min(updated_ms) AS first_ms, max(updated_ms) AS last_ms,
             max(seq) AS newest
      FROM ({letters}) AS found GROUP BY failure) AS grouped
ORDER BY size DESC, failure LIMIT ?

-- name: part_data_text
-- The data of an event as text.
antiphon_text(l.data)

-- name: part_contains
-- Whether the text contains another, whatever the case of their letters.
strpos(lower({text}), lower(?)) > 0

-- name: part_state_contains
-- Whether what a run shows of itself contains a text.
strpos(antiphon_text(user_state), ?) > 0

-- name: part_of_ids
-- Runs of a JSON list of ids.
WHERE id IN (SELECT value FROM json_array_elements_text(?::json)) ORDER BY nr

-- name: doubt
-- What has become of a transaction, and since when the server runs that says so.
SELECT pg_xact_status($1::xid8), pg_postmaster_start_time()::text

-- name: glance
-- The server's clock and the newest position of the log.
SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint, (SELECT coalesce(max(seq), 0) FROM antiphon_log)

-- name: live_workers
-- The workers that live, and their services.
SELECT w.owner, w.services FROM antiphon_workers AS w
WHERE EXISTS (SELECT 1 FROM pg_locks AS l WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
              AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
              AND (l.classid::bigint << 32 | l.objid::bigint) = w.lock_id)

-- name: holds_lease
-- Whether a handler's lease is still the one that is meant; until the commit it stays so.
SELECT set_config('idle_in_transaction_session_timeout', '15s', true) FROM antiphon_handlers WHERE id = ? AND epoch = ? FOR NO KEY UPDATE

-- name: put_worker
-- A process has this open now. Who has gone without a word is forgotten.
INSERT INTO antiphon_workers (owner, lock_id, services) VALUES (?, ?, ?)
ON CONFLICT (owner) DO UPDATE SET lock_id = excluded.lock_id, services = excluded.services

-- name: dead_letters
-- Dead letters; an AND follows.
SELECT l.id, l.seq, l.type, l.version, l.key, h.name, h.service, d.status, d.reason, d.error_type, d.message,
       d.fingerprint, d.attempts, l.time_ms, d.updated_ms, d.archived, d.handler_id, d.traceback,
       coalesce(h.first_id, h.id) AS first_id
FROM antiphon_deliveries AS d
JOIN antiphon_handlers AS h ON h.id = d.handler_id
JOIN antiphon_log AS l ON l.seq = d.seq
WHERE d.status IN ('ERROR', 'FAILED')

-- name: move_cursor
-- Fenced: changes nothing unless the lease is still the handler's.
UPDATE antiphon_handlers
SET strikes = CASE WHEN seq < ?1 THEN 0 ELSE strikes END, seq = greatest(seq, ?1), handled = handled + ?2,
    failed_invocations = failed_invocations + ?3, updated_ms = ?4
WHERE id = ?5 AND epoch = ?6
RETURNING set_config('idle_in_transaction_session_timeout', '15s', true)

-- name: take_turn
-- The row of a partition of a handler, which nobody else changes until the transaction ends.
SELECT *, set_config('idle_in_transaction_session_timeout', '15s', true) FROM antiphon_handlers WHERE name = ? AND part = ? FOR UPDATE

-- name: take_redrive
-- A redrive, which nobody else moves on until the transaction ends.
SELECT *, set_config('idle_in_transaction_session_timeout', '15s', true) FROM antiphon_redrives WHERE id = ? FOR UPDATE

-- name: due_timers
-- Timers of one clock whose time has come. Another process that fires them waits for this one.
SELECT id, due_ms, clock, recurrence, type, version, key, service, correlation_id, causation_id, traceparent,
       target, request_id, deadline_ms, origin, data
FROM antiphon_timers WHERE clock = ? AND due_ms <= ?
  AND set_config('idle_in_transaction_session_timeout', '15s', true) IS NOT NULL
ORDER BY due_ms, id LIMIT ? FOR UPDATE

-- name: standing_still
-- The sessions of our role that wait, amid a transaction and what they send, for more of it. (Who copies rows into a
-- table takes his time.)
SELECT pid, backend_start, state_change FROM pg_stat_activity
WHERE datname = current_database() AND usename = session_user AND state = 'active' AND wait_event = 'ClientRead'
  AND xact_start IS NOT NULL AND query !~* '\mcopy\M'

-- name: end_standing
-- End such a session, if it has not gone on, holds a lock of ours (of a list) or rows of handlers, timers or redrives, or
-- (if that is asked for) of any table of the schema, and somebody waits for it.
SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity AS a
WHERE a.pid = ?1 AND a.backend_start = ?2 AND a.state_change = ?3 AND a.state = 'active' AND a.wait_event = 'ClientRead'
  AND EXISTS (
      SELECT 1 FROM pg_locks AS l
      LEFT JOIN pg_class AS c ON c.oid = l.relation AND c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = ?6)
      WHERE l.pid = a.pid AND l.granted
        AND (l.locktype = 'advisory' AND l.objsubid = 1 AND (l.classid::bigint << 32 | l.objid::bigint) = ANY (?4::bigint[])
             OR l.locktype = 'relation' AND l.mode IN ('RowShareLock', 'RowExclusiveLock')
             AND (c.relname IN ('antiphon_handlers', 'antiphon_timers', 'antiphon_redrives') OR ?5 AND c.oid IS NOT NULL)))
  AND EXISTS (SELECT 1 FROM pg_stat_activity AS waiting
              WHERE waiting.wait_event_type = 'Lock' AND a.pid = ANY (pg_blocking_pids(waiting.pid)))
