-- Packs that are about to be written as copies of others, until rows point at them: what lies in one that came to
-- nothing is known, and a rebuild does not take it for mail.

UPDATE schema_info SET version = 16;

CREATE TABLE rewritings (
    tenant_id uuid NOT NULL,
    pack_id   uuid NOT NULL,
    begun_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, pack_id)
);
ALTER TABLE rewritings ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_tenant ON rewritings TO postern_tenant
    USING (tenant_id = nullif(current_setting('postern.tenant', true), '')::uuid)
    WITH CHECK (tenant_id = nullif(current_setting('postern.tenant', true), '')::uuid);
GRANT SELECT, INSERT, UPDATE, DELETE ON rewritings TO postern_tenant;
