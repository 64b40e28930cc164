-- The first schema. Every table of a tenant's data is keyed by tenant_id first, so that it can be
-- partitioned, sharded or walled off by row-level security without a redesign.

-- What the schema is, and which binaries may work with it. A migration that old binaries cannot live with
-- raises compatible_from; a binary refuses to serve when its own schema version is under it.
CREATE TABLE schema_info (
    only_row        boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version         integer NOT NULL,
    compatible_from integer NOT NULL
);
INSERT INTO schema_info (version, compatible_from) VALUES (1, 1);

-- A value derived from the master key, to notice a wrong one before it does harm.
CREATE TABLE key_check (
    only_row  boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    check_value bytea NOT NULL
);

CREATE TABLE tenants (
    tenant_id  uuid PRIMARY KEY,
    name       text NOT NULL UNIQUE,
    data_key   bytea NOT NULL,          -- sealed under the master key
    created_at timestamptz NOT NULL
);

CREATE TABLE domains (
    tenant_id  uuid NOT NULL REFERENCES tenants,
    name       text NOT NULL,           -- lower case, A-labels
    created_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, name),
    UNIQUE (name)                       -- a login or a recipient finds its tenant by the domain alone
);

CREATE TABLE mailboxes (
    tenant_id          uuid NOT NULL REFERENCES tenants,
    mailbox_id         uuid NOT NULL,
    address            text NOT NULL,   -- lower case
    credential_version bigint NOT NULL DEFAULT 1,
    quota_octets       bigint,          -- NULL: no limit
    next_uid           bigint NOT NULL DEFAULT 1,
    message_count      bigint NOT NULL DEFAULT 0 CHECK (message_count >= 0),
    octets             bigint NOT NULL DEFAULT 0 CHECK (octets >= 0),
    created_at         timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, mailbox_id),
    UNIQUE (tenant_id, address)
) WITH (fillfactor = 70);               -- counters change with every delivery: keep room for HOT updates

CREATE TABLE credentials (
    tenant_id     uuid NOT NULL,
    mailbox_id    uuid NOT NULL,
    password_hash text NOT NULL,        -- PHC string
    PRIMARY KEY (tenant_id, mailbox_id),
    FOREIGN KEY (tenant_id, mailbox_id) REFERENCES mailboxes ON DELETE CASCADE
);

CREATE TABLE messages (
    tenant_id     uuid NOT NULL,
    mailbox_id    uuid NOT NULL,
    uid           bigint NOT NULL,      -- grows per mailbox, never reused
    pack_id       uuid NOT NULL,
    pack_offset   bigint NOT NULL,      -- first octet of the entry in the pack
    pack_length   bigint NOT NULL,      -- octets of the entry
    octets        bigint NOT NULL,      -- what RETR sends before byte-stuffing, Delivered-To included
    header_octets bigint NOT NULL,      -- stored header with its blank line, Delivered-To not included
    received_at   timestamptz NOT NULL,
    digest        bytea NOT NULL,       -- BLAKE3 of the stored octets
    delivered_to  text NOT NULL,        -- address of the Delivered-To line, '' for none
    unique_id     text,                 -- only where a migration brought one; else made from the uid
    PRIMARY KEY (tenant_id, mailbox_id, uid)
);
-- Reachability: which messages point into a pack.
CREATE INDEX messages_by_pack ON messages (tenant_id, pack_id);

CREATE TABLE packs (
    tenant_id  uuid NOT NULL,
    pack_id    uuid NOT NULL,
    octets     bigint NOT NULL,         -- of the whole object
    entries    integer NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, pack_id)
);

-- Mailboxes that did not take their message of a pack: so that a repeated delivery is answered as the first
-- was. Rare, and gone with the pack.
CREATE TABLE pack_refusals (
    tenant_id  uuid NOT NULL,
    pack_id    uuid NOT NULL,
    mailbox_id uuid NOT NULL,
    PRIMARY KEY (tenant_id, pack_id, mailbox_id)
);

