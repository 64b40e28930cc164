-- Packs of many messages: what a mailbox refused of one is told apart by message.

UPDATE schema_info SET version = 10, compatible_from = 8;

-- Packs had one message each, at the first octet after their header.
ALTER TABLE pack_refusals ADD COLUMN pack_offset bigint NOT NULL DEFAULT 64;
ALTER TABLE pack_refusals DROP CONSTRAINT pack_refusals_pkey;
ALTER TABLE pack_refusals ADD PRIMARY KEY (tenant_id, pack_id, mailbox_id, pack_offset);

-- As before, with the offset of what is refused.
CREATE OR REPLACE FUNCTION deliver_pack(
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
    -- Where not all of it fits: which of it does, one after the other, so that what is refused takes no room.
    fitting boolean[];
    boxes uuid[];
    box_octets bigint[];
    box_messages bigint[];
    box integer;
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
                                   AND f.mailbox_id = r.mailbox AND f.pack_offset = r.pack_offset;
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
    SELECT array_agg(b.mailbox_id),
           array_agg(coalesce(b.quota_octets, t.mailbox_quota_octets) - b.octets),
           array_agg(coalesce(b.quota_messages, t.mailbox_quota_messages) - b.message_count)
      INTO boxes, box_octets, box_messages
      FROM mailboxes b
     WHERE b.tenant_id = p_tenant AND b.mailbox_id = ANY (p_mailboxes);
    IF EXISTS (
        SELECT FROM unnest(p_mailboxes, p_octets) AS r (mailbox, octets)
          JOIN unnest(boxes, box_octets, box_messages) AS q (mailbox, octets, messages) USING (mailbox)
         GROUP BY r.mailbox
        HAVING sum(r.octets) > min(q.octets) OR count(*) > min(q.messages)
    ) OR (
        SELECT sum(r.octets) > free_octets OR count(*) > free_messages FROM unnest(p_octets) AS r (octets)
    ) THEN
        fitting := array_fill(false, ARRAY[cardinality(p_mailboxes)]);
        FOR i IN 1 .. cardinality(p_mailboxes) LOOP
            box := array_position(boxes, p_mailboxes[i]);
            CONTINUE WHEN box IS NULL
                       OR box_octets[box] < p_octets[i] OR box_messages[box] < 1
                       OR free_octets < p_octets[i] OR free_messages < 1;
            fitting[i] := true;
            box_octets[box] := box_octets[box] - p_octets[i];
            box_messages[box] := box_messages[box] - 1;
            free_octets := free_octets - p_octets[i];
            free_messages := free_messages - 1;
        END LOOP;
    END IF;
    RETURN QUERY
    WITH asked AS (
        SELECT r.*, b.mailbox_id IS NOT NULL AS known, b.next_uid,
               b.mailbox_id IS NOT NULL AND coalesce(fitting[r.place], true) AS fits
          FROM unnest(p_mailboxes, p_offsets, p_lengths, p_octets, p_header_octets, p_received, p_digests,
                      p_delivered_to, p_unique_ids, p_ascii_extras) WITH ORDINALITY
               AS r (mailbox, pack_offset, pack_length, octets, header_octets, received_at, digest,
                     delivered_to, unique_id, ascii_extra, place)
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
                              header_octets, received_at, digest, delivered_to, unique_id, ascii_extra)
        SELECT p_tenant, t.mailbox, t.uid, p_pack, t.pack_offset, t.pack_length, t.octets,
               t.header_octets, t.received_at, t.digest, t.delivered_to, t.unique_id, t.ascii_extra
          FROM taken t
    ), refused AS (
        INSERT INTO pack_refusals (tenant_id, pack_id, mailbox_id, pack_offset)
        SELECT p_tenant, p_pack, a.mailbox, a.pack_offset FROM asked a WHERE a.known AND NOT a.fits
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
