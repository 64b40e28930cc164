-- What a tenant is and may do: states, quotas, limits, policies, aliases, app passwords, API keys,
-- certificates; what was done: audit with before and after, traffic, answers to repeated requests; deleted
-- messages that can be restored; and row-level security as a second wall between tenants.

-- Binaries of before do not know of suspended tenants or kept messages, and must not serve them.
UPDATE schema_info SET version = 2, compatible_from = 2;

-- Tenants ---------------------------------------------------------------------------------------------------

ALTER TABLE tenants
    ADD COLUMN state                   text NOT NULL DEFAULT 'active'
                                       CHECK (state IN ('active', 'suspended', 'deleting')),
    ADD COLUMN revision                bigint NOT NULL DEFAULT 1,
    ADD COLUMN quota_octets            bigint,           -- of all mailboxes together; NULL: no limit
    ADD COLUMN quota_messages          bigint,
    ADD COLUMN over_allocation_percent integer,          -- how much of quota_octets may be given away; NULL: any
    ADD COLUMN mailbox_quota_octets    bigint,           -- of a mailbox that has none of its own
    ADD COLUMN mailbox_quota_messages  bigint,
    ADD COLUMN limits                  jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN policy                  jsonb NOT NULL DEFAULT '{}';

ALTER TABLE domains
    ADD COLUMN alias_of text,                            -- another name of this domain of the same tenant
    ADD FOREIGN KEY (tenant_id, alias_of) REFERENCES domains (tenant_id, name);
CREATE INDEX domains_by_alias ON domains (tenant_id, alias_of) WHERE alias_of IS NOT NULL;

ALTER TABLE mailboxes
    ADD COLUMN state          text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'suspended')),
    ADD COLUMN revision       bigint NOT NULL DEFAULT 1,
    ADD COLUMN quota_messages bigint,
    ADD COLUMN policy         jsonb NOT NULL DEFAULT '{}',
    -- A column of its own, and not an expression: behind row-level security only a plain comparison may go to
    -- an index. The table is written anew for it, once.
    ADD COLUMN domain         text NOT NULL GENERATED ALWAYS AS (split_part(address, '@', -1)) STORED;
-- Lists and searches by prefix go octet by octet, whatever the database's collation.
CREATE INDEX mailboxes_by_address ON mailboxes (tenant_id, address COLLATE "C");
CREATE INDEX mailboxes_by_domain ON mailboxes (tenant_id, domain, address COLLATE "C");

-- Other addresses of mailboxes; '@domain' for all that nobody has.
CREATE TABLE aliases (
    tenant_id  uuid NOT NULL,
    address    text NOT NULL,
    mailbox_id uuid NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, address),
    FOREIGN KEY (tenant_id, mailbox_id) REFERENCES mailboxes ON DELETE CASCADE
);
CREATE INDEX aliases_by_address ON aliases (tenant_id, address COLLATE "C");
CREATE INDEX aliases_by_mailbox ON aliases (tenant_id, mailbox_id);

CREATE TABLE app_passwords (
    tenant_id     uuid NOT NULL,
    mailbox_id    uuid NOT NULL,
    credential_id uuid NOT NULL,
    label         text NOT NULL,
    scope         text NOT NULL CHECK (scope IN ('full', 'read_only')),
    password_hash text NOT NULL,
    expires_at    timestamptz,
    last_used_at  timestamptz,          -- to the hour
    created_at    timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, mailbox_id, credential_id),
    FOREIGN KEY (tenant_id, mailbox_id) REFERENCES mailboxes ON DELETE CASCADE
);

-- What a tenant holds, kept in a few rows so that deliveries to different mailboxes seldom meet.
CREATE TABLE tenant_usage (
    tenant_id        uuid NOT NULL,
    slot             integer NOT NULL,
    mailboxes        bigint NOT NULL,
    messages         bigint NOT NULL,
    octets           bigint NOT NULL,
    allocated_octets bigint NOT NULL,   -- given to mailboxes as their quotas
    PRIMARY KEY (tenant_id, slot)
) WITH (fillfactor = 50);

