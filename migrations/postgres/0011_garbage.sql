-- Garbage collection: which packs have garbage, are dead, are deleted; how far the search for orphans is.

-- Older binaries need not know: what they note as garbage is collected all the same.
UPDATE schema_info SET version = 11;

-- The part of the work that a tenant is in: its id ends in random bits.
CREATE FUNCTION gc_shard(p_tenant uuid) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT get_byte(uuid_send(p_tenant), 15) & 15
$$;
-- Garbage is taken oldest first. The table is as long as what waits, which is little.
CREATE INDEX pack_garbage_by_shard ON pack_garbage (gc_shard(tenant_id), at);

-- Packs that have garbage. Not columns of `packs`: an index that finds what there is to do would be built over all
-- packs there are, and deliveries would wait meanwhile.
CREATE TABLE garbage_packs (
    tenant_id   uuid NOT NULL,
    pack_id     uuid NOT NULL,
    shard       smallint NOT NULL,      -- gc_shard(tenant_id)
    dead_octets bigint NOT NULL,        -- that were noted as garbage: a hint, no proof
    due         boolean NOT NULL,       -- whether it shall be looked at
    dead_at     timestamptz,            -- since when nothing points at it
    deleted_at  timestamptz,            -- when its object was deleted
    PRIMARY KEY (tenant_id, pack_id)
) WITH (fillfactor = 70);
CREATE INDEX garbage_packs_due ON garbage_packs (shard, tenant_id, pack_id) WHERE due;
CREATE INDEX garbage_packs_dead ON garbage_packs (shard, dead_at) WHERE dead_at IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX garbage_packs_deleted ON garbage_packs (shard, deleted_at) WHERE deleted_at IS NOT NULL;

-- How far the search for objects that no row knows is.
CREATE TABLE pack_sweeps (
    tenant_id   uuid PRIMARY KEY,
    swept_until timestamptz NOT NULL,   -- packs from before this were looked at
    until       timestamptz,            -- what the sweep under way will have reached; NULL: none is
    at_pack     uuid                    -- the last object it looked at
);

-- Beacons in the object store that the index knows of (ADR 26). One that it does not know tells that it was set back.
CREATE TABLE pack_beacons (
    shard       smallint NOT NULL,
    beacon      uuid NOT NULL,
    at          timestamptz NOT NULL DEFAULT now(),
    timeline    text,                   -- of the write-ahead log; NULL: the server does not tell
    PRIMARY KEY (shard, beacon)
);
-- Times from which rows may be lost: packs of these that no row knows are left.
CREATE TABLE held_times (
    shard       smallint NOT NULL,
    from_at     timestamptz NOT NULL,
    until_at    timestamptz NOT NULL,
    PRIMARY KEY (shard, from_at, until_at)
);

DO $$
DECLARE
    walled text;
BEGIN
    FOREACH walled IN ARRAY ARRAY['garbage_packs', 'pack_sweeps'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', walled);
        EXECUTE format(
            'CREATE POLICY of_tenant ON %I TO postern_tenant
                 USING (tenant_id = nullif(current_setting(''postern.tenant'', true), '''')::uuid)
                 WITH CHECK (tenant_id = nullif(current_setting(''postern.tenant'', true), '''')::uuid)', walled);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO postern_tenant', walled);
    END LOOP;
END
$$;
