-- Version 3: devices that are suspended, or revoked to be enrolled again.

ALTER TABLE devices ADD COLUMN suspended INTEGER;
ALTER TABLE devices ADD COLUMN reset INTEGER;
CREATE INDEX devices_suspended ON devices (id) WHERE suspended IS NOT NULL;
