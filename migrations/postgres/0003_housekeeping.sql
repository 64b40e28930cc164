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