-- Every change of a mailbox's counters or quota, whoever makes it, is counted here. Slots are locked in one
-- order, and after the mailboxes, so that two statements cannot wait for each other.
CREATE FUNCTION mailboxes_counted() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        INSERT INTO tenant_usage AS u (tenant_id, slot, mailboxes, messages, octets, allocated_octets)
        SELECT n.tenant_id, uuid_hash(n.mailbox_id) & 15, 0, sum(n.message_count - o.message_count),
               sum(n.octets - o.octets), sum(coalesce(n.quota_octets, 0) - coalesce(o.quota_octets, 0))
          FROM new_rows n JOIN old_rows o ON o.tenant_id = n.tenant_id AND o.mailbox_id = n.mailbox_id
         WHERE n.message_count <> o.message_count OR n.octets <> o.octets
            OR n.quota_octets IS DISTINCT FROM o.quota_octets
         GROUP BY 1, 2 ORDER BY 1, 2
            ON CONFLICT (tenant_id, slot) DO UPDATE
           SET messages = u.messages + excluded.messages, octets = u.octets + excluded.octets,
               allocated_octets = u.allocated_octets + excluded.allocated_octets;
    ELSIF TG_OP = 'INSERT' THEN
        INSERT INTO tenant_usage AS u (tenant_id, slot, mailboxes, messages, octets, allocated_octets)
        SELECT n.tenant_id, uuid_hash(n.mailbox_id) & 15, count(*), sum(n.message_count), sum(n.octets),
               sum(coalesce(n.quota_octets, 0))
          FROM new_rows n GROUP BY 1, 2 ORDER BY 1, 2
            ON CONFLICT (tenant_id, slot) DO UPDATE
           SET mailboxes = u.mailboxes + excluded.mailboxes, messages = u.messages + excluded.messages,
               octets = u.octets + excluded.octets,
               allocated_octets = u.allocated_octets + excluded.allocated_octets;
    ELSE
        INSERT INTO tenant_usage AS u (tenant_id, slot, mailboxes, messages, octets, allocated_octets)
        SELECT o.tenant_id, uuid_hash(o.mailbox_id) & 15, -count(*), -sum(o.message_count), -sum(o.octets),
               -sum(coalesce(o.quota_octets, 0))
          FROM old_rows o GROUP BY 1, 2 ORDER BY 1, 2
            ON CONFLICT (tenant_id, slot) DO UPDATE
           SET mailboxes = u.mailboxes + excluded.mailboxes, messages = u.messages + excluded.messages,
               octets = u.octets + excluded.octets,
               allocated_octets = u.allocated_octets + excluded.allocated_octets;
    END IF;
    RETURN NULL;
END
$$;
-- What is there already. The lock keeps counters still until the triggers are there.
LOCK TABLE mailboxes IN SHARE ROW EXCLUSIVE MODE;
INSERT INTO tenant_usage (tenant_id, slot, mailboxes, messages, octets, allocated_octets)
SELECT tenant_id, uuid_hash(mailbox_id) & 15, count(*), sum(message_count), sum(octets),
       sum(coalesce(quota_octets, 0))
  FROM mailboxes GROUP BY 1, 2;
CREATE TRIGGER mailboxes_inserted AFTER INSERT ON mailboxes
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION mailboxes_counted();
CREATE TRIGGER mailboxes_updated AFTER UPDATE ON mailboxes
    REFERENCING NEW TABLE AS new_rows OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION mailboxes_counted();
CREATE TRIGGER mailboxes_deleted AFTER DELETE ON mailboxes
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION mailboxes_counted();

-- How far the deletion of a tenant has come. The key is gone from the first moment.
CREATE TABLE tenant_deletions (
    tenant_id       uuid PRIMARY KEY,
    name            text NOT NULL,
    rows_deleted    bigint NOT NULL DEFAULT 0,
    rows_left       boolean NOT NULL DEFAULT true,
    objects_deleted bigint NOT NULL DEFAULT 0,
    begun_at        timestamptz NOT NULL,
    finished_at     timestamptz
);

-- Keys and certificates -------------------------------------------------------------------------------------

CREATE TABLE api_keys (
    key_id       uuid PRIMARY KEY,
    tenant_id    uuid REFERENCES tenants,               -- NULL: of the platform
    role         text NOT NULL,
    label        text NOT NULL,
    secret_hash  bytea NOT NULL,        -- BLAKE3 of 256 random bits
    created_by   text NOT NULL,
    expires_at   timestamptz,
    last_used_at timestamptz,           -- to the minute
    created_at   timestamptz NOT NULL
);
CREATE INDEX api_keys_by_tenant ON api_keys (tenant_id, key_id);

CREATE TABLE certificates (
    tenant_id  uuid NOT NULL REFERENCES tenants,
    host       text NOT NULL,
    chain      text NOT NULL,           -- PEM, leaf first
    sealed_key bytea NOT NULL,          -- PEM, sealed under the tenant's data key
    not_after  timestamptz NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, host),
    UNIQUE (host)
);

