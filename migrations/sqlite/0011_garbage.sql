-- Garbage collection: as PostgreSQL's. One process does all of it, so there is no index by shard.

UPDATE schema_info SET version = 11;

CREATE TABLE garbage_packs (
    tenant_id   blob NOT NULL,
    pack_id     blob NOT NULL,
    shard       integer NOT NULL,
    dead_octets integer NOT NULL,
    due         integer NOT NULL,
    dead_at     integer,
    deleted_at  integer,
    PRIMARY KEY (tenant_id, pack_id)
) WITHOUT ROWID;
CREATE INDEX garbage_packs_due ON garbage_packs (shard, tenant_id, pack_id) WHERE due;
CREATE INDEX garbage_packs_dead ON garbage_packs (shard, dead_at) WHERE dead_at IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX garbage_packs_deleted ON garbage_packs (shard, deleted_at) WHERE deleted_at IS NOT NULL;

CREATE TABLE pack_sweeps (
    tenant_id   blob PRIMARY KEY,
    swept_until integer NOT NULL,
    until       integer,
    at_pack     blob
) WITHOUT ROWID;

CREATE TABLE pack_beacons (
    shard       integer NOT NULL,
    beacon      blob NOT NULL,
    at          integer NOT NULL,
    PRIMARY KEY (shard, beacon)
) WITHOUT ROWID;

CREATE TABLE held_times (
    shard       integer NOT NULL,
    from_at     integer NOT NULL,
    until_at    integer NOT NULL,
    PRIMARY KEY (shard, from_at, until_at)
) WITHOUT ROWID;
