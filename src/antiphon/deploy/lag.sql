-- part: store
-- What is owed to the handlers of a service in its store and not taken, what is taken and not done, and its timers that are due.
(SELECT count(*) FROM (SELECT 1 FROM {schema}.antiphon_handlers AS h
  JOIN {schema}.antiphon_subscriptions AS s ON s.handler_id = h.id
  JOIN {schema}.antiphon_log AS l ON l.type = s.type AND l.seq > greatest(h.seq, s.start_seq)
  WHERE h.service = {service} AND h.removed_ms IS NULL AND coalesce(l.addressee, h.id) = h.id
    AND (l.origin <> 2 OR l.service = h.service) AND coalesce(l.target, h.service) = h.service LIMIT {most}) AS fresh)
+ (SELECT count(*) FROM (SELECT 1 FROM {schema}.antiphon_handlers AS h
  JOIN {schema}.antiphon_deliveries AS d ON d.handler_id = h.id
  WHERE h.service = {service} AND h.removed_ms IS NULL AND d.status IN ('UNPROCESSED', 'IN_PROGRESS', 'RETRY')
  LIMIT {most}) AS open)
+ (SELECT count(*) FROM (SELECT 1 FROM {schema}.antiphon_timers AS t
  WHERE t.service = {service} AND t.due_ms <= extract(epoch FROM now()) * 1000 LIMIT {most}) AS due)

-- part: bus
-- What lies on the bus for the service, and what its store holds that the bus has not.
(SELECT count(*) FROM (SELECT 1 FROM {bus}.antiphon_handlers AS h
  JOIN {bus}.antiphon_subscriptions AS s ON s.handler_id = h.id
  JOIN {bus}.antiphon_log AS l ON l.type = s.type AND l.seq > greatest(h.seq, s.start_seq)
  WHERE h.name = {receiver} AND l.service <> {service} AND coalesce(l.target, {service}) = {service}
  LIMIT {most}) AS coming)
+ (SELECT count(*) FROM (SELECT 1 FROM {schema}.antiphon_log AS l
  WHERE l.origin = 0 AND l.seq > coalesce((SELECT p.seq FROM {bus}.antiphon_positions AS p WHERE p.name = {sender}), 0)
  LIMIT {most}) AS unsent)
