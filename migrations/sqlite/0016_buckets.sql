-- Stores of tenants' own: buckets that their packs lie in instead of the house's.

-- Older binaries look for all packs in the house's bucket: set one once all nodes know.
UPDATE schema_info SET version = 16;

ALTER TABLE tenants ADD COLUMN buckets text NOT NULL DEFAULT '{}';            -- those that packs may lie in, by number
ALTER TABLE tenants ADD COLUMN bucket_key blob;                               -- for their secrets, under the master key
ALTER TABLE tenants ADD COLUMN bucket_secrets blob;                           -- sealed under it
ALTER TABLE tenants ADD COLUMN buckets_version integer;                       -- grows with each change; NULL: never set
