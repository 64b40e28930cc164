-- Failed logins that all nodes know of, and from where accounts are logged in to as a rule.

-- Older binaries neither read nor need the tables.
UPDATE schema_info SET version = 5;

-- No tenant's data: keys are hashes of sources and of login names, which need not exist. A crash may forget it.
CREATE UNLOGGED TABLE login_failures (
    key   bytea PRIMARY KEY,
    score double precision NOT NULL,    -- as of `at`; halves with time
    at    timestamptz NOT NULL
);
CREATE INDEX login_failures_by_time ON login_failures (at, key);

-- Keys are hashes of login name and source, under a key that is not in the database.
CREATE TABLE login_sources (
    key bytea PRIMARY KEY,
    at  timestamptz NOT NULL            -- of the last good login, to the day
);
CREATE INDEX login_sources_by_time ON login_sources (at);
