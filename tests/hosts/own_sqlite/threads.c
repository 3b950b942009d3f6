/* SQLITE_CONFIG_SINGLETHREAD: SQLite's mutexes are empty, and pwal has a thread of its own. */
#include "host.h"

int main(void) {
  CHECK("config", sqlite3_config(SQLITE_CONFIG_SINGLETHREAD) == SQLITE_OK);
  CHECK("compiled", sqlite3_threadsafe() != 0);
  const char *error = load_pwal();
  CHECK("load", error != 0 && strstr(error, "SQLITE_CONFIG_SINGLETHREAD") != 0);
  sqlite3 *db = open_on("a.db", 0);
  IS(db, "PRAGMA journal_mode=WAL", "wal");
  CHECK("stock", run(db, "CREATE TABLE t(x); INSERT INTO t VALUES(1)") == SQLITE_OK);
  sqlite3_close(db);
  return 0;
}
