-- What rotating master keys needs to know: as PostgreSQL's, less nodes, of which there is one.

UPDATE schema_info SET version = 15;

CREATE TABLE tenant_key_changes (
    tenant_id blob PRIMARY KEY,
    changes   integer NOT NULL
) WITHOUT ROWID;

ALTER TABLE manifest_rounds ADD COLUMN key_changes integer NOT NULL DEFAULT 0;

CREATE TABLE cluster_secrets (
    secret text PRIMARY KEY,
    sealed blob NOT NULL
);
