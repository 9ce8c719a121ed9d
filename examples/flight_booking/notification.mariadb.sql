CREATE TABLE IF NOT EXISTS emails (
    event_id   VARCHAR(64) PRIMARY KEY,  -- a ticket is announced once
    booking_id VARCHAR(64) NOT NULL,
    message_id TEXT        NOT NULL,
    recipient  TEXT        NOT NULL,
    sent_at    TEXT        NOT NULL
);
