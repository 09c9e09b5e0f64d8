-- Version 2: keys that carry a policy, and rules that name labels. Policies are as core encodes them.

ALTER TABLE devices ADD COLUMN policy BLOB;
ALTER TABLE tokens ADD COLUMN policy BLOB;
ALTER TABLE rules ADD COLUMN labels TEXT;