-- What was done ---------------------------------------------------------------------------------------------

ALTER TABLE audit_log
    ADD COLUMN request      text NOT NULL DEFAULT '',
    ADD COLUMN before_value jsonb,
    ADD COLUMN after_value  jsonb;
-- Nobody changes it, not even us.
CREATE FUNCTION audit_is_append_only() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is append-only';
END
$$;
CREATE TRIGGER audit_log_rows BEFORE UPDATE OR DELETE ON audit_log
    FOR EACH ROW EXECUTE FUNCTION audit_is_append_only();
CREATE TRIGGER audit_log_whole BEFORE TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only();

-- Requests that may come more than once, and their answers.
CREATE TABLE request_claims (
    caller  text NOT NULL,
    key     text NOT NULL,
    request bytea NOT NULL,             -- hash of method, path and body
    at      timestamptz NOT NULL,
    status  integer,                    -- NULL: under way, or broken off
    body    bytea,
    etag    text,
    PRIMARY KEY (caller, key)
);
CREATE INDEX request_claims_by_time ON request_claims (at);

CREATE TABLE traffic (
    tenant_id    uuid NOT NULL,
    day          date NOT NULL,         -- UTC
    mailbox_id   uuid NOT NULL,         -- all zeros: the tenant as a whole
    logins       bigint NOT NULL,
    messages_out bigint NOT NULL,
    octets_out   bigint NOT NULL,
    messages_in  bigint NOT NULL,
    octets_in    bigint NOT NULL,
    PRIMARY KEY (tenant_id, day, mailbox_id)
) WITH (fillfactor = 70);

-- Messages --------------------------------------------------------------------------------------------------

-- Deleted, and restorable until keep_until. They keep their packs alive, as messages do.
CREATE TABLE deleted_messages (
    tenant_id     uuid NOT NULL,
    mailbox_id    uuid NOT NULL,
    uid           bigint NOT NULL,
    pack_id       uuid NOT NULL,
    pack_offset   bigint NOT NULL,
    pack_length   bigint NOT NULL,
    octets        bigint NOT NULL,
    header_octets bigint NOT NULL,
    received_at   timestamptz NOT NULL,
    digest        bytea NOT NULL,
    delivered_to  text NOT NULL,
    unique_id     text,
    deleted_at    timestamptz NOT NULL DEFAULT now(),
    keep_until    timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, mailbox_id, uid)
);
CREATE INDEX deleted_messages_by_pack ON deleted_messages (tenant_id, pack_id);
CREATE INDEX deleted_messages_by_time ON deleted_messages (keep_until);

-- Locks say whose they are, so that an administrator can see and end a session.
ALTER TABLE maildrop_locks
    ADD COLUMN session text NOT NULL DEFAULT '',
    ADD COLUMN peer    text NOT NULL DEFAULT '',
    ADD COLUMN since   timestamptz NOT NULL DEFAULT clock_timestamp();

-- Sessions that shall end: their nodes ask with each heartbeat, for a minute.
CREATE UNLOGGED TABLE session_ends (
    node_id uuid NOT NULL,
    session text NOT NULL,
    at      timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX session_ends_by_node ON session_ends (node_id);

-- The last login, where LOGIN-DELAY is asked for.
CREATE UNLOGGED TABLE login_times (
    tenant_id  uuid NOT NULL,
    mailbox_id uuid NOT NULL,
    at         timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, mailbox_id)
) WITH (fillfactor = 70);

-- Who does which housekeeping.
CREATE UNLOGGED TABLE tasks (
    task       text PRIMARY KEY,
    node_id    uuid NOT NULL,
    expires_at timestamptz NOT NULL
);

-- As before, with more to say of each session, and more reasons to refuse one. What only some tenants ask for
-- costs the others nothing.
--   outcome: 0 opened, 1 in use, 2 stale credential or policy, or no such mailbox, 3 the node's lease has run
--            out, 4 too soon after the last login, 5 too many sessions of the tenant
CREATE FUNCTION open_maildrops(
    p_node uuid, p_tenants uuid[], p_mailboxes uuid[], p_revisions bigint[], p_versions bigint[],
    p_tokens uuid[], p_sessions text[], p_peers text[], p_delays double precision[], p_sessions_max integer[],
    p_patience interval
) RETURNS TABLE (place integer, outcome integer, message_count bigint, octets bigint, next_uid bigint)
LANGUAGE plpgsql VOLATILE SET lock_timeout = '500ms' AS $$
#variable_conflict use_column
DECLARE
    delayed boolean := EXISTS (SELECT FROM unnest(p_delays) d WHERE d > 0);
