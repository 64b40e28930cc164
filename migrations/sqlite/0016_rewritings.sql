-- Packs that are about to be written as copies of others: as PostgreSQL's.

UPDATE schema_info SET version = 16;

CREATE TABLE rewritings (
    tenant_id blob NOT NULL,
    pack_id   blob NOT NULL,
    begun_at  integer NOT NULL,
    PRIMARY KEY (tenant_id, pack_id)
) WITHOUT ROWID;
