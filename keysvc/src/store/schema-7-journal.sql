-- Version 7: how far the journal of revocations went when this was committed.

INSERT INTO counters VALUES ('journal', 0);
