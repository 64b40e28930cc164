-- A maildrop whose client fell silent can be taken over by the same client, come back. Its node notes that in the lock's
-- row, and takes the note back before it answers the client again; so the row alone decides, and a taking over and a
-- commit exclude each other by the row's lock.

-- Older binaries note nothing, and call the function they know. It gives the row another token, so that a note it
-- finds there says nothing any longer.
UPDATE schema_info SET version = 7;

ALTER TABLE maildrop_locks
    ADD COLUMN silent_token uuid,       -- that of the session whose client is silent; another one says nothing
    ADD COLUMN silent_credential uuid;  -- what its login was proved by: who comes with the same takes over

-- Notes whether the client of a session is silent; false where the session has lost its lock.
CREATE FUNCTION note_silence(
    p_tenant uuid, p_mailbox uuid, p_token uuid, p_credential uuid, p_silent boolean, p_patience interval
) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET lock_timeout = '5s' AS $$
DECLARE
    held boolean;
BEGIN
    UPDATE maildrop_locks
       SET silent_token = CASE WHEN p_silent THEN p_token END,
           silent_credential = CASE WHEN p_silent THEN p_credential END
     WHERE tenant_id = p_tenant AND mailbox_id = p_mailbox AND token = p_token;
    held := FOUND;
    -- One that comes late would be taken for the news.
    PERFORM still_wanted(p_patience);
    RETURN held;
END
$$;

-- As before, and takes the locks of silent clients over.
--   outcome: 0 opened, 1 in use, 2 stale credential or policy, or no such mailbox, 3 the node's lease has run
--            out, 4 too soon after the last login, 5 too many sessions of the tenant, 6 opened by taking it over
CREATE FUNCTION open_maildrops(
    p_node uuid, p_tenants uuid[], p_mailboxes uuid[], p_revisions bigint[], p_versions bigint[],
    p_credentials uuid[],
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
      FROM unnest(p_tenants, p_mailboxes, p_revisions, p_versions, p_credentials, p_tokens, p_sessions, p_peers,
                  p_delays, p_sessions_max) WITH ORDINALITY
           AS r (tenant, mailbox, revision, version, credential, token, session, peer, delay, sessions_max, place)
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
                                        -- A lock that is taken over is one more to none.
                                        AND o.mailbox_id <> r.mailbox
                                        AND o.token <> ALL (p_tokens)
                                      LIMIT r.sessions_max) open_now
           ) + (SELECT count(*) FROM unnest(p_tenants) WITH ORDINALITY AS before (tenant, place)
                 WHERE before.tenant = r.tenant AND before.place < r.place) < r.sessions_max)
     ORDER BY r.tenant, r.mailbox
        ON CONFLICT (tenant_id, mailbox_id) DO UPDATE
       SET token = excluded.token, node_id = excluded.node_id, session = excluded.session,
           peer = excluded.peer, since = clock_timestamp(),
           silent_credential = NULL,
           -- What is left here is the token of whom it was taken over from.
           silent_token = CASE WHEN l.silent_token = l.token THEN l.token END
     WHERE NOT node_lives(l.node_id)
        OR (l.silent_token = l.token
            AND l.silent_credential = (SELECT c.credential
                                         FROM unnest(p_tokens, p_credentials) AS c (token, credential)
                                        WHERE c.token = excluded.token));
    RETURN QUERY
    SELECT r.place::integer,
           CASE WHEN b.mailbox_id IS NULL OR t.tenant_id IS NULL THEN 2
                WHEN l.token = r.token THEN CASE WHEN l.silent_token <> l.token THEN 6 ELSE 0 END
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
