-- Bulletins: an operator's message, stored once, shown once to every mailbox of a tenant.

-- Older binaries serve bulletins as any mail, and do not see to them. A mailbox that one of them creates does not get
-- those that are for new mailboxes.
UPDATE schema_info SET version = 9;

-- How many bulletins there have been. Whoever posts one holds the row (FOR UPDATE), and whoever creates mailboxes does
-- (FOR KEY SHARE): so each mailbox is created before a bulletin or after it.
ALTER TABLE tenants ADD COLUMN bulletins bigint NOT NULL DEFAULT 0;
-- How many there had been when the mailbox was created. It got those up to there in that moment, or never gets them.
ALTER TABLE mailboxes ADD COLUMN bulletins bigint NOT NULL DEFAULT 0;

CREATE TABLE bulletins (
    tenant_id     uuid NOT NULL REFERENCES tenants ON DELETE CASCADE,
    bulletin_id   uuid NOT NULL,
    number        bigint NOT NULL,      -- the how manieth of its tenant, from 1
    note          text NOT NULL,        -- what its author calls it
    state         text NOT NULL
                  CHECK (state IN ('rolling_out', 'active', 'ended', 'withdrawing', 'withdrawn')),
    new_mailboxes boolean NOT NULL,     -- whether mailboxes that are created later get it, too
    expires_at    timestamptz,          -- from when on nobody gets it any more who does not have it
    pack_id       uuid NOT NULL,        -- until it is over, this keeps the entry alive as a message's row does
    pack_offset   bigint NOT NULL,
    pack_length   bigint NOT NULL,
    octets        bigint NOT NULL,      -- with its header in ASCII, Delivered-To not included
    ascii_extra   bigint,               -- as of a message, Delivered-To not included
    header_octets bigint NOT NULL,
    digest        bytea NOT NULL,
    reached       uuid,                 -- the last mailbox it was put into, in order of mailboxes; NULL: none yet
    delivered     bigint NOT NULL DEFAULT 0,    -- mailboxes that got it
    removed       bigint NOT NULL DEFAULT 0,    -- mailboxes it was taken from
    created_by    text NOT NULL,
    created_at    timestamptz NOT NULL,
    ended_at      timestamptz,
    PRIMARY KEY (tenant_id, bulletin_id),
    UNIQUE (tenant_id, number)
);
-- What there is something to do for, or will be.
CREATE INDEX bulletins_open ON bulletins (tenant_id, bulletin_id)
 WHERE state IN ('rolling_out', 'active', 'withdrawing');
-- Reachability: which bulletins point into a pack.
CREATE INDEX bulletins_by_pack ON bulletins (tenant_id, pack_id);

ALTER TABLE bulletins ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_tenant ON bulletins TO postern_tenant
    USING (tenant_id = nullif(current_setting('postern.tenant', true), '')::uuid)
    WITH CHECK (tenant_id = nullif(current_setting('postern.tenant', true), '')::uuid);
GRANT SELECT, INSERT, UPDATE, DELETE ON bulletins TO postern_tenant;
