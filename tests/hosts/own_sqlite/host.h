/* What the programs here share: pwal is loaded from the path in PWAL_LIBRARY, and a check that fails ends the program. */
#include "sqlite3.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(what, condition)                                            \
  do {                                                                    \
    if (!(condition)) {                                                   \
      printf("%s:%d: %s: %s\n", __FILE__, __LINE__, what, #condition);    \
      exit(1);                                                            \
    }                                                                     \
  } while (0)

static void tell(void *nothing, int code, const char *text) {
  (void)nothing;
  printf("sqlite3_log: %d %s\n", code, text);
  fflush(stdout);
}

/* The error text, or null. */
static const char *load_pwal(void) {
  sqlite3 *db;
  char *error = 0;
  CHECK("memory", sqlite3_open(":memory:", &db) == SQLITE_OK);
  sqlite3_enable_load_extension(db, 1);
  if (sqlite3_load_extension(db, getenv("PWAL_LIBRARY"), 0, &error) == SQLITE_OK) error = 0;
  sqlite3_close(db);
  return error;
}

static sqlite3 *open_on(const char *name, const char *vfs) {
  sqlite3 *db;
  CHECK(name, sqlite3_open_v2(name, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_URI, vfs) == SQLITE_OK);
  sqlite3_extended_result_codes(db, 1);
  return db;
}

static int run(sqlite3 *db, const char *sql) { return sqlite3_exec(db, sql, 0, 0, 0); }

/* The first column of the first row, as text; the error's message. */
static const char *text(sqlite3 *db, const char *sql) {
  static char answer[4096];
  sqlite3_stmt *statement = 0;
  snprintf(answer, sizeof answer, "no row");
  if (sqlite3_prepare_v2(db, sql, -1, &statement, 0) == SQLITE_OK && sqlite3_step(statement) == SQLITE_ROW)
    snprintf(answer, sizeof answer, "%s", (const char *)sqlite3_column_text(statement, 0));
  else if (sqlite3_errcode(db) != SQLITE_DONE && sqlite3_errcode(db) != SQLITE_OK)
    snprintf(answer, sizeof answer, "%s", sqlite3_errmsg(db));
  sqlite3_finalize(statement);
  return answer;
}

#define IS(db, sql, expected)                                        \
  do {                                                               \
    const char *answer = text(db, sql);                              \
    if (strcmp(answer, expected) != 0) {                             \
      printf("%s:%d: %s: %s\n", __FILE__, __LINE__, sql, answer);    \
      exit(1);                                                       \
    }                                                                \
  } while (0)
