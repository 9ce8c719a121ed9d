-- The questions of the audit, each answered by a number. The databases of the five services are attached by their
-- names; `accepted` holds the payments that the upstream channel took, `published` all events.

-- name: accepted
SELECT count(*) FROM accepted

-- name: completed
SELECT count(*) FROM accepted JOIN upstream.payments USING (payment_id) WHERE status = 'COMPLETED'

-- name: rejected
SELECT count(*) FROM accepted JOIN upstream.payments USING (payment_id) WHERE status = 'REJECTED'

-- name: invalid
SELECT count(*) FROM accepted WHERE payment_id IN (SELECT key FROM service_a.antiphon_log WHERE type = 'RQ_B_REJ')

-- name: refused
SELECT count(*) FROM accepted JOIN service_c.transfers USING (payment_id) WHERE status = 'REFUSED'

-- name: postings
SELECT count(*) FROM service_c.postings

-- name: debit_cents
SELECT -total(amount) FROM service_c.postings WHERE side = 'DR'

-- name: credit_cents
SELECT total(amount) FROM service_c.postings WHERE side = 'CR'

-- name: lost: accepted and not kept
SELECT count(*) FROM accepted LEFT JOIN upstream.payments AS p USING (payment_id) WHERE p.payment_id IS NULL

-- name: lost: never answered upstream
SELECT count(*) FROM upstream.payments WHERE answers = 0 OR status = 'IN_PROGRESS'

-- name: lost: never advised downstream
SELECT count(*) FROM upstream.payments WHERE payment_id NOT IN (SELECT payment_id FROM downstream.advices)

-- name: lost: a request that A still waits for
SELECT count(*) FROM service_a.working_data

-- name: lost: a payment that the ledger has not decided
SELECT count(*) FROM service_c.transfers WHERE status = 'PENDING'

-- name: lost: the channels were told different things
SELECT count(*) FROM upstream.payments AS u
LEFT JOIN service_b.payments AS b USING (payment_id)
LEFT JOIN downstream.advices AS d USING (payment_id)
WHERE u.status IS NOT b.outcome OR u.status IS NOT d.outcome OR u.reason IS NOT b.reason OR u.reason IS NOT d.reason

-- name: lost: completed and not posted, both sides
SELECT count(*) FROM upstream.payments AS p WHERE status = 'COMPLETED'
   AND (SELECT count(*) FROM service_c.postings AS o WHERE o.payment_id = p.payment_id) <> 2

-- name: lost: the sum of the ledger is not zero
SELECT total(amount) <> 0 FROM service_c.postings

-- name: lost: a payment whose debit is not its credit
SELECT count(*) FROM (
    SELECT payment_id FROM service_c.postings GROUP BY payment_id HAVING count(*) <> 2 OR sum(amount) <> 0)

-- name: lost: a balance that is not the sum of its postings
SELECT count(*) FROM service_c.accounts AS a
WHERE balance <> (SELECT total(amount) FROM service_c.postings AS p WHERE p.account = a.account)

-- name: lost: an account below its limit
SELECT count(*) FROM service_c.accounts WHERE balance < lowest

-- name: duplicated: answered twice upstream
SELECT total(answers - 1) FROM upstream.payments WHERE answers > 1

-- name: duplicated: posted, and rejected
SELECT count(*) FROM service_c.entries WHERE payment_id IN (
    SELECT payment_id FROM upstream.payments WHERE status = 'REJECTED')

-- name: duplicated: posted twice
SELECT count(*) - count(DISTINCT payment_id || side) FROM service_c.postings

-- name: duplicated: advised twice
SELECT count(*) - count(DISTINCT payment_id) FROM downstream.advices

-- name: duplicated: a message published twice
SELECT total(times - 1) FROM (SELECT count(*) AS times FROM published GROUP BY key, type, request_id)
