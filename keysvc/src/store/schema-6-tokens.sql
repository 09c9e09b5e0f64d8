-- Tokens for a batch of devices, with serials and a person's approval; whoever uses or used one has a row.

CREATE TABLE token_uses (
    token      BLOB NOT NULL REFERENCES tokens (id) ON DELETE CASCADE,
    -- The signing key of whoever asked, which is asked for again with.
    public_key BLOB NOT NULL,
    hpke_key   BLOB NOT NULL,
    name       TEXT NOT NULL,
    serial     TEXT,
    address    TEXT NOT NULL,
    asked      INTEGER NOT NULL,
    -- The device it became. Without one it waits for approval, or was denied.
    device     BLOB,
    denied     INTEGER,
    PRIMARY KEY (token, public_key)
) STRICT;
CREATE UNIQUE INDEX token_uses_waiting ON token_uses (name) WHERE device IS NULL AND denied IS NULL;
CREATE INDEX token_uses_name ON token_uses (name, asked);
CREATE UNIQUE INDEX token_uses_serial ON token_uses (token, serial) WHERE serial IS NOT NULL AND denied IS NULL;

CREATE TABLE token_serials (
    token  BLOB NOT NULL REFERENCES tokens (id) ON DELETE CASCADE,
    serial TEXT NOT NULL,
    PRIMARY KEY (token, serial)
) STRICT;

ALTER TABLE tokens ADD COLUMN uses_max INTEGER NOT NULL DEFAULT 1;
-- Those that wait count; those that were denied do not.
ALTER TABLE tokens ADD COLUMN used INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tokens ADD COLUMN approval INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tokens ADD COLUMN made INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tokens ADD COLUMN removed INTEGER;
INSERT INTO token_uses SELECT id, public_key, hpke_key, name, NULL, '', 0, device, NULL FROM tokens WHERE device IS NOT NULL;
UPDATE tokens SET used = 1 WHERE device IS NOT NULL;
ALTER TABLE tokens DROP COLUMN device;
ALTER TABLE tokens DROP COLUMN public_key;
ALTER TABLE tokens DROP COLUMN hpke_key;
CREATE INDEX tokens_name ON tokens (name);

ALTER TABLE devices ADD COLUMN serial TEXT;
