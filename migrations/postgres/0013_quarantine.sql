-- Rows of messages whose octets are lost, taken out of mailboxes by `postern fsck --quarantine`.

-- Older binaries need not know.
UPDATE schema_info SET version = 13;

CREATE TABLE message_quarantine (
    quarantine_id bigint GENERATED ALWAYS AS IDENTITY,
    tenant_id     uuid NOT NULL,
    mailbox_id    uuid NOT NULL,
    uid           bigint NOT NULL,
    pack_id       uuid NOT NULL,        -- is not deleted while a row here points at it
    row_was       jsonb NOT NULL,       -- all of its columns
    why           text NOT NULL,
    at            timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, quarantine_id)
);
CREATE INDEX message_quarantine_by_pack ON message_quarantine (tenant_id, pack_id);
ALTER TABLE message_quarantine ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_tenant ON message_quarantine TO postern_tenant
    USING (tenant_id = nullif(current_setting('postern.tenant', true), '')::uuid)
    WITH CHECK (tenant_id = nullif(current_setting('postern.tenant', true), '')::uuid);
GRANT SELECT, INSERT, UPDATE, DELETE ON message_quarantine TO postern_tenant;
