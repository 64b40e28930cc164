-- From where accounts are logged in to as a rule. Failed logins are known to the one process that there is.

-- Older binaries neither read nor need the table.
UPDATE schema_info SET version = 5;

-- Keys are hashes of login name and source, under a key that is not in the database.
CREATE TABLE login_sources (
    key BLOB PRIMARY KEY,
    at  INTEGER NOT NULL                -- of the last good login, to the day
) WITHOUT ROWID;
CREATE INDEX login_sources_by_time ON login_sources (at);
