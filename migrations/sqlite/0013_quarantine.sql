-- Rows of messages whose octets are lost: as PostgreSQL's.

UPDATE schema_info SET version = 13;

CREATE TABLE message_quarantine (
    quarantine_id integer PRIMARY KEY AUTOINCREMENT,
    tenant_id     blob NOT NULL,
    mailbox_id    blob NOT NULL,
    uid           integer NOT NULL,
    pack_id       blob NOT NULL,
    row_was       text NOT NULL,
    why           text NOT NULL,
    at            integer NOT NULL
);
CREATE INDEX message_quarantine_by_tenant ON message_quarantine (tenant_id, quarantine_id);
CREATE INDEX message_quarantine_by_pack ON message_quarantine (tenant_id, pack_id);
