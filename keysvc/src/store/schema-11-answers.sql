-- What was answered to requests that may be made again under the same key: for a day, and sealed, since a token may be in it.

CREATE TABLE answers (
    number  INTEGER PRIMARY KEY,
    -- As in the audit log.
    caller  TEXT NOT NULL,
    key     TEXT NOT NULL,
    -- SHA-256 of operation and request.
    request BLOB NOT NULL,
    at      INTEGER NOT NULL,
    answer  BLOB NOT NULL,
    UNIQUE (caller, key)
) STRICT;
CREATE INDEX answers_at ON answers (at);
