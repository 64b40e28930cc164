-- What rotating master keys needs to know.

-- Older binaries need not know: rounds of manifests that they begin count as being under the first key, and are written
-- anew once more.
UPDATE schema_info SET version = 15;

-- How often a tenant's sealed key was exchanged for another; no row for never. Not a column of tenants, which everybody
-- reads all the time.
CREATE TABLE tenant_key_changes (
    tenant_id uuid PRIMARY KEY,
    changes   bigint NOT NULL
);

-- How often it had been when the round was begun; -1 where the round is under a key that it was exchanged for even then.
ALTER TABLE manifest_rounds ADD COLUMN key_changes bigint NOT NULL DEFAULT 0;

-- Secrets that all nodes share, sealed under the master key.
CREATE TABLE cluster_secrets (
    secret text PRIMARY KEY,            -- decoys, tickets
    sealed bytea NOT NULL
);

-- Which master keys nodes can open with: a key is used only when all of them have it.
CREATE TABLE node_keys (
    node_id  uuid PRIMARY KEY,
    opens    bytea[] NOT NULL,          -- ids of master keys
    noted_at timestamptz NOT NULL
);

ALTER TABLE tenant_key_changes ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_tenant ON tenant_key_changes TO postern_tenant
    USING (tenant_id = nullif(current_setting('postern.tenant', true), '')::uuid)
    WITH CHECK (tenant_id = nullif(current_setting('postern.tenant', true), '')::uuid);
GRANT SELECT, INSERT, UPDATE, DELETE ON tenant_key_changes TO postern_tenant;
