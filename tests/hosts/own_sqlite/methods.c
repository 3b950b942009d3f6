/* sqlite3_recover_*() puts methods of its own into the file object of the main database while it reads it the first time. */
#include "host.h"

static const sqlite3_io_methods *own;
static sqlite3_io_methods swapped;

#define WRAP(call)                 \
  int code;                        \
  file->pMethods = own;            \
  code = call;                     \
  file->pMethods = &swapped;       \
  return code

static int x_close(sqlite3_file *file) { file->pMethods = own; return own->xClose(file); }
static int x_read(sqlite3_file *file, void *b, int n, sqlite3_int64 o) { WRAP(own->xRead(file, b, n, o)); }
static int x_write(sqlite3_file *file, const void *b, int n, sqlite3_int64 o) { WRAP(own->xWrite(file, b, n, o)); }
static int x_truncate(sqlite3_file *file, sqlite3_int64 n) { WRAP(own->xTruncate(file, n)); }
static int x_sync(sqlite3_file *file, int n) { WRAP(own->xSync(file, n)); }
static int x_size(sqlite3_file *file, sqlite3_int64 *n) { WRAP(own->xFileSize(file, n)); }
static int x_lock(sqlite3_file *file, int n) { WRAP(own->xLock(file, n)); }
static int x_unlock(sqlite3_file *file, int n) { WRAP(own->xUnlock(file, n)); }
static int x_reserved(sqlite3_file *file, int *n) { WRAP(own->xCheckReservedLock(file, n)); }
static int x_control(sqlite3_file *file, int op, void *a) { WRAP(own->xFileControl(file, op, a)); }
static int x_sector(sqlite3_file *file) { WRAP(own->xSectorSize(file)); }
static int x_device(sqlite3_file *file) { WRAP(own->xDeviceCharacteristics(file)); }
static int x_map(sqlite3_file *file, int i, int n, int e, void volatile **p) { WRAP(own->xShmMap(file, i, n, e, p)); }
static int x_shm(sqlite3_file *file, int o, int n, int f) { WRAP(own->xShmLock(file, o, n, f)); }
static void x_barrier(sqlite3_file *file) { file->pMethods = own; own->xShmBarrier(file); file->pMethods = &swapped; }
static int x_unmap(sqlite3_file *file, int d) { WRAP(own->xShmUnmap(file, d)); }

int main(void) {
  sqlite3_config(SQLITE_CONFIG_LOG, tell, 0);
  CHECK("load", load_pwal() == 0);
  sqlite3 *db = open_on("a.db", 0);
  IS(db, "PRAGMA journal_mode=WAL", "wal");
  CHECK("rows", run(db, "CREATE TABLE t(x); INSERT INTO t VALUES(1)") == SQLITE_OK);
  sqlite3_close(db);
  db = open_on("a.db", 0);
  sqlite3_file *file;
  CHECK("file", sqlite3_file_control(db, "main", SQLITE_FCNTL_FILE_POINTER, &file) == SQLITE_OK);
  own = file->pMethods;
  sqlite3_io_methods methods = {2,      x_close,    x_read,   x_write,  x_truncate, x_sync, x_size,    x_lock, x_unlock,
                                x_reserved, x_control, x_sector, x_device, x_map,      x_shm,  x_barrier, x_unmap, 0, 0};
  swapped = methods;
  file->pMethods = &swapped;
  CHECK("first read", run(db, "BEGIN; SELECT * FROM t") == SQLITE_OK);
  file->pMethods = own;
  CHECK("write", run(db, "INSERT INTO t VALUES(2); COMMIT") == SQLITE_OK);
  IS(db, "SELECT count(*) FROM t", "2");
  CHECK("on pwal", strstr(text(db, "PRAGMA parallel_wal_status"), "\"active\":true"));
  CHECK("close", sqlite3_close(db) == SQLITE_OK);
  return 0;
}
