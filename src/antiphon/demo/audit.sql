-- What the audit of any example asks, each answered by a number. `published`, `attempts` and `deliveries` are those of
-- all its databases.

-- name: events
SELECT count(*) FROM published

-- name: retries
SELECT count(*) FROM attempts WHERE number > 1

-- name: dead_letters
SELECT count(*) FROM deliveries WHERE status IN ('ERROR', 'FAILED') AND archived IS NULL
