-- What revocations closed, and what brokers say that they did about them.

CREATE TABLE revocations (
    device   BLOB PRIMARY KEY REFERENCES devices (id),
    at       INTEGER NOT NULL,
    actor    TEXT NOT NULL,
    -- What was raised, as it is since.
    versions BLOB NOT NULL,
    -- The epoch that began where a version could not be raised.
    epoch    INTEGER,
    -- Of which epochs it could have keys: [[number, begins, ends], ...].
    epochs   TEXT NOT NULL,
    -- When it was ordered that what is retained goes.
    purge    INTEGER
) STRICT;
CREATE INDEX revocations_at ON revocations (at);

CREATE TABLE revocations_done (
    device      BLOB NOT NULL REFERENCES revocations (device),
    broker      BLOB NOT NULL REFERENCES devices (id),
    -- By our clock; all else is what the broker says.
    at          INTEGER NOT NULL,
    bundle      INTEGER NOT NULL,
    cut_at      INTEGER NOT NULL,
    sessions    INTEGER NOT NULL,
    connections INTEGER NOT NULL,
    retained    INTEGER,
    PRIMARY KEY (device, broker)
) STRICT, WITHOUT ROWID;

-- Of earlier ones less is known: an empty array of versions, no epochs.
INSERT INTO revocations SELECT id, revoked, '', X'80', NULL, '[]', NULL FROM devices WHERE revoked IS NOT NULL;
