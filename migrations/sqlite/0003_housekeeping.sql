-- What the housekeeping forgets: as PostgreSQL's.

UPDATE schema_info SET version = 3;

CREATE INDEX traffic_of_tenants_by_day ON traffic (day)
 WHERE mailbox_id = x'00000000000000000000000000000000';
CREATE INDEX traffic_of_mailboxes_by_day ON traffic (day)
 WHERE mailbox_id <> x'00000000000000000000000000000000';

-- Nobody changes the audit log, not even us; but what is older than 30 days may be forgotten
-- (`audit.kept_days`).
DROP TRIGGER audit_log_deleted;
CREATE TRIGGER audit_log_deleted BEFORE DELETE ON audit_log
WHEN old.at >= (unixepoch() - 30 * 86400) * 1000000 BEGIN
    SELECT raise(ABORT, 'the audit log is append-only');
END;

-- Mailboxes that were deleted and have rows left. Nothing leads to these rows any more.
CREATE TABLE mailbox_deletions (
    tenant_id  blob NOT NULL,
    mailbox_id blob NOT NULL,
    address    text NOT NULL,
    begun_at   integer NOT NULL,
    PRIMARY KEY (tenant_id, mailbox_id)
) WITHOUT ROWID;
