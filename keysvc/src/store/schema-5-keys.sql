-- Version 5: a data key for each secret among the documents, sealed under the root key, which the document `seal` holds.

CREATE TABLE data_keys (
    name   TEXT PRIMARY KEY,
    sealed BLOB NOT NULL
) STRICT;
