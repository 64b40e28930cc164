-- Stores of tenants' own: buckets that their packs lie in instead of the house's.

-- Older binaries look for all packs in the house's bucket: set one once all nodes know.
UPDATE schema_info SET version = 16;

-- Without a look at a row, so the lock is short.
ALTER TABLE tenants
    ADD COLUMN buckets         jsonb NOT NULL DEFAULT '{}', -- those that packs may lie in, by number, and the current one
    ADD COLUMN bucket_key      bytea,                       -- of the tenant's, for their secrets, sealed under the master key
    ADD COLUMN bucket_secrets  bytea,                       -- sealed under it
    ADD COLUMN buckets_version bigint;                      -- grows with each change; NULL: never set