BEGIN
    IF NOT node_lives(p_node) THEN
        RETURN QUERY SELECT g::integer, 3, 0::bigint, 0::bigint, 0::bigint
                       FROM generate_subscripts(p_tokens, 1) g;
        RETURN;
    END IF;
    INSERT INTO maildrop_locks AS l (tenant_id, mailbox_id, token, node_id, session, peer)
    SELECT r.tenant, r.mailbox, r.token, p_node, r.session, r.peer
      FROM unnest(p_tenants, p_mailboxes, p_revisions, p_versions, p_tokens, p_sessions, p_peers, p_delays,
                  p_sessions_max) WITH ORDINALITY
           AS r (tenant, mailbox, revision, version, token, session, peer, delay, sessions_max, place)
      JOIN mailboxes b
        ON b.tenant_id = r.tenant AND b.mailbox_id = r.mailbox AND b.credential_version = r.version
      JOIN tenants t ON t.tenant_id = r.tenant AND t.revision = r.revision
     WHERE (r.delay = 0 OR NOT EXISTS (
               SELECT FROM login_times i
                WHERE i.tenant_id = r.tenant AND i.mailbox_id = r.mailbox
                  AND i.at > clock_timestamp() - make_interval(secs => r.delay)))
       AND (r.sessions_max IS NULL OR (
               -- Those before it in this statement count as if they were let in.
               SELECT count(*) FROM (SELECT FROM maildrop_locks o
                                       JOIN nodes n ON n.node_id = o.node_id AND n.expires_at > clock_timestamp()
                                      WHERE o.tenant_id = r.tenant
                                        AND o.token <> ALL (p_tokens)
                                      LIMIT r.sessions_max) open_now
           ) + (SELECT count(*) FROM unnest(p_tenants) WITH ORDINALITY AS before (tenant, place)
                 WHERE before.tenant = r.tenant AND before.place < r.place) < r.sessions_max)
     ORDER BY r.tenant, r.mailbox
        ON CONFLICT (tenant_id, mailbox_id) DO UPDATE
       SET token = excluded.token, node_id = excluded.node_id, session = excluded.session,
           peer = excluded.peer, since = clock_timestamp()
     WHERE NOT node_lives(l.node_id);
    RETURN QUERY
    SELECT r.place::integer,
           CASE WHEN b.mailbox_id IS NULL OR t.tenant_id IS NULL THEN 2
                WHEN l.token = r.token THEN 0
                WHEN b.credential_version <> r.version OR t.revision <> r.revision THEN 2
                WHEN l.token IS NOT NULL THEN 1
                WHEN r.delay > 0 AND EXISTS (
                         SELECT FROM login_times i
                          WHERE i.tenant_id = r.tenant AND i.mailbox_id = r.mailbox
                            AND i.at > clock_timestamp() - make_interval(secs => r.delay)) THEN 4
                WHEN r.sessions_max IS NOT NULL THEN 5
                ELSE 1 END,
           b.message_count, b.octets, b.next_uid
      FROM unnest(p_tenants, p_mailboxes, p_revisions, p_versions, p_tokens, p_delays, p_sessions_max)
           WITH ORDINALITY AS r (tenant, mailbox, revision, version, token, delay, sessions_max, place)
      LEFT JOIN mailboxes b ON b.tenant_id = r.tenant AND b.mailbox_id = r.mailbox
      LEFT JOIN tenants t ON t.tenant_id = r.tenant
      LEFT JOIN maildrop_locks l ON l.tenant_id = r.tenant AND l.mailbox_id = r.mailbox;
    IF delayed THEN
        INSERT INTO login_times AS i (tenant_id, mailbox_id, at)
        SELECT r.tenant, r.mailbox, clock_timestamp()
          FROM unnest(p_tenants, p_mailboxes, p_tokens, p_delays) AS r (tenant, mailbox, token, delay)
          JOIN maildrop_locks l
            ON l.tenant_id = r.tenant AND l.mailbox_id = r.mailbox AND l.token = r.token
         WHERE r.delay > 0
         ORDER BY r.tenant, r.mailbox
            ON CONFLICT (tenant_id, mailbox_id) DO UPDATE SET at = excluded.at;
    END IF;
    PERFORM still_wanted(p_patience);
END
$$;