-- Append-only: octets of a pack that nothing points at any more.
CREATE TABLE pack_garbage (
    tenant_id uuid NOT NULL,
    pack_id   uuid NOT NULL,
    octets    bigint NOT NULL,
    at        timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX pack_garbage_by_pack ON pack_garbage (tenant_id, pack_id);

-- Who changed what (P2). Append-only; survives the tenant it speaks of.
CREATE TABLE audit_log (
    audit_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at        timestamptz NOT NULL,
    tenant_id uuid,
    actor     text NOT NULL,
    origin    text NOT NULL,
    action    text NOT NULL,
    target    text NOT NULL
);
CREATE INDEX audit_log_by_tenant ON audit_log (tenant_id, audit_id);

-- Nodes and locks need not survive a crash of the database: a session that finds its lock gone cannot
-- commit, which is safe.
CREATE UNLOGGED TABLE nodes (
    node_id    uuid PRIMARY KEY,        -- one run of one process
    name       text NOT NULL,
    expires_at timestamptz NOT NULL     -- by this database's clock alone
) WITH (fillfactor = 50);

CREATE UNLOGGED TABLE maildrop_locks (
    tenant_id   uuid NOT NULL,
    mailbox_id  uuid NOT NULL,
    token       uuid NOT NULL,          -- proof of holding it (fencing)
    node_id     uuid NOT NULL,
    PRIMARY KEY (tenant_id, mailbox_id)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 5000);

-- Whether a node lives, as of this moment: volatile, so that it sees what was committed after the calling
-- statement began. Judged by an old snapshot, a node that said so since would be taken for dead.
CREATE FUNCTION node_lives(p_node uuid) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RETURN EXISTS (SELECT FROM nodes n WHERE n.node_id = p_node AND n.expires_at > clock_timestamp());
END
$$;

-- Ends a statement that took so long that its client may have given up on it: what nobody waits for must not
-- happen.
CREATE FUNCTION still_wanted(p_patience interval) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF clock_timestamp() - statement_timestamp() > p_patience THEN
        RAISE EXCEPTION 'the statement took longer than its client waits' USING ERRCODE = '57014';
    END IF;
END
$$;

-- Takes the locks of several maildrops and reads their counters. The second statement has a newer snapshot
-- than the first (READ COMMITTED), so the counters are those of after the lock was taken: what the former
-- holder committed last is in them. A lock row that somebody is changing right now is waited for only
-- briefly (55P03): the caller then asks for each maildrop by itself.
--   outcome: 0 opened, 1 in use, 2 stale credential or no such mailbox, 3 the node's lease has run out
CREATE FUNCTION open_maildrops(
    p_node uuid, p_tenants uuid[], p_mailboxes uuid[], p_versions bigint[], p_tokens uuid[],
    p_patience interval
) RETURNS TABLE (place integer, outcome integer, message_count bigint, octets bigint, next_uid bigint)
LANGUAGE plpgsql VOLATILE SET lock_timeout = '500ms' AS $$
BEGIN
    IF NOT node_lives(p_node) THEN
        RETURN QUERY SELECT g::integer, 3, 0::bigint, 0::bigint, 0::bigint
                       FROM generate_subscripts(p_tokens, 1) g;
        RETURN;
    END IF;
    INSERT INTO maildrop_locks AS l (tenant_id, mailbox_id, token, node_id)
    SELECT r.tenant, r.mailbox, r.token, p_node
      FROM unnest(p_tenants, p_mailboxes, p_versions, p_tokens) AS r (tenant, mailbox, version, token)
      JOIN mailboxes b
        ON b.tenant_id = r.tenant AND b.mailbox_id = r.mailbox AND b.credential_version = r.version
     ORDER BY r.tenant, r.mailbox
        ON CONFLICT (tenant_id, mailbox_id) DO UPDATE
       SET token = excluded.token, node_id = excluded.node_id
     WHERE NOT node_lives(l.node_id);
    RETURN QUERY
    SELECT r.place::integer,
           CASE WHEN b.mailbox_id IS NULL THEN 2
                WHEN l.token = r.token THEN 0
                WHEN b.credential_version <> r.version THEN 2
                ELSE 1 END,
           b.message_count, b.octets, b.next_uid
      FROM unnest(p_tenants, p_mailboxes, p_versions, p_tokens) WITH ORDINALITY
           AS r (tenant, mailbox, version, token, place)
      LEFT JOIN mailboxes b ON b.tenant_id = r.tenant AND b.mailbox_id = r.mailbox
      LEFT JOIN maildrop_locks l ON l.tenant_id = r.tenant AND l.mailbox_id = r.mailbox;
    PERFORM still_wanted(p_patience);
END
$$;

-- UPDATE: the lock row and the messages go together, or neither does (fencing). Without the lock row nothing
-- happens.
CREATE FUNCTION commit_update(
    p_tenant uuid, p_mailbox uuid, p_token uuid, p_uids bigint[], p_patience interval
) RETURNS TABLE (held bigint, gone bigint)
LANGUAGE plpgsql VOLATILE SET lock_timeout = '5s' AS $$
BEGIN
    RETURN QUERY
    WITH held_lock AS (
        DELETE FROM maildrop_locks
         WHERE tenant_id = p_tenant AND mailbox_id = p_mailbox AND token = p_token
     RETURNING 1
    ), gone_messages AS (
        DELETE FROM messages
         WHERE tenant_id = p_tenant AND mailbox_id = p_mailbox AND uid = ANY (p_uids)
           AND EXISTS (SELECT FROM held_lock)
     RETURNING octets, pack_id, pack_length
    ), garbage AS (
        INSERT INTO pack_garbage (tenant_id, pack_id, octets)
        SELECT p_tenant, g.pack_id, sum(g.pack_length) FROM gone_messages g GROUP BY g.pack_id
    ), counted AS (
        UPDATE mailboxes b
           SET message_count = b.message_count - (SELECT count(*) FROM gone_messages),
               octets = b.octets - (SELECT coalesce(sum(g.octets), 0) FROM gone_messages g)
         WHERE b.tenant_id = p_tenant AND b.mailbox_id = p_mailbox AND EXISTS (SELECT FROM gone_messages)
    )
    SELECT (SELECT count(*) FROM held_lock), (SELECT count(*) FROM gone_messages);
    PERFORM still_wanted(p_patience);
END
$$;

-- Puts the messages of one pack into maildrops: pack row, uids, rows, counters, within the quota. Repeating
-- it changes nothing and answers the same.
--   outcome: 0 delivered, 1 over quota, 2 no such mailbox, 3 delivered before, and gone since
CREATE FUNCTION deliver_pack(
    p_tenant uuid, p_pack uuid, p_pack_octets bigint, p_pack_entries integer,
    p_mailboxes uuid[], p_offsets bigint[], p_lengths bigint[], p_octets bigint[], p_header_octets bigint[],
    p_received timestamptz[], p_digests bytea[], p_delivered_to text[], p_unique_ids text[]
) RETURNS TABLE (place integer, outcome integer, uid bigint)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
BEGIN
    INSERT INTO packs (tenant_id, pack_id, octets, entries)
    SELECT p_tenant, p_pack, p_pack_octets, p_pack_entries
     WHERE EXISTS (SELECT FROM tenants t WHERE t.tenant_id = p_tenant)
        ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN QUERY
        SELECT r.place::integer,
               CASE WHEN m.uid IS NOT NULL THEN 0
                    WHEN b.mailbox_id IS NULL THEN 2
                    WHEN f.mailbox_id IS NOT NULL THEN 1
                    ELSE 3 END,
               m.uid
          FROM unnest(p_mailboxes, p_offsets) WITH ORDINALITY AS r (mailbox, pack_offset, place)
          LEFT JOIN mailboxes b ON b.tenant_id = p_tenant AND b.mailbox_id = r.mailbox
          LEFT JOIN messages m ON m.tenant_id = p_tenant AND m.pack_id = p_pack
                              AND m.mailbox_id = r.mailbox AND m.pack_offset = r.pack_offset
          LEFT JOIN pack_refusals f ON f.tenant_id = p_tenant AND f.pack_id = p_pack
                                   AND f.mailbox_id = r.mailbox;
        RETURN;
    END IF;
    -- In one order everywhere, so that two deliveries to the same mailboxes cannot wait for each other.
    PERFORM FROM mailboxes b
      WHERE b.tenant_id = p_tenant AND b.mailbox_id = ANY (p_mailboxes)
      ORDER BY b.mailbox_id
        FOR NO KEY UPDATE;
    RETURN QUERY
    WITH asked AS (
        SELECT r.*, b.mailbox_id IS NOT NULL AS known, b.next_uid,
               b.quota_octets IS NULL OR b.octets
                   + sum(r.octets) OVER (PARTITION BY r.mailbox ORDER BY r.place) <= b.quota_octets AS fits
          FROM unnest(p_mailboxes, p_offsets, p_lengths, p_octets, p_header_octets, p_received, p_digests,
                      p_delivered_to, p_unique_ids) WITH ORDINALITY
               AS r (mailbox, pack_offset, pack_length, octets, header_octets, received_at, digest,
                     delivered_to, unique_id, place)
          LEFT JOIN mailboxes b ON b.tenant_id = p_tenant AND b.mailbox_id = r.mailbox
    ), taken AS (
        SELECT a.*, a.next_uid + row_number() OVER (PARTITION BY a.mailbox ORDER BY a.place) - 1 AS uid
          FROM asked a
         WHERE a.known AND a.fits
    ), counted AS (
        UPDATE mailboxes b
           SET next_uid = b.next_uid + s.messages,
               message_count = b.message_count + s.messages,
               octets = b.octets + s.octets
          FROM (SELECT t.mailbox, count(*) AS messages, sum(t.octets) AS octets
                  FROM taken t GROUP BY t.mailbox) s
         WHERE b.tenant_id = p_tenant AND b.mailbox_id = s.mailbox
    ), inserted AS (
        INSERT INTO messages (tenant_id, mailbox_id, uid, pack_id, pack_offset, pack_length, octets,
                              header_octets, received_at, digest, delivered_to, unique_id)
        SELECT p_tenant, t.mailbox, t.uid, p_pack, t.pack_offset, t.pack_length, t.octets,
               t.header_octets, t.received_at, t.digest, t.delivered_to, t.unique_id
          FROM taken t
    ), refused AS (
        INSERT INTO pack_refusals (tenant_id, pack_id, mailbox_id)
        SELECT p_tenant, p_pack, a.mailbox FROM asked a WHERE a.known AND NOT a.fits
            ON CONFLICT DO NOTHING
    ), garbage AS (
        -- Entries that no row will ever point at.
        INSERT INTO pack_garbage (tenant_id, pack_id, octets)
        SELECT p_tenant, p_pack, a.pack_length
          FROM asked a
         GROUP BY a.pack_offset, a.pack_length
        HAVING NOT bool_or(a.known AND a.fits)
    )
    SELECT a.place::integer,
           CASE WHEN t.uid IS NOT NULL THEN 0 WHEN a.known THEN 1 ELSE 2 END,
           t.uid
      FROM asked a LEFT JOIN taken t ON t.place = a.place;
END
$$;
