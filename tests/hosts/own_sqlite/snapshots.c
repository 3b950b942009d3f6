/* sqlite3_snapshot_*: refused. Never another snapshot than the one that was asked for, never a crash. */
#include "host.h"

static void refused(sqlite3 *db, sqlite3_snapshot *snapshot, const char *begin) {
  CHECK(begin, run(db, begin) == SQLITE_OK);
  int code = sqlite3_snapshot_open(db, "main", snapshot);
  if (code != SQLITE_ERROR_SNAPSHOT) printf("snapshot_open: %d\n", code);
  CHECK(begin, code == SQLITE_ERROR_SNAPSHOT);
  if (!sqlite3_get_autocommit(db)) CHECK(begin, run(db, "ROLLBACK") == SQLITE_OK);
  IS(db, "SELECT y FROM t", "new");
}

int main(void) {
  sqlite3_config(SQLITE_CONFIG_LOG, tell, 0);
  CHECK("load", load_pwal() == 0);
  sqlite3 *a = open_on("a.db", 0), *b = open_on("a.db", 0), *c = open_on("a.db", 0);
  IS(a, "PRAGMA journal_mode=WAL", "wal");
  CHECK("rows", run(a, "CREATE TABLE t(x INTEGER PRIMARY KEY, y); INSERT INTO t VALUES(1,'old')") == SQLITE_OK);
  sqlite3_close(a);
  a = open_on("a.db", 0);
  IS(a, "SELECT pwal_status() IS NOT NULL FROM t", "1");
  IS(c, "SELECT count(*) FROM t", "1");
  /* With and without own commits in the view, and the header of two views may be equal. */
  sqlite3_snapshot *of_reader = 0, *of_writer = 0;
  CHECK("begin", run(a, "BEGIN; SELECT y FROM t") == SQLITE_OK);
  sqlite3_snapshot_get(a, "main", &of_reader);
  CHECK("commit", run(a, "COMMIT") == SQLITE_OK);
  CHECK("write", run(b, "UPDATE t SET y='newer'; BEGIN; SELECT y FROM t") == SQLITE_OK);
  CHECK("get", sqlite3_snapshot_get(b, "main", &of_writer) == SQLITE_OK);
  CHECK("write", run(b, "COMMIT; UPDATE t SET y='new'") == SQLITE_OK);
  for (int i = 0; i < 2; i++) {
    sqlite3_snapshot *snapshot = i ? of_writer : of_reader;
    if (!snapshot) continue;
    sqlite3 *fresh = open_on("a.db", 0);
    /* Before its first read it has no WAL (stock SQLite says the same). */
    IS(fresh, "SELECT y FROM t", "new");
    sqlite3 *all[] = {a, b, c, fresh};
    for (int k = 0; k < 4; k++) {
      refused(all[k], snapshot, "BEGIN");
      refused(all[k], snapshot, "BEGIN; SELECT count(*) FROM sqlite_schema");
    }
    sqlite3_close(fresh);
  }
  sqlite3 *all[] = {a, b, c};
  for (int k = 0; k < 3; k++) {
    CHECK("recover", sqlite3_snapshot_recover(all[k], "main") == SQLITE_ERROR);
    IS(all[k], "SELECT y FROM t", "new");
  }
  CHECK("checkpoint", sqlite3_wal_checkpoint_v2(c, "main", SQLITE_CHECKPOINT_TRUNCATE, 0, 0) == SQLITE_OK);
  CHECK("recover", sqlite3_snapshot_recover(b, "main") == SQLITE_ERROR);
  IS(b, "PRAGMA integrity_check", "ok");
  return 0;
}
