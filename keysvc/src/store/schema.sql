-- Version 1. Times are seconds since 1970; attributes, versions and identifiers are as core encodes them.

CREATE TABLE counters (
    name  TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT;
INSERT INTO counters VALUES ('bundle', 0), ('revision', 0), ('probe', 0);

-- Single documents: root certificate, public parameters, the newest bundle; sealed: master secret keys and the like.
CREATE TABLE documents (
    name  TEXT PRIMARY KEY,
    bytes BLOB NOT NULL
) STRICT;

CREATE TABLE devices (
    id                  BLOB PRIMARY KEY,
    name                TEXT NOT NULL,
    role                TEXT NOT NULL,
    attributes          BLOB NOT NULL,
    hosts               TEXT NOT NULL,
    hpke_key            BLOB NOT NULL,
    enrolled            INTEGER NOT NULL,
    certificate_expires INTEGER NOT NULL,
    revision            INTEGER NOT NULL,
    revoked             INTEGER,
    -- What the revocation said, so that asking again gives the same answer.
    raised              TEXT,
    bundle              INTEGER
) STRICT;
CREATE UNIQUE INDEX devices_active ON devices (name) WHERE revoked IS NULL;
CREATE INDEX devices_name ON devices (name, revoked);
CREATE INDEX devices_revision ON devices (revision);
CREATE INDEX devices_revoked ON devices (id) WHERE revoked IS NOT NULL;

CREATE TABLE certificates (
    serial     BLOB PRIMARY KEY,
    device     BLOB NOT NULL REFERENCES devices (id),
    public_key BLOB NOT NULL,
    der        BLOB NOT NULL,
    not_after  INTEGER NOT NULL
) STRICT;
CREATE INDEX certificates_device ON certificates (device, not_after);
CREATE INDEX certificates_not_after ON certificates (not_after);

CREATE TABLE tokens (
    id          BLOB PRIMARY KEY,
    secret_hash BLOB NOT NULL,
    name        TEXT NOT NULL,
    role        TEXT NOT NULL,
    attributes  BLOB NOT NULL,
    hosts       TEXT NOT NULL,
    expires     INTEGER NOT NULL,
    -- Whoever enrolled with it: one device with these keys, and nobody else for ever.
    device      BLOB,
    public_key  BLOB,
    hpke_key    BLOB
) STRICT;
CREATE INDEX tokens_expires ON tokens (expires);

CREATE TABLE rules (
    filter      TEXT PRIMARY KEY,
    mode        TEXT NOT NULL,
    policy      TEXT,
    publishers  TEXT,
    subscribers TEXT
) STRICT;

CREATE TABLE versions (
    attribute BLOB PRIMARY KEY,
    version   INTEGER NOT NULL
) STRICT;

CREATE TABLE epochs (
    number   INTEGER PRIMARY KEY,
    begins   INTEGER NOT NULL,
    ends     INTEGER NOT NULL,
    -- The versions as they were when it was over; NULL for the current one.
    versions BLOB
) STRICT;

CREATE TABLE audit (
    number  INTEGER PRIMARY KEY,
    at      INTEGER NOT NULL,
    actor   TEXT NOT NULL,
    action  TEXT NOT NULL,
    subject TEXT NOT NULL,
    hash    BLOB NOT NULL
) STRICT;
