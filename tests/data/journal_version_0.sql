-- A journal of version 0: one request planned, one submitted, one saved.
PRAGMA application_id=1315927626;
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO "meta" VALUES('open',0);
INSERT INTO "meta" VALUES('run',1);
INSERT INTO "meta" VALUES('version',0);
CREATE TABLE requests (
        serial INTEGER PRIMARY KEY,
        key BLOB NOT NULL, occurrence INTEGER NOT NULL, run INTEGER NOT NULL, position INTEGER NOT NULL,
        kind TEXT NOT NULL, endpoint TEXT NOT NULL, image_num INTEGER NOT NULL, request BLOB NOT NULL,
        state TEXT NOT NULL, account TEXT, task_id TEXT, attempts INTEGER NOT NULL,
        announced_time REAL, answered_time REAL, finished_time REAL, saved_time REAL,
        seed, error TEXT, paths TEXT, result TEXT,
        bought INTEGER NOT NULL, perhaps INTEGER NOT NULL, slot_time REAL, checksum INTEGER NOT NULL
    );
INSERT INTO "requests" VALUES(1,X'00000000000000000000000000000000',0,1,0,'img2img','/v3/async/img2img',1,X'AB46A479856AA8A082416D2D00','planned',NULL,NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,0,NULL,199800336);
INSERT INTO "requests" VALUES(2,X'00000000000000000000000000000001',0,1,1,'img2img','/v3/async/img2img',2,X'AB46A479856AA8A082616D2D00','submitted','a','73fab7c0',1,1760000001.25,1760000001.25,NULL,NULL,NULL,NULL,NULL,NULL,2,0,1760000001.25,88618135);
INSERT INTO "requests" VALUES(3,X'00000000000000000000000000000002',0,1,2,'img2img','/v3/async/img2img',3,X'AB46A479856AA8A082516D2D00','saved','a','0c9d55e1',1,1760000002.25,1760000002.25,1760000002.25,1760000002.25,'1180591620717411303424',NULL,'["out/00002.png"]','{"files":[]}',3,0,1760000002.25,3789157207);
CREATE UNIQUE INDEX requests_by_key ON requests (key, occurrence);
CREATE INDEX requests_by_state ON requests (state, serial, image_num, bought, perhaps);
CREATE INDEX requests_by_slot ON requests (slot_time) WHERE slot_time IS NOT NULL;
CREATE INDEX requests_by_task ON requests (task_id) WHERE task_id IS NOT NULL;
