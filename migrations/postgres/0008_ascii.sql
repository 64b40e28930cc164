-- Messages with 8-bit headers, for those who take UTF-8 and for those who do not (RFC 6856).

-- Older binaries would take a message with an 8-bit header for damaged: its row says how long it is in ASCII.
UPDATE schema_info SET version = 8, compatible_from = 8;

-- By how many octets a message is longer than it is stored, with its Delivered-To, where its header is rewritten to
-- ASCII. `octets` is its length when it is. NULL: there is nothing to rewrite, or it came in before this was known and
-- is sent as it is.
ALTER TABLE messages ADD COLUMN ascii_extra bigint;
ALTER TABLE deleted_messages ADD COLUMN ascii_extra bigint;

-- Takes messages out of a maildrop: into deleted_messages where they are kept, else to the garbage. Counters
-- go along. Gives the uids that were there.
CREATE OR REPLACE FUNCTION remove_messages(
    p_tenant uuid, p_mailbox uuid, p_uids bigint[], p_kept interval
) RETURNS bigint[]
LANGUAGE sql VOLATILE AS $$
    WITH gone AS (
        DELETE FROM messages
         WHERE tenant_id = p_tenant AND mailbox_id = p_mailbox AND uid = ANY (p_uids)
     RETURNING *
    ), kept AS (
        INSERT INTO deleted_messages (tenant_id, mailbox_id, uid, pack_id, pack_offset, pack_length, octets,
                                      header_octets, received_at, digest, delivered_to, unique_id, keep_until,
                                      ascii_extra)
        SELECT g.tenant_id, g.mailbox_id, g.uid, g.pack_id, g.pack_offset, g.pack_length, g.octets,
               g.header_octets, g.received_at, g.digest, g.delivered_to, g.unique_id, now() + p_kept,
               g.ascii_extra
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

DROP FUNCTION deliver_pack(uuid, uuid, bigint, integer, uuid[], bigint[], bigint[], bigint[], bigint[],
                           timestamptz[], bytea[], text[], text[]);
-- As before, and how much longer messages are for who takes ASCII headers only. Older binaries do not say it.
CREATE FUNCTION deliver_pack(
    p_tenant uuid, p_pack uuid, p_pack_octets bigint, p_pack_entries integer,
    p_mailboxes uuid[], p_offsets bigint[], p_lengths bigint[], p_octets bigint[], p_header_octets bigint[],
    p_received timestamptz[], p_digests bytea[], p_delivered_to text[], p_unique_ids text[],
    p_ascii_extras bigint[] DEFAULT NULL
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
                      p_delivered_to, p_unique_ids, p_ascii_extras) WITH ORDINALITY
               AS r (mailbox, pack_offset, pack_length, octets, header_octets, received_at, digest,
                     delivered_to, unique_id, ascii_extra, place)
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
                              header_octets, received_at, digest, delivered_to, unique_id, ascii_extra)
        SELECT p_tenant, t.mailbox, t.uid, p_pack, t.pack_offset, t.pack_length, t.octets,
               t.header_octets, t.received_at, t.digest, t.delivered_to, t.unique_id, t.ascii_extra
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
