-- Version 9: what the authority signed of its audit log.

CREATE TABLE checkpoints (
    number      INTEGER PRIMARY KEY,
    at          INTEGER NOT NULL,
    hash        BLOB NOT NULL,
    certificate BLOB NOT NULL,
    signature   BLOB NOT NULL
) STRICT;
CREATE INDEX audit_at ON audit (at);
