-- The questions of the audit, each answered by a number. The databases of the five services are attached by their
-- names; `accepted` holds the orders that the gateway took, `received` how often each e-mail came to the mail server, and
-- the number of each charge (CH-...) and refund (RE-...) that the bank has booked.

-- name: accepted
SELECT count(*) FROM accepted

-- name: shipped
SELECT count(*) FROM accepted JOIN orders.orders USING (order_id) WHERE status = 'SHIPPED'

-- name: failed
SELECT count(*) FROM accepted JOIN orders.orders USING (order_id) WHERE status = 'FAILED'

-- name: refunded
SELECT count(*) FROM accepted JOIN payments.charges USING (order_id) WHERE refunded_at IS NOT NULL

-- name: lost: accepted and not kept
SELECT count(*) FROM accepted LEFT JOIN orders.orders AS o USING (order_id) WHERE o.order_id IS NULL

-- name: lost: neither shipped nor failed nor cancelled
SELECT count(*) FROM accepted JOIN orders.orders USING (order_id) WHERE status NOT IN ('SHIPPED', 'FAILED', 'CANCELLED')

-- name: lost: shipped without a charge that stands, of its amount
SELECT count(*) FROM orders.orders AS o
WHERE o.status = 'SHIPPED' AND NOT EXISTS (
    SELECT 1 FROM payments.charges AS c
    WHERE c.order_id = o.order_id AND c.refunded_at IS NULL AND c.cents = o.cents AND c.account = o.account)

-- name: lost: shipped without a parcel that holds all its pieces
SELECT count(*) FROM orders.orders AS o
WHERE o.status = 'SHIPPED' AND (SELECT sum(l.quantity) FROM orders.order_lines AS l WHERE l.order_id = o.order_id)
    IS NOT (SELECT p.pieces FROM shipping.parcels AS p WHERE p.order_id = o.order_id)

-- name: lost: shipped, and its stock was not taken out
SELECT count(*) FROM orders.orders JOIN orders.order_lines AS l USING (order_id)
LEFT JOIN inventory.reservations AS r USING (order_id, sku)
WHERE status = 'SHIPPED' AND (r.quantity IS NOT l.quantity OR r.state IS NOT 'SHIPPED')

-- name: lost: given up, and something is still paid, reserved or on its way
SELECT count(*) FROM orders.orders WHERE status IN ('FAILED', 'CANCELLED')
  AND (order_id IN (SELECT order_id FROM payments.charges WHERE refunded_at IS NULL)
       OR order_id IN (SELECT order_id FROM inventory.reservations WHERE state <> 'RELEASED')
       OR order_id IN (SELECT order_id FROM shipping.parcels))

-- name: lost: stock that is neither free nor taken
SELECT count(*) FROM inventory.stock AS s
WHERE s.received <> s.free + coalesce((
    SELECT sum(r.quantity) FROM inventory.reservations AS r WHERE r.sku = s.sku AND r.state <> 'RELEASED'), 0)

-- name: lost: booked by the bank and not by us, or the other way round
SELECT (SELECT count(*) FROM received WHERE message_id NOT LIKE '<%' AND message_id NOT IN (
            SELECT number FROM payments.charges UNION ALL SELECT refund FROM payments.charges WHERE refund IS NOT NULL))
     + (SELECT count(*) FROM payments.charges WHERE number NOT IN (SELECT message_id FROM received)
            OR (refunded_at IS NOT NULL AND refund NOT IN (SELECT message_id FROM received)))

-- name: lost: ended without an e-mail that arrived and says so
SELECT count(*) FROM accepted JOIN orders.orders AS o USING (order_id)
WHERE NOT EXISTS (
    SELECT 1 FROM notifications.emails AS e JOIN received USING (message_id)
    WHERE e.order_id = o.order_id AND e.status = o.status)

-- name: lost: failed, and not set aside with a reason
SELECT count(*) FROM accepted JOIN orders.orders AS o USING (order_id)
WHERE o.status = 'FAILED' AND NOT EXISTS (
    SELECT 1 FROM orders.antiphon_dead_letters AS d JOIN orders.antiphon_log AS l ON l.id = d.EVENT_ID
    WHERE l.type = 'OrderFailed' AND l.key = o.order_id AND d.REASON LIKE '%' || o.detail || '%')

-- name: duplicated: charged twice
SELECT count(*) - count(DISTINCT order_id) FROM payments.charges

-- name: duplicated: booked twice by the bank
SELECT total(times - 1) FROM received WHERE message_id NOT LIKE '<%'

-- name: duplicated: two parcels for an order
SELECT count(*) - count(DISTINCT order_id) FROM shipping.parcels

-- name: duplicated: an order's end announced in two e-mails
SELECT count(*) - count(DISTINCT order_id) FROM notifications.emails

-- name: lost: an account's charges out of the order in which they were asked for
SELECT count(*) FROM (
    SELECT c.nr, max(c.nr) OVER (PARTITION BY c.account ORDER BY l.seq ROWS UNBOUNDED PRECEDING) AS last
    FROM payments.charges AS c
    JOIN payments.antiphon_log AS l ON l.type = 'ChargeCard' AND l.key = c.account
        AND json_extract(CAST(l.data AS TEXT), '$.order_id') = c.order_id)
WHERE nr < last

-- name: emails
SELECT count(*) FROM received WHERE message_id LIKE '<%'

-- name: emails_repeated
SELECT total(times - 1) FROM received WHERE message_id LIKE '<%'
