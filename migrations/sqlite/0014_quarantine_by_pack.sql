-- Packs that rows in quarantine point at are kept: as PostgreSQL's.

UPDATE schema_info SET version = 14;

ALTER TABLE message_quarantine
    ADD COLUMN pack_id blob GENERATED ALWAYS AS (unhex(replace(row_was->>'pack_id', '-', ''))) VIRTUAL;
CREATE INDEX message_quarantine_by_pack ON message_quarantine (tenant_id, pack_id);
