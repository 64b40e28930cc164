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

-- What is kept of deleted messages, by mailbox.
CREATE TABLE kept_usage (
    tenant_id  blob NOT NULL,
    mailbox_id blob NOT NULL,
    messages   integer NOT NULL,
    octets     integer NOT NULL,
    grown      integer NOT NULL,
    PRIMARY KEY (tenant_id, mailbox_id)
) WITHOUT ROWID;
CREATE INDEX kept_usage_grown ON kept_usage (tenant_id, mailbox_id) WHERE grown;
CREATE INDEX deleted_messages_by_age ON deleted_messages (tenant_id, mailbox_id, keep_until, uid);
INSERT INTO kept_usage (tenant_id, mailbox_id, messages, octets, grown)
SELECT tenant_id, mailbox_id, count(*), sum(octets), 0 FROM deleted_messages GROUP BY tenant_id, mailbox_id;
CREATE TRIGGER deleted_messages_inserted AFTER INSERT ON deleted_messages BEGIN
    INSERT INTO kept_usage (tenant_id, mailbox_id, messages, octets, grown)
    VALUES (new.tenant_id, new.mailbox_id, 1, new.octets, 1)
        ON CONFLICT (tenant_id, mailbox_id) DO UPDATE
       SET messages = messages + 1, octets = octets + excluded.octets, grown = 1;
END;
CREATE TRIGGER deleted_messages_deleted AFTER DELETE ON deleted_messages BEGIN
    UPDATE kept_usage SET messages = messages - 1, octets = octets - old.octets
     WHERE tenant_id = old.tenant_id AND mailbox_id = old.mailbox_id;
    DELETE FROM kept_usage
     WHERE tenant_id = old.tenant_id AND mailbox_id = old.mailbox_id AND messages = 0;
END;
