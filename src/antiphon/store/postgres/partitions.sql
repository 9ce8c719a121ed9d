-- Version 2: a handler's events may be divided among several workers, by their keys.

-- One row a partition of a handler now.
ALTER TABLE antiphon_handlers DROP CONSTRAINT antiphon_handlers_name_key;
ALTER TABLE antiphon_handlers ADD COLUMN part INTEGER NOT NULL DEFAULT 0;      -- the rest of its events' buckets, divided by
ALTER TABLE antiphon_handlers ADD COLUMN parts INTEGER NOT NULL DEFAULT 1;     -- this power of two
ALTER TABLE antiphon_handlers ADD COLUMN first_id BIGINT;                      -- the row from which it was split, to whose id events are addressed
ALTER TABLE antiphon_handlers ADD COLUMN split_seq BIGINT NOT NULL DEFAULT 0;  -- where: what it had done before is noted there
CREATE UNIQUE INDEX antiphon_handlers_name ON antiphon_handlers (name, part);

-- Of an event the low byte of a hash of its key (of its id, if it has none).
CREATE FUNCTION antiphon_bucket(key TEXT, id TEXT) RETURNS INTEGER LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT (hashtextextended(coalesce(key, id), 0) & 255)::integer
$$;

-- The server's clock, as the store's times.
CREATE FUNCTION antiphon_now() RETURNS BIGINT LANGUAGE sql STABLE AS $$
    SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint
$$;
