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
       strftime('%Y-%m-%dT%H:%M:%fZ', l.time_ms / 1000.0, 'unixepoch') AS CREATED_DTTM,
       h.service                                                       AS UPDATED_BY,
       strftime('%Y-%m-%dT%H:%M:%fZ', coalesce(
           d.updated_ms,
           (SELECT max(a.at_ms) FROM antiphon_attempts AS a
             WHERE a.handler_id = h.id AND a.seq = l.seq AND a.outcome = 'completed'),
           (SELECT p.at_ms FROM antiphon_progress AS p
             WHERE p.handler_id = h.id AND p.seq >= l.seq ORDER BY p.seq LIMIT 1),
           l.time_ms) / 1000.0, 'unixepoch')                           AS UPDATED_DTTM,
       h.name                                                          AS HANDLER,
       coalesce(
           d.attempts,
           (SELECT max(a.number) FROM antiphon_attempts AS a WHERE a.handler_id = h.id AND a.seq = l.seq),
           CASE WHEN l.seq <= h.seq THEN 1 ELSE 0 END)                 AS ATTEMPTS,
       d.reason                                                        AS REASON
FROM antiphon_log AS l
JOIN antiphon_subscriptions AS s ON s.type = l.type AND l.seq > s.start_seq
JOIN antiphon_handlers AS h ON h.id = s.handler_id
     AND (l.addressee = h.id OR l.addressee IS NULL AND (l.origin <> 2 OR l.service = h.service))
LEFT JOIN antiphon_deliveries AS d ON d.handler_id = h.id AND d.seq = l.seq;

-- What was received from outside this store.
DROP VIEW IF EXISTS antiphon_inbound;
CREATE VIEW antiphon_inbound AS
SELECT l.id AS EVENT_ID, l.type AS MESSAGE_TYPE, l.service AS SOURCE_SERVICE, l.key AS EVENT_KEY,
       l.service AS CREATED_BY,
       strftime('%Y-%m-%dT%H:%M:%fZ', l.time_ms / 1000.0, 'unixepoch') AS CREATED_DTTM
FROM antiphon_log AS l WHERE l.origin = 1;

-- What each event carries, from whom, to whom (one row per receiving service; NULL: nobody here).
DROP VIEW IF EXISTS antiphon_payloads;
CREATE VIEW antiphon_payloads AS
SELECT DISTINCT l.id AS EVENT_ID, l.type AS TOPIC, l.service AS SOURCE_SERVICE, h.service AS TARGET_SERVICE,
       CAST(l.data AS TEXT) AS PAYLOAD, l.service AS CREATED_BY,
       strftime('%Y-%m-%dT%H:%M:%fZ', l.time_ms / 1000.0, 'unixepoch') AS CREATED_DTTM
FROM antiphon_log AS l
LEFT JOIN antiphon_subscriptions AS s ON s.type = l.type AND l.seq > s.start_seq
LEFT JOIN antiphon_handlers AS h ON h.id = s.handler_id
WHERE l.addressee IS NULL OR l.addressee = h.id;

-- The dead letters that wait for somebody's decision.
DROP VIEW IF EXISTS antiphon_dead_letters;
CREATE VIEW antiphon_dead_letters AS
SELECT l.id AS EVENT_ID, l.type AS MESSAGE_TYPE, h.name AS HANDLER, d.status AS STATUS, d.reason AS REASON,
       d.error_type AS ERROR_TYPE, d.message AS MESSAGE, d.fingerprint AS FINGERPRINT, d.attempts AS ATTEMPTS,
       h.service AS UPDATED_BY,
       strftime('%Y-%m-%dT%H:%M:%fZ', d.updated_ms / 1000.0, 'unixepoch') AS UPDATED_DTTM
FROM antiphon_deliveries AS d
JOIN antiphon_handlers AS h ON h.id = d.handler_id
JOIN antiphon_log AS l ON l.seq = d.seq
WHERE d.status IN ('ERROR', 'FAILED') AND d.archived IS NULL;
