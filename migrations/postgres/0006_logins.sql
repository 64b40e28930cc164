-- How a tenant's logins are verified: by a directory, a service or an issuer of its own.

-- Older binaries do not know of the columns and verify by the passwords kept here: set them once all nodes know.
UPDATE schema_info SET version = 6;

ALTER TABLE tenants
    ADD COLUMN login         jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN login_secrets bytea,                     -- sealed under the tenant's key
    ADD COLUMN login_version bigint NOT NULL DEFAULT 0; -- grows with each change; 0: never set
