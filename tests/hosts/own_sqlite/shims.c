/* A VFS above pwal. One that passes everything on is served; it is tried at a main database by its table of methods, of which
   this one makes one for each file, so that its attached databases work as stock SQLite's do. So does one that copies names.
   Whatever it passes on as the name of a WAL, pwal does not look into memory that is not SQLite's. */
#include "host.h"

static sqlite3_vfs shim, *below;
static int copies, wraps, moves;

typedef struct {
  sqlite3_file base;
  sqlite3_io_methods methods;
} Wrapped;

#define REAL(file) ((sqlite3_file *)((Wrapped *)(file) + 1))
static int x_close(sqlite3_file *f) { return REAL(f)->pMethods ? REAL(f)->pMethods->xClose(REAL(f)) : 0; }
static int x_read(sqlite3_file *f, void *b, int n, sqlite3_int64 o) { return REAL(f)->pMethods->xRead(REAL(f), b, n, o); }
static int x_write(sqlite3_file *f, const void *b, int n, sqlite3_int64 o) { return REAL(f)->pMethods->xWrite(REAL(f), b, n, o); }
static int x_truncate(sqlite3_file *f, sqlite3_int64 n) { return REAL(f)->pMethods->xTruncate(REAL(f), n); }
static int x_sync(sqlite3_file *f, int n) { return REAL(f)->pMethods->xSync(REAL(f), n); }
static int x_size(sqlite3_file *f, sqlite3_int64 *n) { return REAL(f)->pMethods->xFileSize(REAL(f), n); }
static int x_lock(sqlite3_file *f, int n) { return REAL(f)->pMethods->xLock(REAL(f), n); }
static int x_unlock(sqlite3_file *f, int n) { return REAL(f)->pMethods->xUnlock(REAL(f), n); }
static int x_reserved(sqlite3_file *f, int *n) { return REAL(f)->pMethods->xCheckReservedLock(REAL(f), n); }
static int x_control(sqlite3_file *f, int op, void *a) { return REAL(f)->pMethods->xFileControl(REAL(f), op, a); }
static int x_sector(sqlite3_file *f) { return REAL(f)->pMethods->xSectorSize(REAL(f)); }
static int x_device(sqlite3_file *f) { return REAL(f)->pMethods->xDeviceCharacteristics(REAL(f)); }
static int x_map(sqlite3_file *f, int i, int n, int e, void volatile **p) { return REAL(f)->pMethods->xShmMap(REAL(f), i, n, e, p); }
static int x_shm(sqlite3_file *f, int o, int n, int fl) { return REAL(f)->pMethods->xShmLock(REAL(f), o, n, fl); }
static void x_barrier(sqlite3_file *f) { REAL(f)->pMethods->xShmBarrier(REAL(f)); }
static int x_unmap(sqlite3_file *f, int d) { return REAL(f)->pMethods->xShmUnmap(REAL(f), d); }

static int x_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags, int *out) {
  (void)vfs;
  /* As SQLite's multiplexor does; names must outlive their files. */
  if (copies && name) name = flags & SQLITE_OPEN_MAIN_DB ? sqlite3_create_filename(name, "", "", 0, 0) : strdup(name);
  if (moves && flags & SQLITE_OPEN_MAIN_DB) {
    /* As SQLite's appendvfs does with a database that is not appended to anything. */
    int code = below->xOpen(below, name, REAL(file), flags, out);
    memmove(file, REAL(file), below->szOsFile);
    return code;
  }
  if (!wraps) return below->xOpen(below, name, file, flags, out);
  Wrapped *wrapped = (Wrapped *)file;
  int code = below->xOpen(below, name, REAL(file), flags, out);
  sqlite3_io_methods methods = {
      2,        x_close,  x_read,  x_write, x_truncate, x_sync, x_size,    x_lock,  x_unlock, x_reserved,
      x_control, x_sector, x_device, x_map,  x_shm,      x_barrier, x_unmap, 0,       0};
  wrapped->methods = methods;
  wrapped->base.pMethods = REAL(file)->pMethods ? &wrapped->methods : 0;
  return code;
}

int main(void) {
  sqlite3_config(SQLITE_CONFIG_LOG, tell, 0);
  CHECK("load", load_pwal() == 0);
  below = sqlite3_vfs_find(0);
  shim = *below;
  shim.zName = "shim";
  shim.szOsFile += sizeof(Wrapped);
  shim.xOpen = x_open;
  shim.pNext = 0;
  sqlite3_vfs_register(&shim, 0);
  for (int i = 0; i < 5; i++) {
    char name[20], uri[60];
    copies = i & 1;
    wraps = i & 2;
    moves = i & 4;
    snprintf(name, sizeof name, "%d.db", i);
    sqlite3 *db = open_on(name, "shim");
    IS(db, "PRAGMA journal_mode=WAL", "wal");
    CHECK(name, run(db, "CREATE TABLE t(x)") == SQLITE_OK);
    CHECK(name, run(db, "INSERT INTO t VALUES(1)") == SQLITE_OK);
    sqlite3 *second = open_on(name, "shim");
    CHECK(name, run(second, "INSERT INTO t VALUES(2)") == SQLITE_OK);
    IS(db, "SELECT count(*) FROM t", "2");
    const char *status = text(db, "PRAGMA parallel_wal_status");
    if (copies) CHECK(status, strstr(status, "\"active\":false") && strstr(status, "another VFS"));
    else CHECK(status, strstr(status, "\"active\":true"));
    /* Attached to a connection on pwal itself. */
    sqlite3 *direct = open_on("direct.db", 0);
    IS(direct, "PRAGMA journal_mode=WAL", "wal");
    CHECK("direct", run(direct, "CREATE TABLE IF NOT EXISTS d(x)") == SQLITE_OK);
    snprintf(uri, sizeof uri, "ATTACH 'file:at%d.db?vfs=shim' AS a", i);
    CHECK(uri, run(direct, uri) == SQLITE_OK);
    CHECK(sqlite3_errmsg(direct), run(direct, "PRAGMA a.journal_mode=WAL; CREATE TABLE a.u(x); INSERT INTO a.u VALUES(1)") == SQLITE_OK);
    IS(direct, "SELECT count(*) FROM a.u", "1");
    CHECK(uri, strstr(text(direct, "PRAGMA main.parallel_wal_status"), "\"active\":true"));
    status = text(direct, "PRAGMA a.parallel_wal_status");
    if (wraps || copies) CHECK(status, strstr(status, "\"active\":false") && strstr(status, "another VFS"));
    else CHECK(status, strstr(status, "\"active\":true"));
    sqlite3_close(direct);
    sqlite3_close(second);
    CHECK(name, sqlite3_close(db) == SQLITE_OK);
    db = open_on(name, 0);
    CHECK(name, run(db, "INSERT INTO t VALUES(3)") == SQLITE_OK);
    IS(db, "SELECT count(*) FROM t", "3");
    IS(db, "PRAGMA integrity_check", "ok");
    /* One that is open on pwal already. */
    if (wraps || copies) {
      sqlite3 *late = open_on(name, "shim");
      CHECK(name, run(late, "SELECT * FROM t") == (copies ? SQLITE_BUSY : SQLITE_OK));
      sqlite3_close(late);
      CHECK(name, run(db, "INSERT INTO t VALUES(4)") == SQLITE_OK);
    }
    sqlite3_close(db);
  }
  return 0;
}
