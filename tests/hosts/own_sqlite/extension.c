/* A host's automatic extension that opens the database which is just being claimed, while what stock SQLite left beside it is settled by a
   connection of pwal's own. */
#include "host.h"
#include <unistd.h>

static int calls;

static int opens_it(sqlite3 *db, char **error, const sqlite3_api_routines *routines) {
  static int inside;
  (void)db, (void)error, (void)routines;
  if (inside) return SQLITE_OK;
  inside = 1;
  sqlite3 *again = open_on("b.db", 0);
  int code = run(again, "SELECT count(*) FROM t");
  if (calls++ > 0) CHECK("inside the claim", (code & 0xff) == SQLITE_BUSY);
  sqlite3_close(again);
  inside = 0;
  return SQLITE_OK;
}

int main(void) {
  alarm(60);
  sqlite3 *stock = open_on("a.db", 0);
  IS(stock, "PRAGMA journal_mode=WAL", "wal");
  CHECK("rows", run(stock, "CREATE TABLE t(x); INSERT INTO t VALUES(1)") == SQLITE_OK);
  CHECK("crash", system("cp a.db b.db && cp a.db-wal b.db-wal") == 0);
  sqlite3_close(stock);
  CHECK("load", load_pwal() == 0);
  calls = 1;
  sqlite3 *db = open_on("b.db", 0);
  sqlite3_auto_extension((void (*)(void))opens_it);
  IS(db, "SELECT count(*) FROM t", "1");
  CHECK("it was called", calls > 1);
  sqlite3_cancel_auto_extension((void (*)(void))opens_it);
  CHECK("write", run(db, "INSERT INTO t VALUES(2)") == SQLITE_OK);
  CHECK("on pwal", strstr(text(db, "PRAGMA parallel_wal_status"), "\"active\":true"));
  sqlite3_close(db);
  return 0;
}
