-- What a tenant is and may do, and what was done: as PostgreSQL's, less row-level security, and with sessions,
-- login times and tasks in the memory of the one process.

UPDATE schema_info SET version = 2;

ALTER TABLE tenants ADD COLUMN state text NOT NULL DEFAULT 'active';
ALTER TABLE tenants ADD COLUMN revision integer NOT NULL DEFAULT 1;
ALTER TABLE tenants ADD COLUMN quota_octets integer;
ALTER TABLE tenants ADD COLUMN quota_messages integer;
ALTER TABLE tenants ADD COLUMN over_allocation_percent integer;
ALTER TABLE tenants ADD COLUMN mailbox_quota_octets integer;
ALTER TABLE tenants ADD COLUMN mailbox_quota_messages integer;
ALTER TABLE tenants ADD COLUMN limits text NOT NULL DEFAULT '{}';
ALTER TABLE tenants ADD COLUMN policy text NOT NULL DEFAULT '{}';

ALTER TABLE domains ADD COLUMN alias_of text;

ALTER TABLE mailboxes ADD COLUMN state text NOT NULL DEFAULT 'active';
ALTER TABLE mailboxes ADD COLUMN revision integer NOT NULL DEFAULT 1;
ALTER TABLE mailboxes ADD COLUMN quota_messages integer;
ALTER TABLE mailboxes ADD COLUMN policy text NOT NULL DEFAULT '{}';
-- An empty password_hash stands for none.

CREATE TABLE aliases (
    tenant_id  blob NOT NULL,
    address    text NOT NULL,
    mailbox_id blob NOT NULL,
    created_at integer NOT NULL,
    PRIMARY KEY (tenant_id, address)
) WITHOUT ROWID;
CREATE INDEX aliases_by_mailbox ON aliases (tenant_id, mailbox_id);

CREATE TABLE app_passwords (
    tenant_id     blob NOT NULL,
    mailbox_id    blob NOT NULL,
    credential_id blob NOT NULL,
    label         text NOT NULL,
    scope         text NOT NULL,
    password_hash text NOT NULL,
    expires_at    integer,
    last_used_at  integer,
    created_at    integer NOT NULL,
    PRIMARY KEY (tenant_id, mailbox_id, credential_id)
) WITHOUT ROWID;

CREATE TABLE tenant_usage (
    tenant_id        blob PRIMARY KEY,
    mailboxes        integer NOT NULL,
    messages         integer NOT NULL,
    octets           integer NOT NULL,
    allocated_octets integer NOT NULL
) WITHOUT ROWID;
INSERT INTO tenant_usage (tenant_id, mailboxes, messages, octets, allocated_octets)
SELECT tenant_id, count(*), sum(message_count), sum(octets), sum(coalesce(quota_octets, 0))
  FROM mailboxes GROUP BY tenant_id;
CREATE TRIGGER mailboxes_inserted AFTER INSERT ON mailboxes BEGIN
    INSERT INTO tenant_usage (tenant_id, mailboxes, messages, octets, allocated_octets)
    VALUES (new.tenant_id, 1, new.message_count, new.octets, coalesce(new.quota_octets, 0))
        ON CONFLICT (tenant_id) DO UPDATE
       SET mailboxes = mailboxes + 1, messages = messages + excluded.messages,
           octets = octets + excluded.octets, allocated_octets = allocated_octets + excluded.allocated_octets;
END;
CREATE TRIGGER mailboxes_updated AFTER UPDATE OF message_count, octets, quota_octets ON mailboxes BEGIN
    UPDATE tenant_usage
       SET messages = messages + new.message_count - old.message_count,
           octets = octets + new.octets - old.octets,
           allocated_octets = allocated_octets + coalesce(new.quota_octets, 0) - coalesce(old.quota_octets, 0)
     WHERE tenant_id = new.tenant_id;
