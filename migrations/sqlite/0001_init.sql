-- The embedded schema: the tables of PostgreSQL, less nodes and locks, which one process keeps in memory.
-- Identifiers are blobs of 16 octets; times are microseconds since 1970 in UTC.

CREATE TABLE schema_info (
    only_row        integer PRIMARY KEY CHECK (only_row = 1),
    version         integer NOT NULL,
    compatible_from integer NOT NULL
);
INSERT INTO schema_info (only_row, version, compatible_from) VALUES (1, 1, 1);

CREATE TABLE key_check (
    only_row    integer PRIMARY KEY CHECK (only_row = 1),
    check_value blob NOT NULL
);

CREATE TABLE tenants (
    tenant_id  blob PRIMARY KEY,
    name       text NOT NULL UNIQUE,
    data_key   blob NOT NULL,
    created_at integer NOT NULL
) WITHOUT ROWID;

CREATE TABLE domains (
    tenant_id  blob NOT NULL,
    name       text NOT NULL UNIQUE,
    created_at integer NOT NULL,
    PRIMARY KEY (tenant_id, name)
) WITHOUT ROWID;

CREATE TABLE mailboxes (
    tenant_id          blob NOT NULL,
    mailbox_id         blob NOT NULL,
    address            text NOT NULL,
    credential_version integer NOT NULL DEFAULT 1,
    password_hash      text NOT NULL,
    quota_octets       integer,
    next_uid           integer NOT NULL DEFAULT 1,
    message_count      integer NOT NULL DEFAULT 0 CHECK (message_count >= 0),
    octets             integer NOT NULL DEFAULT 0 CHECK (octets >= 0),
    created_at         integer NOT NULL,
    PRIMARY KEY (tenant_id, mailbox_id),
    UNIQUE (tenant_id, address)
) WITHOUT ROWID;

CREATE TABLE messages (
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
    PRIMARY KEY (tenant_id, mailbox_id, uid)
) WITHOUT ROWID;
CREATE INDEX messages_by_pack ON messages (tenant_id, pack_id);

CREATE TABLE packs (
    tenant_id  blob NOT NULL,
    pack_id    blob NOT NULL,
    octets     integer NOT NULL,
    entries    integer NOT NULL,
    created_at integer NOT NULL,
    PRIMARY KEY (tenant_id, pack_id)
) WITHOUT ROWID;

CREATE TABLE pack_refusals (
    tenant_id  blob NOT NULL,
    pack_id    blob NOT NULL,
    mailbox_id blob NOT NULL,
    PRIMARY KEY (tenant_id, pack_id, mailbox_id)
) WITHOUT ROWID;

CREATE TABLE pack_garbage (
    tenant_id blob NOT NULL,
    pack_id   blob NOT NULL,
    octets    integer NOT NULL,
    at        integer NOT NULL
);
CREATE INDEX pack_garbage_by_pack ON pack_garbage (tenant_id, pack_id);

CREATE TABLE audit_log (
    audit_id  integer PRIMARY KEY AUTOINCREMENT,
    at        integer NOT NULL,
    tenant_id blob,
    actor     text NOT NULL,
    origin    text NOT NULL,
    action    text NOT NULL,
    target    text NOT NULL
);
