-- Manifests: as PostgreSQL's.

UPDATE schema_info SET version = 12;

ALTER TABLE mailboxes ADD COLUMN changes integer NOT NULL DEFAULT 0;
ALTER TABLE mailboxes ADD COLUMN manifest_due integer NOT NULL DEFAULT 0;
CREATE INDEX mailboxes_manifest_due ON mailboxes (tenant_id, mailbox_id) WHERE manifest_due;

CREATE TRIGGER mailbox_created AFTER INSERT ON mailboxes BEGIN
    UPDATE mailboxes SET changes = new.changes + 1, manifest_due = 1
     WHERE tenant_id = new.tenant_id AND mailbox_id = new.mailbox_id;
END;
-- All columns but these two.
CREATE TRIGGER mailbox_changed AFTER UPDATE OF address, credential_version, password_hash, verifiers, quota_octets,
    quota_messages, next_uid, message_count, octets, state, revision, policy, bulletins ON mailboxes
BEGIN
    UPDATE mailboxes SET changes = changes + 1, manifest_due = 1
     WHERE tenant_id = new.tenant_id AND mailbox_id = new.mailbox_id;
END;

CREATE TABLE manifest_notes (
    note_id    integer PRIMARY KEY AUTOINCREMENT,
    tenant_id  blob NOT NULL,
    mailbox_id blob NOT NULL
);
CREATE INDEX manifest_notes_by_tenant ON manifest_notes (tenant_id, note_id);

CREATE TABLE manifest_rounds (
    tenant_id blob NOT NULL,
    round     integer NOT NULL,
    round_id  blob NOT NULL,
    is_full   integer NOT NULL,
    octets    integer NOT NULL DEFAULT 0,
    begun_at  integer NOT NULL,
    finished  integer NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, round)
) WITHOUT ROWID;

CREATE TRIGGER mailboxes_noted AFTER DELETE ON mailboxes BEGIN
    INSERT INTO manifest_notes (tenant_id, mailbox_id) VALUES (old.tenant_id, old.mailbox_id);
END;
CREATE TRIGGER aliases_noted_inserted AFTER INSERT ON aliases BEGIN
    INSERT INTO manifest_notes (tenant_id, mailbox_id) VALUES (new.tenant_id, new.mailbox_id);
END;
CREATE TRIGGER aliases_noted_deleted AFTER DELETE ON aliases BEGIN
    INSERT INTO manifest_notes (tenant_id, mailbox_id) VALUES (old.tenant_id, old.mailbox_id);
END;
CREATE TRIGGER app_passwords_noted_inserted AFTER INSERT ON app_passwords BEGIN
    INSERT INTO manifest_notes (tenant_id, mailbox_id) VALUES (new.tenant_id, new.mailbox_id);
END;
CREATE TRIGGER app_passwords_noted_deleted AFTER DELETE ON app_passwords BEGIN
    INSERT INTO manifest_notes (tenant_id, mailbox_id) VALUES (old.tenant_id, old.mailbox_id);
END;
CREATE TRIGGER tenants_noted_inserted AFTER INSERT ON tenants BEGIN
    INSERT INTO manifest_notes (tenant_id, mailbox_id) VALUES (new.tenant_id, zeroblob(16));
END;
CREATE TRIGGER tenants_noted_updated AFTER UPDATE ON tenants BEGIN
    INSERT INTO manifest_notes (tenant_id, mailbox_id) VALUES (new.tenant_id, zeroblob(16));
END;
CREATE TRIGGER domains_noted_inserted AFTER INSERT ON domains BEGIN
    INSERT INTO manifest_notes (tenant_id, mailbox_id) VALUES (new.tenant_id, zeroblob(16));
END;
CREATE TRIGGER domains_noted_deleted AFTER DELETE ON domains BEGIN
    INSERT INTO manifest_notes (tenant_id, mailbox_id) VALUES (old.tenant_id, zeroblob(16));
END;
CREATE TRIGGER certificates_noted_inserted AFTER INSERT ON certificates BEGIN
    INSERT INTO manifest_notes (tenant_id, mailbox_id) VALUES (new.tenant_id, zeroblob(16));
END;
CREATE TRIGGER certificates_noted_updated AFTER UPDATE ON certificates BEGIN
    INSERT INTO manifest_notes (tenant_id, mailbox_id) VALUES (new.tenant_id, zeroblob(16));
END;
CREATE TRIGGER certificates_noted_deleted AFTER DELETE ON certificates BEGIN
    INSERT INTO manifest_notes (tenant_id, mailbox_id) VALUES (old.tenant_id, zeroblob(16));
END;
CREATE TRIGGER api_keys_noted_inserted AFTER INSERT ON api_keys WHEN new.tenant_id IS NOT NULL BEGIN
    INSERT INTO manifest_notes (tenant_id, mailbox_id) VALUES (new.tenant_id, zeroblob(16));
END;
CREATE TRIGGER api_keys_noted_deleted AFTER DELETE ON api_keys WHEN old.tenant_id IS NOT NULL BEGIN
    INSERT INTO manifest_notes (tenant_id, mailbox_id) VALUES (old.tenant_id, zeroblob(16));
END;
CREATE TRIGGER bulletins_noted_inserted AFTER INSERT ON bulletins BEGIN
    INSERT INTO manifest_notes (tenant_id, mailbox_id) VALUES (new.tenant_id, zeroblob(16));
END;
CREATE TRIGGER bulletins_noted_updated AFTER UPDATE ON bulletins BEGIN
    INSERT INTO manifest_notes (tenant_id, mailbox_id) VALUES (new.tenant_id, zeroblob(16));
END;
CREATE TRIGGER bulletins_noted_deleted AFTER DELETE ON bulletins BEGIN
    INSERT INTO manifest_notes (tenant_id, mailbox_id) VALUES (old.tenant_id, zeroblob(16));
END;
