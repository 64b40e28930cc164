-- What mechanisms that never see the password are verified by.

-- Older binaries need not know of the column: a password that they set forgets what was kept of the one before.
UPDATE schema_info SET version = 4;

-- Sealed under the tenant's key; NULL where a policy asks for none, or none could be made yet.
ALTER TABLE mailboxes ADD COLUMN verifiers BLOB;

CREATE TRIGGER verifiers_go_with_their_password AFTER UPDATE OF password_hash ON mailboxes
    WHEN NEW.password_hash IS NOT OLD.password_hash AND NEW.verifiers IS OLD.verifiers AND NEW.verifiers IS NOT NULL
BEGIN
    UPDATE mailboxes SET verifiers = NULL WHERE tenant_id = NEW.tenant_id AND mailbox_id = NEW.mailbox_id;
END;
