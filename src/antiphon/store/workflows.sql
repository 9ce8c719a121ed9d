-- The SQL of workflows, in named blocks.

-- name: select_runs
-- Runs, to which conditions are added.
SELECT id, workflow, key, order_key, version, state, correlation_id, start_seq, start_type, start_version, start_data,
       started_ms, updated_ms, nr, rev, parent, shape, waiting, due_ms, user_state, result, error, cancelled
FROM antiphon_runs

-- name: prune_journals
-- What runs have done that ended before a time; some of them.
DELETE FROM antiphon_journal WHERE run IN (SELECT nr FROM antiphon_runs
    WHERE state IN ('COMPLETED', 'COMPENSATED', 'FAILED', 'CANCELLED') AND updated_ms < ?1 ORDER BY nr LIMIT ?2)

-- name: prune_runs
-- Those runs.
DELETE FROM antiphon_runs WHERE nr IN (SELECT nr FROM antiphon_runs
    WHERE state IN ('COMPLETED', 'COMPENSATED', 'FAILED', 'CANCELLED') AND updated_ms < ?1 ORDER BY nr LIMIT ?2)

-- name: prune_inbox
-- What arrived before a time and no live run can take any more; some of it.
DELETE FROM antiphon_inbox WHERE (workflow, seq) IN (
    SELECT i.workflow, i.seq FROM antiphon_inbox AS i WHERE i.at_ms < ?1
       AND NOT EXISTS (SELECT 1 FROM antiphon_runs AS r WHERE r.workflow = i.workflow AND r.key = i.key
                       AND r.state IN ('RUNNING', 'WAITING', 'PAUSED', 'COMPENSATING', 'STUCK'))
       AND NOT EXISTS (SELECT 1 FROM antiphon_runs AS r
                       WHERE r.correlation_id = i.correlation_id AND r.workflow = i.workflow
                       AND r.state IN ('RUNNING', 'WAITING', 'PAUSED', 'COMPENSATING', 'STUCK'))
       AND NOT EXISTS (SELECT 1 FROM antiphon_runs AS r WHERE r.id = i.correlation_id AND r.workflow = i.workflow
                       AND r.state IN ('RUNNING', 'WAITING', 'PAUSED', 'COMPENSATING', 'STUCK'))
    LIMIT ?2)

-- name: run_by_id
-- One run.
SELECT id, workflow, key, order_key, version, state, correlation_id, start_seq, start_type, start_version, start_data,
       started_ms, updated_ms, nr, rev, parent, shape, waiting, due_ms, user_state, result, error, cancelled
FROM antiphon_runs WHERE id = ? AND workflow = ?

-- name: live_run
-- The live run of a key.
SELECT id FROM antiphon_runs WHERE workflow = ? AND key = ?
  AND state IN ('RUNNING', 'WAITING', 'PAUSED', 'COMPENSATING', 'STUCK')

-- name: known_runs
-- Where an event lies in the log; the run of an id, ended or not; the live run of a key.
SELECT seq, NULL, 2 FROM antiphon_log WHERE id = ?4
UNION ALL
SELECT NULL, id, 0 FROM antiphon_runs WHERE id = ?3 AND workflow = ?1
UNION ALL
SELECT NULL, id, 1 FROM antiphon_runs WHERE workflow = ?1 AND key = ?2
  AND state IN ('RUNNING', 'WAITING', 'PAUSED', 'COMPENSATING', 'STUCK')

-- name: dead_of_run
-- The events that should have moved a run on, and are dead letters: they kept killing their process.
SELECT l.id FROM antiphon_handlers AS h
JOIN antiphon_deliveries AS d ON d.handler_id = h.id AND d.status IN ('ERROR', 'FAILED') AND d.archived IS NULL
JOIN antiphon_log AS l ON l.seq = d.seq
WHERE h.name = ?1 AND d.key = ?2

-- name: newest_run
-- The run of a key that began last.
SELECT id FROM antiphon_runs WHERE key = ?2 AND workflow = ?1 ORDER BY nr DESC LIMIT 1

-- name: awaiting_runs
-- The live runs that an event may be awaited by: of its key, or of its correlation.
SELECT id, order_key, correlation_id FROM antiphon_runs WHERE workflow = ?1 AND key = ?2
  AND state IN ('RUNNING', 'WAITING', 'PAUSED', 'COMPENSATING', 'STUCK')
UNION
SELECT id, order_key, correlation_id FROM antiphon_runs WHERE correlation_id = ?3 AND workflow = ?1
  AND state IN ('RUNNING', 'WAITING', 'PAUSED', 'COMPENSATING', 'STUCK')

-- name: insert_run
-- A run that has no row yet.
INSERT INTO antiphon_runs
    (id, workflow, key, order_key, version, state, rev, correlation_id, parent, start_seq, start_type, start_version,
     start_data, shape, waiting, due_ms, user_state, result, error, cancelled, started_ms, updated_ms)
VALUES (?, ?, ?, ?, ?, ?, 1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
RETURNING nr

-- name: insert_ended
-- A run that ended in its first turn, with a number of the writer's own.
INSERT INTO antiphon_runs
    (nr, id, workflow, key, order_key, version, state, rev, correlation_id, parent, start_seq, start_type,
     start_version, start_data, shape, waiting, due_ms, user_state, result, error, cancelled, started_ms, updated_ms)
VALUES (?, ?, ?, ?, ?, ?, ?, 1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- name: update_run
-- Fenced: changes nothing if somebody else has written it since.
UPDATE antiphon_runs SET state = ?, rev = rev + 1, shape = ?, waiting = ?, due_ms = ?, user_state = ?, result = ?,
    error = ?, cancelled = ?, updated_ms = ?
WHERE nr = ? AND rev = ?

-- name: read_journal
-- All that a run has done, in order.
SELECT position, kind, name, mark, nr, attempts, first_ms, due_ms, timer, result, error_type, error, at_ms
FROM antiphon_journal WHERE run = ?

-- name: put_record
-- Write one record.
INSERT INTO antiphon_journal
    (run, position, kind, name, mark, nr, attempts, first_ms, due_ms, timer, result, error_type, error, at_ms)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (run, position) DO UPDATE SET
    mark = excluded.mark, nr = excluded.nr, attempts = excluded.attempts, first_ms = excluded.first_ms,
    due_ms = excluded.due_ms, timer = excluded.timer, result = excluded.result, error_type = excluded.error_type,
    error = excluded.error, at_ms = excluded.at_ms

-- name: put_arrival
-- Keep what has arrived for a workflow's runs.
INSERT INTO antiphon_inbox (workflow, seq, type, version, id, key, correlation_id, causation_id, data, at_ms)
VALUES (?1, (SELECT seq FROM antiphon_log WHERE id = ?2), ?3, ?4, ?2, ?5, ?6, ?7, ?8, ?9)
ON CONFLICT (workflow, seq) DO NOTHING

-- name: runs_of_id
-- The runs whose id begins so; the second mark is what comes after all of these.
SELECT id, workflow FROM antiphon_runs WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT 10
