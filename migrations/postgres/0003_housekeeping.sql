-- What the housekeeping forgets: records that are of no use any more.

UPDATE schema_info SET version = 3;

-- Traffic of days long past is found by the day alone.
CREATE INDEX traffic_of_tenants_by_day ON traffic (day)
 WHERE mailbox_id = '00000000-0000-0000-0000-000000000000';
CREATE INDEX traffic_of_mailboxes_by_day ON traffic (day)
 WHERE mailbox_id <> '00000000-0000-0000-0000-000000000000';

-- Nobody changes the audit log, not even us; but what is older than 30 days may be forgotten
-- (`audit.kept_days`).
CREATE OR REPLACE FUNCTION audit_is_append_only() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF OLD.at < now() - interval '30 days' THEN
            RETURN OLD;
        END IF;
    END IF;
    RAISE EXCEPTION 'the audit log is append-only';
END
$$;

-- Mailboxes that were deleted and have rows left. Nothing leads to these rows any more.
CREATE TABLE mailbox_deletions (
    tenant_id  uuid NOT NULL,
    mailbox_id uuid NOT NULL,
    address    text NOT NULL,           -- which may be another mailbox's meanwhile
    begun_at   timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, mailbox_id)
);
CREATE INDEX mailbox_deletions_by_time ON mailbox_deletions (begun_at);
ALTER TABLE mailbox_deletions ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_tenant ON mailbox_deletions TO postern_tenant
    USING (tenant_id = nullif(current_setting('postern.tenant', true), '')::uuid)
    WITH CHECK (tenant_id = nullif(current_setting('postern.tenant', true), '')::uuid);
GRANT SELECT, INSERT, UPDATE, DELETE ON mailbox_deletions TO postern_tenant;

-- What is kept of deleted messages, by mailbox; where there is none, there is no row. `grown` where there is more of it
-- than when the housekeeping last looked.
CREATE TABLE kept_usage (
    tenant_id  uuid NOT NULL,
    mailbox_id uuid NOT NULL,
    messages   bigint NOT NULL,
    octets     bigint NOT NULL,
    grown      boolean NOT NULL,
    PRIMARY KEY (tenant_id, mailbox_id)
) WITH (fillfactor = 70);
CREATE INDEX kept_usage_grown ON kept_usage (tenant_id, mailbox_id) WHERE grown;
ALTER TABLE kept_usage ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_tenant ON kept_usage TO postern_tenant
    USING (tenant_id = nullif(current_setting('postern.tenant', true), '')::uuid)
    WITH CHECK (tenant_id = nullif(current_setting('postern.tenant', true), '')::uuid);
GRANT SELECT, INSERT, UPDATE, DELETE ON kept_usage TO postern_tenant;
-- What would be forgotten first anyway.
CREATE INDEX deleted_messages_by_age ON deleted_messages (tenant_id, mailbox_id, keep_until, uid);

-- Rows are locked in one order, and after those of the messages.
CREATE FUNCTION deleted_messages_counted() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO kept_usage AS k (tenant_id, mailbox_id, messages, octets, grown)
        SELECT n.tenant_id, n.mailbox_id, count(*), sum(n.octets), true
          FROM new_rows n GROUP BY 1, 2 ORDER BY 1, 2
            ON CONFLICT (tenant_id, mailbox_id) DO UPDATE
           SET messages = k.messages + excluded.messages, octets = k.octets + excluded.octets, grown = true;
    ELSE
        INSERT INTO kept_usage AS k (tenant_id, mailbox_id, messages, octets, grown)
        SELECT o.tenant_id, o.mailbox_id, -count(*), -sum(o.octets), false
          FROM old_rows o GROUP BY 1, 2 ORDER BY 1, 2
            ON CONFLICT (tenant_id, mailbox_id) DO UPDATE
           SET messages = k.messages + excluded.messages, octets = k.octets + excluded.octets;
        DELETE FROM kept_usage k
         USING (SELECT DISTINCT o.tenant_id, o.mailbox_id FROM old_rows o) gone
         WHERE k.tenant_id = gone.tenant_id AND k.mailbox_id = gone.mailbox_id AND k.messages = 0;
    END IF;
    RETURN NULL;
END
$$;
-- What is there already: it is bounded when the next message is deleted there, not at once. The lock keeps it still until
-- the triggers are there.
LOCK TABLE deleted_messages IN SHARE ROW EXCLUSIVE MODE;
INSERT INTO kept_usage (tenant_id, mailbox_id, messages, octets, grown)
SELECT tenant_id, mailbox_id, count(*), sum(octets), false FROM deleted_messages GROUP BY 1, 2;
CREATE TRIGGER deleted_messages_inserted AFTER INSERT ON deleted_messages
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION deleted_messages_counted();
CREATE TRIGGER deleted_messages_deleted AFTER DELETE ON deleted_messages
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION deleted_messages_counted();
