-- The event tables, for any SQL client. They are made anew whenever this file has changed, so they may change freely.

-- One row per event and handler, with the status that follows from the cursor and the delivery rows.
DROP VIEW IF EXISTS antiphon_events;
CREATE VIEW antiphon_events AS
SELECT l.id                                                            AS EVENT_ID,
       l.type                                                          AS MESSAGE_TYPE,
       CASE WHEN d.status IS NOT NULL THEN d.status
            WHEN l.seq <= h.seq THEN 'COMPLETED'
            ELSE 'UNPROCESSED' END                                     AS STATUS,
       l.service                                                       AS CREATED_BY,
       antiphon_time(l.time_ms) AS CREATED_DTTM,
       h.service                                                       AS UPDATED_BY,
       antiphon_time(coalesce(
           d.updated_ms,
           (SELECT max(a.at_ms) FROM antiphon_attempts AS a
             WHERE a.handler_id = h.id AND a.seq = l.seq AND a.outcome = 'completed'),
           (SELECT p.at_ms FROM antiphon_progress AS p
             WHERE p.handler_id = CASE WHEN l.seq <= h.split_seq THEN h.first_id ELSE h.id END AND p.seq >= l.seq
             ORDER BY p.seq LIMIT 1),
           l.time_ms))                           AS UPDATED_DTTM,
       h.name                                                          AS HANDLER,
       coalesce(
           d.attempts,
           (SELECT max(a.number) FROM antiphon_attempts AS a WHERE a.handler_id = h.id AND a.seq = l.seq),
           CASE WHEN l.seq <= h.seq THEN 1 ELSE 0 END)                 AS ATTEMPTS,
       d.reason                                                        AS REASON
FROM antiphon_log AS l
JOIN antiphon_subscriptions AS s ON s.type = l.type AND l.seq > s.start_seq
JOIN antiphon_handlers AS h ON h.id = s.handler_id
     AND (l.addressee = coalesce(h.first_id, h.id) OR l.addressee IS NULL AND (l.origin <> 2 OR l.service = h.service)
          AND (l.target IS NULL OR l.target = h.service))
     AND (h.parts = 1 OR antiphon_bucket(l.key, l.id) & (h.parts - 1) = h.part)
LEFT JOIN antiphon_deliveries AS d ON d.handler_id = h.id AND d.seq = l.seq;

-- What was received from outside this store.
DROP VIEW IF EXISTS antiphon_inbound;
CREATE VIEW antiphon_inbound AS
SELECT l.id AS EVENT_ID, l.type AS MESSAGE_TYPE, l.service AS SOURCE_SERVICE, l.key AS EVENT_KEY,
       l.service AS CREATED_BY,
       antiphon_time(l.time_ms) AS CREATED_DTTM
FROM antiphon_log AS l WHERE l.origin = 1;

-- What each event carries, from whom, to whom (one row per receiving service; NULL: nobody here).
DROP VIEW IF EXISTS antiphon_payloads;
CREATE VIEW antiphon_payloads AS
SELECT DISTINCT l.id AS EVENT_ID, l.type AS TOPIC, l.service AS SOURCE_SERVICE, h.service AS TARGET_SERVICE,
       antiphon_text(l.data) AS PAYLOAD, l.service AS CREATED_BY,
       antiphon_time(l.time_ms) AS CREATED_DTTM
FROM antiphon_log AS l
LEFT JOIN antiphon_subscriptions AS s ON s.type = l.type AND l.seq > s.start_seq
LEFT JOIN antiphon_handlers AS h ON h.id = s.handler_id
WHERE (l.addressee IS NULL OR l.addressee = coalesce(h.first_id, h.id)) AND (l.target IS NULL OR h.service IS NULL OR l.target = h.service);

-- The dead letters that wait for somebody's decision.
DROP VIEW IF EXISTS antiphon_dead_letters;
CREATE VIEW antiphon_dead_letters AS
SELECT l.id AS EVENT_ID, l.type AS MESSAGE_TYPE, h.name AS HANDLER, d.status AS STATUS, d.reason AS REASON,
       d.error_type AS ERROR_TYPE, d.message AS MESSAGE, d.fingerprint AS FINGERPRINT, d.attempts AS ATTEMPTS,
       h.service AS UPDATED_BY,
       antiphon_time(d.updated_ms) AS UPDATED_DTTM
FROM antiphon_deliveries AS d
JOIN antiphon_handlers AS h ON h.id = d.handler_id
JOIN antiphon_log AS l ON l.seq = d.seq
WHERE d.status IN ('ERROR', 'FAILED') AND d.archived IS NULL;

-- What a service asked of another, and what has come of it. ANSWERED, REFUSED, TIMED_OUT (as its requester saw it
-- first), or WAITING; in the store of the service that was asked, as that one answered.
DROP VIEW IF EXISTS antiphon_requests;
CREATE VIEW antiphon_requests AS
SELECT l.id AS EVENT_ID, l.type AS MESSAGE_TYPE,
       CASE a.type WHEN 'antiphon.timed-out' THEN 'TIMED_OUT' WHEN 'antiphon.refused' THEN 'REFUSED'
            ELSE CASE WHEN a.id IS NULL THEN 'WAITING' ELSE 'ANSWERED' END END AS STATUS,
       l.service AS SOURCE_SERVICE, l.target AS TARGET_SERVICE, l.key AS EVENT_KEY,
       coalesce(l.correlation_id, l.id) AS CORRELATION_ID, a.id AS RESPONSE_ID,
       antiphon_time(l.deadline_ms) AS DEADLINE_DTTM,
       antiphon_text(l.data) AS PAYLOAD, l.service AS CREATED_BY,
       antiphon_time(l.time_ms) AS CREATED_DTTM,
       coalesce(a.service, l.service) AS UPDATED_BY,
       antiphon_time(coalesce(a.time_ms, l.time_ms)) AS UPDATED_DTTM