-- Takes messages out of a maildrop: into deleted_messages where they are kept, else to the garbage. Counters
-- go along. Gives the uids that were there.
CREATE FUNCTION remove_messages(
    p_tenant uuid, p_mailbox uuid, p_uids bigint[], p_kept interval
) RETURNS bigint[]
LANGUAGE sql VOLATILE AS $$
    WITH gone AS (
        DELETE FROM messages
         WHERE tenant_id = p_tenant AND mailbox_id = p_mailbox AND uid = ANY (p_uids)
     RETURNING *
    ), kept AS (
        INSERT INTO deleted_messages (tenant_id, mailbox_id, uid, pack_id, pack_offset, pack_length, octets,
                                      header_octets, received_at, digest, delivered_to, unique_id, keep_until)
        SELECT g.tenant_id, g.mailbox_id, g.uid, g.pack_id, g.pack_offset, g.pack_length, g.octets,
               g.header_octets, g.received_at, g.digest, g.delivered_to, g.unique_id, now() + p_kept
          FROM gone g
         WHERE p_kept > interval '0'
    ), garbage AS (
        INSERT INTO pack_garbage (tenant_id, pack_id, octets)
        SELECT p_tenant, g.pack_id, sum(g.pack_length)
          FROM gone g
         WHERE p_kept = interval '0'
         GROUP BY g.pack_id
    ), counted AS (
        UPDATE mailboxes b
           SET message_count = b.message_count - (SELECT count(*) FROM gone),
               octets = b.octets - (SELECT coalesce(sum(g.octets), 0) FROM gone g)
         WHERE b.tenant_id = p_tenant AND b.mailbox_id = p_mailbox AND EXISTS (SELECT FROM gone)
    )
    SELECT coalesce((SELECT array_agg(g.uid ORDER BY g.uid) FROM gone g), '{}')
$$;

-- UPDATE: the lock row and the messages go together, or neither does (fencing). Without the lock row nothing
-- happens.
CREATE FUNCTION commit_update(
    p_tenant uuid, p_mailbox uuid, p_token uuid, p_uids bigint[], p_kept interval, p_patience interval
) RETURNS TABLE (held bigint, gone bigint)
LANGUAGE plpgsql VOLATILE SET lock_timeout = '5s' AS $$
BEGIN
    DELETE FROM maildrop_locks
     WHERE tenant_id = p_tenant AND mailbox_id = p_mailbox AND token = p_token;
    IF NOT FOUND THEN
        RETURN QUERY SELECT 0::bigint, 0::bigint;
        RETURN;
    END IF;
    RETURN QUERY
    SELECT 1::bigint, cardinality(remove_messages(p_tenant, p_mailbox, p_uids, p_kept))::bigint;
    PERFORM still_wanted(p_patience);
END
$$;

-- As before, within the quotas of octets and of messages, of the mailbox and of its tenant. The tenant's may be
-- passed by what is delivered in the same instant.
CREATE OR REPLACE FUNCTION deliver_pack(
    p_tenant uuid, p_pack uuid, p_pack_octets bigint, p_pack_entries integer,
    p_mailboxes uuid[], p_offsets bigint[], p_lengths bigint[], p_octets bigint[], p_header_octets bigint[],
    p_received timestamptz[], p_digests bytea[], p_delivered_to text[], p_unique_ids text[]
) RETURNS TABLE (place integer, outcome integer, uid bigint)
LANGUAGE plpgsql VOLATILE SET lock_timeout = '5s' AS $$
#variable_conflict use_column
DECLARE
    t tenants%ROWTYPE;
    free_octets bigint;
    free_messages bigint;
