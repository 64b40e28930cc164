-- Packs that rows in quarantine point at are kept.

-- Generated, so that rows of older binaries have it as well.
UPDATE schema_info SET version = 14;

ALTER TABLE message_quarantine
    ADD COLUMN pack_id uuid NOT NULL GENERATED ALWAYS AS ((row_was->>'pack_id')::uuid) STORED;
CREATE INDEX message_quarantine_by_pack ON message_quarantine (tenant_id, pack_id);
