-- The questions of the audit, each answered by a number. The databases of the five services are attached by their
-- names; `accepted` holds the bookings that the gateway took, `received` how often each e-mail came, `published` all
-- events.

-- name: accepted
SELECT count(*) FROM accepted

-- name: ticketed
SELECT count(*) FROM accepted JOIN booking.bookings USING (booking_id) WHERE status = 'TICKETED'

-- name: cancelled
SELECT count(*) FROM accepted JOIN booking.bookings USING (booking_id) WHERE status = 'CANCELLED'

-- name: refunded
SELECT count(*) FROM accepted JOIN payment.charges USING (booking_id) WHERE refunded_at IS NOT NULL

-- name: lost: accepted and not kept
SELECT count(*) FROM accepted LEFT JOIN booking.bookings AS b USING (booking_id) WHERE b.booking_id IS NULL

-- name: lost: neither ticketed nor cancelled
SELECT count(*) FROM accepted JOIN booking.bookings USING (booking_id) WHERE status NOT IN ('TICKETED', 'CANCELLED')

-- name: lost: ticketed without a charge that stands, a seat or a ticket of that booking
SELECT count(*) FROM booking.bookings AS b
LEFT JOIN payment.charges AS c USING (booking_id)
LEFT JOIN seat.seats AS s ON s.booking_id = b.booking_id AND s.flight = b.flight AND s.seat = b.seat
LEFT JOIN ticket.tickets AS t ON t.booking_id = b.booking_id AND t.flight = b.flight AND t.seat = b.seat
WHERE b.status = 'TICKETED'
  AND (c.booking_id IS NULL OR c.refunded_at IS NOT NULL OR c.amount <> b.price
       OR s.booking_id IS NULL OR t.booking_id IS NULL)

-- name: lost: cancelled with a payment that was not given back
SELECT count(*) FROM booking.bookings JOIN payment.charges USING (booking_id)
WHERE status = 'CANCELLED' AND refunded_at IS NULL

-- name: lost: cancelled with a seat or a ticket
SELECT count(*) FROM booking.bookings WHERE status = 'CANCELLED'
  AND (booking_id IN (SELECT booking_id FROM seat.seats) OR booking_id IN (SELECT booking_id FROM ticket.tickets))

-- name: lost: ticketed without an e-mail that arrived
SELECT count(*) FROM accepted JOIN booking.bookings USING (booking_id)
WHERE status = 'TICKETED' AND NOT EXISTS (
    SELECT 1 FROM notification.emails AS e JOIN received USING (message_id) WHERE e.booking_id = accepted.booking_id)

-- name: duplicated: charged twice
SELECT count(*) - count(DISTINCT booking_id) FROM payment.charges

-- name: duplicated: two seats for a booking
SELECT count(*) - count(DISTINCT booking_id) FROM seat.seats

-- name: duplicated: a seat sold twice
SELECT count(*) - (SELECT count(*) FROM (SELECT DISTINCT flight, seat FROM seat.seats) AS sold) FROM seat.seats

-- name: duplicated: two tickets for a booking, or for a seat
SELECT 2 * count(*) - count(DISTINCT booking_id) - count(DISTINCT flight || '/' || seat) FROM ticket.tickets

-- name: duplicated: a ticket announced in two e-mails
SELECT count(*) - count(DISTINCT booking_id) FROM notification.emails

-- name: duplicated: an event published twice
SELECT total(times - 1) FROM (SELECT count(*) AS times FROM published GROUP BY key, type) AS counted

-- name: emails
SELECT count(*) FROM received

-- name: emails_repeated
SELECT total(times - 1) FROM received
