-- What mechanisms that never see the password are verified by.

-- Older binaries neither read nor need the column.
UPDATE schema_info SET version = 4;

-- Sealed under the tenant's key; NULL where a policy asks for none, or none could be made yet.
ALTER TABLE credentials ADD COLUMN verifiers bytea;
