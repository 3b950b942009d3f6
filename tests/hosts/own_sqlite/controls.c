/* SQLITE_FCNTL_EXTERNAL_READER between two processes. */
#include "host.h"
#include <sys/wait.h>
#include <unistd.h>

static int external_reader(sqlite3 *db) {
  int value = -1;
  CHECK("control", sqlite3_file_control(db, "main", SQLITE_FCNTL_EXTERNAL_READER, &value) == SQLITE_OK);
  return value;
}

int main(void) {
  int to[2], from[2];
  char byte;
  CHECK("pipes", pipe(to) == 0 && pipe(from) == 0);
  pid_t child = fork();
  CHECK("load", load_pwal() == 0);
  sqlite3 *db = open_on("a.db", 0);
  if (child == 0) {
    CHECK("begin", read(to[0], &byte, 1) == 1);
    CHECK("reads", run(db, "BEGIN; SELECT * FROM t") == SQLITE_OK);
    CHECK("told", write(from[1], "r", 1) == 1 && read(to[0], &byte, 1) == 1);
    CHECK("ends", run(db, "COMMIT") == SQLITE_OK);
    CHECK("told", write(from[1], "e", 1) == 1 && read(to[0], &byte, 1) == 1);
    sqlite3_close(db);
    return 0;
  }
  IS(db, "PRAGMA journal_mode=WAL", "wal");
  CHECK("rows", run(db, "CREATE TABLE t(x); INSERT INTO t VALUES(1)") == SQLITE_OK);
  CHECK("nobody", external_reader(db) == 0);
  CHECK("tell", write(to[1], "b", 1) == 1 && read(from[0], &byte, 1) == 1);
  CHECK("the child reads", external_reader(db) == 1);
  CHECK("tell", write(to[1], "c", 1) == 1 && read(from[0], &byte, 1) == 1);
  CHECK("it has ended", external_reader(db) == 0);
  CHECK("tell", write(to[1], "x", 1) == 1);
  int status;
  CHECK("child", waitpid(child, &status, 0) == child && status == 0);
  sqlite3_close(db);
  return 0;
}
