-- Who made a token, as in the audit log: it ends with them.

ALTER TABLE tokens ADD COLUMN maker TEXT NOT NULL DEFAULT '';