FROM antiphon_log AS l
LEFT JOIN antiphon_log AS a ON a.seq = (
    SELECT min(seq) FROM antiphon_log WHERE correlation_id = coalesce(l.correlation_id, l.id) AND request_id = l.id)
WHERE l.target IS NOT NULL AND l.request_id IS NULL;

-- What answered requests. The first answer counts; what comes after it, a reply after the time-out, is LATE.
DROP VIEW IF EXISTS antiphon_responses;
CREATE VIEW antiphon_responses AS
SELECT l.id AS EVENT_ID, l.request_id AS REQUEST_ID, l.type AS MESSAGE_TYPE,
       CASE l.type WHEN 'antiphon.timed-out' THEN 'TIMED_OUT' WHEN 'antiphon.refused' THEN 'REFUSED'
            ELSE 'ANSWERED' END AS STATUS,
       l.seq > (SELECT min(seq) FROM antiphon_log
                WHERE correlation_id = l.correlation_id AND request_id = l.request_id) AS LATE,
       l.service AS SOURCE_SERVICE, l.target AS TARGET_SERVICE, coalesce(l.correlation_id, l.id) AS CORRELATION_ID,
       antiphon_text(l.data) AS PAYLOAD, l.service AS CREATED_BY,
       antiphon_time(l.time_ms) AS CREATED_DTTM
FROM antiphon_log AS l WHERE l.request_id IS NOT NULL;

-- Working data: what a process keeps between its steps, a row for each call that a run of a workflow has recorded. STATE is
-- what the run shows of itself, WORKING_DATA what the call has come to.
DROP VIEW IF EXISTS antiphon_working_data;
CREATE VIEW antiphon_working_data AS
SELECT r.id AS EVENT_ID, r.start_type AS MESSAGE_TYPE, r.workflow AS PROCESS, r.state AS STATUS, r.key AS EVENT_KEY,
       r.correlation_id AS CORRELATION_ID, antiphon_text(r.user_state) AS STATE, j.kind AS CALL, j.name AS NAME, j.mark AS MARK,
       j.attempts AS ATTEMPTS, antiphon_text(j.result) AS WORKING_DATA, j.error AS ERROR,
       h.service AS CREATED_BY, antiphon_time(r.started_ms) AS CREATED_DTTM,
       h.service AS UPDATED_BY, antiphon_time(coalesce(j.at_ms, r.updated_ms)) AS UPDATED_DTTM
FROM antiphon_runs AS r
LEFT JOIN antiphon_handlers AS h ON h.name = r.workflow AND h.part = 0
LEFT JOIN antiphon_journal AS j ON j.run = r.nr;

-- What waits to be done, by service and handler; for scaling, down to no process at all and up again. WAITING counts, for
-- each partition, the next 100,000 positions, and one for whatever lies beyond. What is to be tried again counts when its
-- time has come; so do timers. In the log of a bus the handlers are the receivers, inlet:<service>.
DROP VIEW IF EXISTS antiphon_lag;
CREATE VIEW antiphon_lag AS
SELECT found.service AS SERVICE, found.handler AS HANDLER, sum(found.waiting) AS WAITING
FROM (
    SELECT h.service AS service, h.name AS handler,
           (SELECT count(*) FROM antiphon_log AS l
             WHERE l.type = s.type AND l.seq > h.seq AND l.seq > s.start_seq AND l.seq <= h.seq + 100000
               AND (l.addressee = coalesce(h.first_id, h.id)
                    OR l.addressee IS NULL AND (l.origin <> 2 OR l.service = h.service)
                       AND (l.target IS NULL OR l.target = h.service))
               AND (h.parts = 1 OR antiphon_bucket(l.key, l.id) & (h.parts - 1) = h.part))
         + CASE WHEN EXISTS (
               SELECT 1 FROM antiphon_log AS l
               WHERE l.type = s.type AND l.seq > h.seq + 100000 AND l.seq > s.start_seq
                 AND (l.addressee = coalesce(h.first_id, h.id)
                      OR l.addressee IS NULL AND (l.origin <> 2 OR l.service = h.service)
                         AND (l.target IS NULL OR l.target = h.service))
                 AND (h.parts = 1 OR antiphon_bucket(l.key, l.id) & (h.parts - 1) = h.part)) THEN 1 ELSE 0 END AS waiting
    FROM antiphon_handlers AS h JOIN antiphon_subscriptions AS s ON s.handler_id = h.id
    WHERE h.removed_ms IS NULL
    UNION ALL
    SELECT h.service, h.name, (
        SELECT count(*) FROM antiphon_deliveries AS d
        WHERE d.handler_id = h.id AND (d.status = 'IN_PROGRESS' OR d.status IN ('UNPROCESSED', 'RETRY')
                                       AND d.due_ms IS NOT NULL AND d.due_ms <= antiphon_now()))
    FROM antiphon_handlers AS h WHERE h.removed_ms IS NULL
    UNION ALL
    SELECT t.service, '(timers)', count(*) FROM antiphon_timers AS t WHERE t.due_ms <= antiphon_now() GROUP BY t.service
    UNION ALL
    SELECT l.service, '(outlet)', count(*)
    FROM antiphon_positions AS p JOIN antiphon_log AS l ON l.seq > p.seq AND l.seq <= p.seq + 100000 AND l.origin = 0
    WHERE p.name = 'sent' GROUP BY l.service
) AS found
GROUP BY found.service, found.handler;
