-- Bulletins: as PostgreSQL's. There is one writer, so each mailbox is created before a bulletin or after it.

UPDATE schema_info SET version = 9;

ALTER TABLE tenants ADD COLUMN bulletins integer NOT NULL DEFAULT 0;
ALTER TABLE mailboxes ADD COLUMN bulletins integer NOT NULL DEFAULT 0;

CREATE TABLE bulletins (
    tenant_id     blob NOT NULL,
    bulletin_id   blob NOT NULL,
    number        integer NOT NULL,
    note          text NOT NULL,
    state         text NOT NULL
                  CHECK (state IN ('rolling_out', 'active', 'ended', 'withdrawing', 'withdrawn')),
    new_mailboxes integer NOT NULL,
    expires_at    integer,
    pack_id       blob NOT NULL,
    pack_offset   integer NOT NULL,
    pack_length   integer NOT NULL,
    octets        integer NOT NULL,
    ascii_extra   integer,
    header_octets integer NOT NULL,
    digest        blob NOT NULL,
    reached       blob,
    delivered     integer NOT NULL DEFAULT 0,
    removed       integer NOT NULL DEFAULT 0,
    created_by    text NOT NULL,
    created_at    integer NOT NULL,
    ended_at      integer,
    PRIMARY KEY (tenant_id, bulletin_id),
    UNIQUE (tenant_id, number)
) WITHOUT ROWID;
CREATE INDEX bulletins_open ON bulletins (tenant_id, bulletin_id)
 WHERE state IN ('rolling_out', 'active', 'withdrawing');
CREATE INDEX bulletins_by_pack ON bulletins (tenant_id, pack_id);
