CREATE TABLE IF NOT EXISTS emails (
    event_id   TEXT PRIMARY KEY,  -- a ticket is announced once
    booking_id TEXT NOT NULL,
    message_id TEXT NOT NULL,
    recipient  TEXT NOT NULL,
    sent_at    TEXT NOT NULL
);
