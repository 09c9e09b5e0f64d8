-- Profiles, groups, and what a device or token was given besides them.

CREATE TABLE profiles (
    name              TEXT PRIMARY KEY,
    attributes        BLOB NOT NULL,
    policy            BLOB,
    certificate_days  INTEGER,
    token_ttl_seconds INTEGER,
    -- The filters of the rules that were set with it.
    filters           TEXT NOT NULL
) STRICT;

CREATE TABLE device_groups (
    name       TEXT PRIMARY KEY,
    profile    TEXT REFERENCES profiles (name),
    attributes BLOB NOT NULL
) STRICT;

-- Of whoever has a profile or a group. What the device has in all is in `devices`.
CREATE TABLE device_given (
    device     BLOB PRIMARY KEY REFERENCES devices (id),
    attributes BLOB NOT NULL,
    policy     BLOB,
    profile    TEXT REFERENCES profiles (name),
    member_of  TEXT REFERENCES device_groups (name)
) STRICT;
CREATE INDEX device_given_profile ON device_given (profile);
CREATE INDEX device_given_group ON device_given (member_of);

CREATE TABLE token_given (
    token     BLOB PRIMARY KEY REFERENCES tokens (id) ON DELETE CASCADE,
    profile   TEXT REFERENCES profiles (name),
    member_of TEXT REFERENCES device_groups (name)
) STRICT;
