-- Packs of many messages: what a mailbox refused of one is told apart by message.

UPDATE schema_info SET version = 10, compatible_from = 10;

CREATE TABLE pack_refusals_by_message (
    tenant_id   blob NOT NULL,
    pack_id     blob NOT NULL,
    mailbox_id  blob NOT NULL,
    pack_offset integer NOT NULL,
    PRIMARY KEY (tenant_id, pack_id, mailbox_id, pack_offset)
) WITHOUT ROWID;
-- Packs had one message each, at the first octet after their header.
INSERT INTO pack_refusals_by_message SELECT tenant_id, pack_id, mailbox_id, 64 FROM pack_refusals;
DROP TABLE pack_refusals;
ALTER TABLE pack_refusals_by_message RENAME TO pack_refusals;
