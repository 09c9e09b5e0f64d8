-- Version 4: access tokens. Of the secret its SHA-256.

CREATE TABLE access (
    id          BLOB PRIMARY KEY,
    secret_hash BLOB NOT NULL,
    name        TEXT NOT NULL,
    role        TEXT NOT NULL,
    -- JSON: names of operations; none for whatever the role may.
    operations  TEXT NOT NULL,
    created     INTEGER NOT NULL,
    creator     TEXT NOT NULL,
    expires     INTEGER NOT NULL
) STRICT;
CREATE INDEX access_expires ON access (expires);