BEGIN
    INSERT INTO packs (tenant_id, pack_id, octets, entries)
    SELECT p_tenant, p_pack, p_pack_octets, p_pack_entries
     WHERE EXISTS (SELECT FROM tenants x WHERE x.tenant_id = p_tenant AND x.state <> 'deleting')
        ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN QUERY
        SELECT r.place::integer,
               CASE WHEN m.uid IS NOT NULL THEN 0
                    WHEN b.mailbox_id IS NULL THEN 2
                    WHEN k.pack_id IS NULL THEN 2
                    WHEN f.mailbox_id IS NOT NULL THEN 1
                    ELSE 3 END,
               m.uid
          FROM unnest(p_mailboxes, p_offsets) WITH ORDINALITY AS r (mailbox, pack_offset, place)
          LEFT JOIN packs k ON k.tenant_id = p_tenant AND k.pack_id = p_pack
          LEFT JOIN mailboxes b ON b.tenant_id = p_tenant AND b.mailbox_id = r.mailbox
          LEFT JOIN messages m ON m.tenant_id = p_tenant AND m.pack_id = p_pack
                              AND m.mailbox_id = r.mailbox AND m.pack_offset = r.pack_offset
          LEFT JOIN pack_refusals f ON f.tenant_id = p_tenant AND f.pack_id = p_pack
                                   AND f.mailbox_id = r.mailbox;
        RETURN;
    END IF;
    SELECT * INTO t FROM tenants x WHERE x.tenant_id = p_tenant;
    -- In one order everywhere, so that two deliveries to the same mailboxes cannot wait for each other.
    PERFORM FROM mailboxes b
      WHERE b.tenant_id = p_tenant AND b.mailbox_id = ANY (p_mailboxes)
      ORDER BY b.mailbox_id
        FOR NO KEY UPDATE;
    IF t.quota_octets IS NOT NULL OR t.quota_messages IS NOT NULL THEN
        SELECT t.quota_octets - coalesce(sum(u.octets), 0), t.quota_messages - coalesce(sum(u.messages), 0)
          INTO free_octets, free_messages
          FROM tenant_usage u WHERE u.tenant_id = p_tenant;
    END IF;
    RETURN QUERY
    WITH asked AS (
        SELECT o.*,
               o.fits_box
               AND coalesce(sum(o.octets) FILTER (WHERE o.fits_box) OVER pool <= free_octets, true)
               AND coalesce(count(*) FILTER (WHERE o.fits_box) OVER pool <= free_messages, true) AS fits
          FROM (
        SELECT r.*, b.mailbox_id IS NOT NULL AS known, b.next_uid,
               b.mailbox_id IS NOT NULL
               AND coalesce(b.octets + sum(r.octets) OVER box
                            <= coalesce(b.quota_octets, t.mailbox_quota_octets), true)
               AND coalesce(b.message_count + count(*) OVER box
                            <= coalesce(b.quota_messages, t.mailbox_quota_messages), true) AS fits_box
          FROM unnest(p_mailboxes, p_offsets, p_lengths, p_octets, p_header_octets, p_received, p_digests,
                      p_delivered_to, p_unique_ids) WITH ORDINALITY
               AS r (mailbox, pack_offset, pack_length, octets, header_octets, received_at, digest,
                     delivered_to, unique_id, place)
          LEFT JOIN mailboxes b ON b.tenant_id = p_tenant AND b.mailbox_id = r.mailbox
        WINDOW box AS (PARTITION BY r.mailbox ORDER BY r.place)
               ) o
        WINDOW pool AS (ORDER BY o.place)
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

-- The second wall (P5) ----------------------------------------------------------------------------------------
-- What is done for one tenant by the admin API runs as this role, which sees the rows of the tenant named by
-- `postern.tenant` and no others, whatever the statement asks for.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'postern_tenant') THEN
        CREATE ROLE postern_tenant NOLOGIN;
    END IF;
EXCEPTION
    -- Another database of this server made it in the same instant.
    WHEN duplicate_object OR unique_violation THEN NULL;
END
$$;
DO $$
BEGIN
    IF NOT pg_has_role('postern_tenant', 'MEMBER') THEN
        GRANT postern_tenant TO CURRENT_USER;
    END IF;
END
$$;
DO $$
DECLARE
    walled text;
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO postern_tenant', current_schema());
    FOREACH walled IN ARRAY ARRAY[
        'tenants', 'domains', 'mailboxes', 'credentials', 'aliases', 'app_passwords', 'tenant_usage',
        'tenant_deletions', 'api_keys', 'certificates', 'messages', 'deleted_messages', 'packs',
        'pack_refusals', 'pack_garbage', 'traffic', 'maildrop_locks', 'login_times', 'audit_log'
    ] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', walled);
        EXECUTE format(
            'CREATE POLICY of_tenant ON %I TO postern_tenant
                 USING (tenant_id = nullif(current_setting(''postern.tenant'', true), '''')::uuid)
                 WITH CHECK (tenant_id = nullif(current_setting(''postern.tenant'', true), '''')::uuid)', walled);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO postern_tenant', walled);
    END LOOP;
    REVOKE UPDATE, DELETE ON audit_log FROM postern_tenant;
    -- Not a tenant's: which nodes there are, and which sessions shall end.
    GRANT SELECT ON nodes TO postern_tenant;
    GRANT SELECT, INSERT ON session_ends TO postern_tenant;
END
$$;
