-- Manifests: what the bucket has to know to be enough by itself (P8), and what of it has changed since it was written.

-- Older binaries need not know: what they change is noted by triggers.
UPDATE schema_info SET version = 12;

-- How often the mailbox was changed, and whether that is to be written. Not a table of its own: a delivery changes this
-- row anyway, and stays a HOT update while the mailbox is due already.
ALTER TABLE mailboxes
    ADD COLUMN changes      bigint NOT NULL DEFAULT 0,
    ADD COLUMN manifest_due boolean NOT NULL DEFAULT false;
-- Nothing is due as yet, so the table is read for it, and nothing is sorted or written.
CREATE INDEX mailboxes_manifest_due ON mailboxes (tenant_id, mailbox_id) WHERE manifest_due;

CREATE FUNCTION mailbox_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.changes := NEW.changes + 1;
    NEW.manifest_due := true;
    RETURN NEW;
END $$;
CREATE TRIGGER mailbox_created BEFORE INSERT ON mailboxes FOR EACH ROW EXECUTE FUNCTION mailbox_changed();
-- Only what says that a mailbox was written takes the mark away.
CREATE TRIGGER mailbox_changed BEFORE UPDATE ON mailboxes FOR EACH ROW
    WHEN (NOT (OLD.manifest_due AND NOT NEW.manifest_due)) EXECUTE FUNCTION mailbox_changed();

-- What else is to be written: mailboxes of which something changed that is not in their row, or that are gone; all
-- zeros for the tenant itself.
CREATE TABLE manifest_notes (
    note_id    bigint GENERATED ALWAYS AS IDENTITY,
    tenant_id  uuid NOT NULL,
    mailbox_id uuid NOT NULL,
    PRIMARY KEY (tenant_id, note_id)
);

-- Rounds of writing, each some objects.
CREATE TABLE manifest_rounds (
    tenant_id uuid NOT NULL,
    round     bigint NOT NULL,          -- grows
    round_id  uuid NOT NULL,            -- in the objects' names
    is_full   boolean NOT NULL,         -- whether what is before it is no longer needed
    octets    bigint NOT NULL DEFAULT 0,
    begun_at  timestamptz NOT NULL,
    finished  boolean NOT NULL DEFAULT false,
    PRIMARY KEY (tenant_id, round)
);

CREATE FUNCTION note_for_manifest() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    changed record;
    mailbox uuid := '00000000-0000-0000-0000-000000000000';
BEGIN
    IF TG_OP = 'DELETE' THEN changed := OLD; ELSE changed := NEW; END IF;
    IF changed.tenant_id IS NULL THEN
        RETURN NULL;
    END IF;
    IF TG_ARGV[0] = 'mailbox' THEN
        mailbox := changed.mailbox_id;
    END IF;
    INSERT INTO manifest_notes (tenant_id, mailbox_id) VALUES (changed.tenant_id, mailbox);
    RETURN NULL;
END $$;
CREATE TRIGGER noted_for_manifest AFTER DELETE ON mailboxes
    FOR EACH ROW EXECUTE FUNCTION note_for_manifest('mailbox');
CREATE TRIGGER noted_for_manifest AFTER UPDATE OR DELETE ON credentials
    FOR EACH ROW EXECUTE FUNCTION note_for_manifest('mailbox');
CREATE TRIGGER noted_for_manifest AFTER INSERT OR UPDATE OR DELETE ON aliases
    FOR EACH ROW EXECUTE FUNCTION note_for_manifest('mailbox');
CREATE TRIGGER noted_for_manifest AFTER INSERT OR DELETE ON app_passwords
    FOR EACH ROW EXECUTE FUNCTION note_for_manifest('mailbox');
CREATE TRIGGER noted_for_manifest AFTER INSERT OR UPDATE ON tenants
    FOR EACH ROW EXECUTE FUNCTION note_for_manifest('tenant');
CREATE TRIGGER noted_for_manifest AFTER INSERT OR UPDATE OR DELETE ON domains
    FOR EACH ROW EXECUTE FUNCTION note_for_manifest('tenant');
CREATE TRIGGER noted_for_manifest AFTER INSERT OR UPDATE OR DELETE ON certificates
    FOR EACH ROW EXECUTE FUNCTION note_for_manifest('tenant');
CREATE TRIGGER noted_for_manifest AFTER INSERT OR DELETE ON api_keys
    FOR EACH ROW EXECUTE FUNCTION note_for_manifest('tenant');
CREATE TRIGGER noted_for_manifest AFTER INSERT OR UPDATE OR DELETE ON bulletins
    FOR EACH ROW EXECUTE FUNCTION note_for_manifest('tenant');

DO $$
DECLARE
    walled text;
BEGIN
    FOREACH walled IN ARRAY ARRAY['manifest_notes', 'manifest_rounds'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', walled);
        EXECUTE format(
            'CREATE POLICY of_tenant ON %I TO postern_tenant
                 USING (tenant_id = nullif(current_setting(''postern.tenant'', true), '''')::uuid)
                 WITH CHECK (tenant_id = nullif(current_setting(''postern.tenant'', true), '''')::uuid)', walled);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO postern_tenant', walled);
    END LOOP;
END
$$;