END;
CREATE TRIGGER mailboxes_deleted AFTER DELETE ON mailboxes BEGIN
    UPDATE tenant_usage
       SET mailboxes = mailboxes - 1, messages = messages - old.message_count, octets = octets - old.octets,
           allocated_octets = allocated_octets - coalesce(old.quota_octets, 0)
     WHERE tenant_id = old.tenant_id;
END;

CREATE TABLE tenant_deletions (
    tenant_id       blob PRIMARY KEY,
    name            text NOT NULL,
    rows_deleted    integer NOT NULL DEFAULT 0,
    rows_left       integer NOT NULL DEFAULT 1,
    objects_deleted integer NOT NULL DEFAULT 0,
    begun_at        integer NOT NULL,
    finished_at     integer
) WITHOUT ROWID;

CREATE TABLE api_keys (
    key_id       blob PRIMARY KEY,
    tenant_id    blob,
    role         text NOT NULL,
    label        text NOT NULL,
    secret_hash  blob NOT NULL,
    created_by   text NOT NULL,
    expires_at   integer,
    last_used_at integer,
    created_at   integer NOT NULL
) WITHOUT ROWID;
CREATE INDEX api_keys_by_tenant ON api_keys (tenant_id, key_id);

CREATE TABLE certificates (
    tenant_id  blob NOT NULL,
    host       text NOT NULL UNIQUE,
    chain      text NOT NULL,
    sealed_key blob NOT NULL,
    not_after  integer NOT NULL,
    created_at integer NOT NULL,
    PRIMARY KEY (tenant_id, host)
) WITHOUT ROWID;

ALTER TABLE audit_log ADD COLUMN request text NOT NULL DEFAULT '';
ALTER TABLE audit_log ADD COLUMN before_value text;
ALTER TABLE audit_log ADD COLUMN after_value text;
CREATE INDEX audit_log_by_tenant ON audit_log (tenant_id, audit_id);
CREATE TRIGGER audit_log_updated BEFORE UPDATE ON audit_log BEGIN
    SELECT raise(ABORT, 'the audit log is append-only');
END;
CREATE TRIGGER audit_log_deleted BEFORE DELETE ON audit_log BEGIN
    SELECT raise(ABORT, 'the audit log is append-only');
END;

CREATE TABLE request_claims (
    caller  text NOT NULL,
    key     text NOT NULL,
    request blob NOT NULL,
    at      integer NOT NULL,
    status  integer,
    body    blob,
    etag    text,
    PRIMARY KEY (caller, key)
) WITHOUT ROWID;
CREATE INDEX request_claims_by_time ON request_claims (at);

CREATE TABLE traffic (
    tenant_id    blob NOT NULL,
    day          integer NOT NULL,      -- Julian day number (UTC)
    mailbox_id   blob NOT NULL,         -- all zeros: the tenant as a whole
    logins       integer NOT NULL,
    messages_out integer NOT NULL,
    octets_out   integer NOT NULL,
    messages_in  integer NOT NULL,
    octets_in    integer NOT NULL,
    PRIMARY KEY (tenant_id, day, mailbox_id)
) WITHOUT ROWID;

CREATE TABLE deleted_messages (
    tenant_id     blob NOT NULL,
    mailbox_id    blob NOT NULL,
    uid           integer NOT NULL,
    pack_id       blob NOT NULL,
    pack_offset   integer NOT NULL,
    pack_length   integer NOT NULL,
    octets        integer NOT NULL,
    header_octets integer NOT NULL,
    received_at   integer NOT NULL,
    digest        blob NOT NULL,
    delivered_to  text NOT NULL,
    unique_id     text,
    deleted_at    integer NOT NULL,
    keep_until    integer NOT NULL,
    PRIMARY KEY (tenant_id, mailbox_id, uid)
) WITHOUT ROWID;
CREATE INDEX deleted_messages_by_pack ON deleted_messages (tenant_id, pack_id);
CREATE INDEX deleted_messages_by_time ON deleted_messages (keep_until);
