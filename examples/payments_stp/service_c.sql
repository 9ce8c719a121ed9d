-- The ledger. Amounts are cents. What is written here by whatever code, the sum of all postings is zero after each
-- statement: postings come in pairs only, made by the entry that they belong to, and nothing is ever changed.

CREATE TABLE IF NOT EXISTS accounts (
    account TEXT PRIMARY KEY,
    balance INTEGER NOT NULL DEFAULT 0,
    lowest  INTEGER NOT NULL,             -- how far it may be overdrawn, as a balance
    CHECK (balance >= lowest)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS entries (
    payment_id TEXT PRIMARY KEY,          -- a payment is posted once
    debit      TEXT NOT NULL,
    credit     TEXT NOT NULL,
    amount     INTEGER NOT NULL CHECK (amount > 0),
    posted_at  TEXT NOT NULL,
    CHECK (debit <> credit)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS postings (
    payment_id TEXT NOT NULL,
    side       TEXT NOT NULL CHECK (side IN ('DR', 'CR')),
    account    TEXT NOT NULL,
    amount     INTEGER NOT NULL,          -- what the balance grows by
    PRIMARY KEY (payment_id, side),
    CHECK ((side = 'CR') = (amount > 0))
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS postings_account ON postings (account);

CREATE TRIGGER IF NOT EXISTS entry_has_accounts BEFORE INSERT ON entries
WHEN (SELECT count(*) FROM accounts WHERE account IN (NEW.debit, NEW.credit)) <> 2
BEGIN
    SELECT RAISE(ABORT, 'both accounts of an entry are in the ledger');
END;

CREATE TRIGGER IF NOT EXISTS entry_is_posted AFTER INSERT ON entries
BEGIN
    INSERT INTO postings VALUES (NEW.payment_id, 'DR', NEW.debit, -NEW.amount),
                                (NEW.payment_id, 'CR', NEW.credit, NEW.amount);
    UPDATE accounts SET balance = balance - NEW.amount WHERE account = NEW.debit;
    UPDATE accounts SET balance = balance + NEW.amount WHERE account = NEW.credit;
END;

CREATE TRIGGER IF NOT EXISTS posting_has_entry BEFORE INSERT ON postings
WHEN NOT EXISTS (
    SELECT 1 FROM entries AS e WHERE e.payment_id = NEW.payment_id AND e.amount = abs(NEW.amount)
       AND NEW.account = CASE NEW.side WHEN 'DR' THEN e.debit ELSE e.credit END)
BEGIN
    SELECT RAISE(ABORT, 'a posting is one side of an entry');
END;

CREATE TRIGGER IF NOT EXISTS entry_stays BEFORE UPDATE ON entries BEGIN SELECT RAISE(ABORT, 'an entry stays'); END;
CREATE TRIGGER IF NOT EXISTS entry_is_kept BEFORE DELETE ON entries BEGIN SELECT RAISE(ABORT, 'an entry stays'); END;
CREATE TRIGGER IF NOT EXISTS posting_stays BEFORE UPDATE ON postings BEGIN SELECT RAISE(ABORT, 'a posting stays'); END;
CREATE TRIGGER IF NOT EXISTS posting_is_kept BEFORE DELETE ON postings BEGIN SELECT RAISE(ABORT, 'a posting stays'); END;

-- What C keeps of a payment: which sides have come, and what it has decided. A decision is final.
CREATE TABLE IF NOT EXISTS transfers (
    payment_id TEXT PRIMARY KEY,
    status     TEXT NOT NULL CHECK (status IN ('PENDING', 'POSTED', 'REFUSED')),
    reason     TEXT
) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS decision_stays BEFORE UPDATE ON transfers WHEN OLD.status <> 'PENDING'
BEGIN
    SELECT RAISE(ABORT, 'a decision stays');
END;

CREATE TABLE IF NOT EXISTS sides (
    payment_id TEXT NOT NULL,
    side       TEXT NOT NULL CHECK (side IN ('DR', 'CR')),
    request_id TEXT NOT NULL UNIQUE,      -- DR_C_POST or CR_C_POST
    account    TEXT NOT NULL,
    amount     INTEGER NOT NULL,
    PRIMARY KEY (payment_id, side)        -- a side comes once
) WITHOUT ROWID;
