-- What mechanisms that never see the password are verified by.

-- Older binaries need not know of the column: a password that they set forgets what was kept of the one before.
UPDATE schema_info SET version = 4;

-- Sealed under the tenant's key; NULL where a policy asks for none, or none could be made yet.
ALTER TABLE credentials ADD COLUMN verifiers bytea;

CREATE FUNCTION forget_verifiers() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.verifiers := NULL;
    RETURN NEW;
END $$;
CREATE TRIGGER verifiers_go_with_their_password BEFORE UPDATE OF password_hash ON credentials FOR EACH ROW
    WHEN (NEW.password_hash IS DISTINCT FROM OLD.password_hash AND NEW.verifiers IS NOT DISTINCT FROM OLD.verifiers)
    EXECUTE FUNCTION forget_verifiers();
