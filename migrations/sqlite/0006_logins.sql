-- How a tenant's logins are verified: by a directory, a service or an issuer of its own.

-- Older binaries do not know of the columns and verify by the passwords kept here: set them once all nodes know.
UPDATE schema_info SET version = 6;

ALTER TABLE tenants ADD COLUMN login text NOT NULL DEFAULT '{}';
ALTER TABLE tenants ADD COLUMN login_secrets blob;                      -- sealed under the tenant's key
ALTER TABLE tenants ADD COLUMN login_version integer NOT NULL DEFAULT 0; -- grows with each change; 0: never set
