'use strict';
// pwal in the SQLite of better-sqlite3 or node:sqlite:
//
//     const Database = require('better-sqlite3');
//     require('pwal').install(Database);
//
// Every database that is opened afterwards goes through pwal. Call it before the first one is opened.

const fs = require('node:fs');
const path = require('node:path');

const MAGIC = Buffer.from('SQLite format 3\0');

const platform = `${process.platform}-${process.arch}`;
const library = path.join(__dirname, 'prebuilt', platform, 'libpwal.so');

/** The library, or an error that says what to do. */
function thePath() {
  if (!fs.existsSync(library)) {
    throw new Error(`pwal: this package has no library for ${platform} (${library}); \`npm pack ./npm\` in pwal's checkout builds it`);
  }
  return library;
}

/**
 * Loads pwal into the SQLite that `host` uses: the class `Database` of better-sqlite3, `DatabaseSync` of node:sqlite, or a
 * database of theirs that is open (of node:sqlite with `allowExtension: true`).
 */
function install(host, options = {}) {
  const entry = options.default === false ? 'sqlite3_pwalvfs_init' : 'sqlite3_pwal_init';
  const before = installed ? [] : openDatabases();
  const file = thePath();
  if (typeof host === 'function') {
    const loader = new host(':memory:', { allowExtension: true });
    try {
      load(loader, file, entry);
    } finally {
      loader.close();
    }
  } else {
    load(host, file, entry);
  }
  installed = true;
  if (before.length > 0) {
    process.emitWarning(
      `open before pwal was installed: ${before.join(', ')}. Such a connection stays on stock SQLite, and those ` +
        "through pwal to the same file work on stock SQLite's own -wal beside it. Close it before they open, or call install() " +
        'before the first one',
      'PwalOpenedBeforeWarning',
    );
  }
}

// Once there, what is open may well be on pwal.
let installed = false;

function load(database, file, entry) {
  if (typeof database?.loadExtension !== 'function') {
    throw new TypeError("pwal: install() takes better-sqlite3's Database, node:sqlite's DatabaseSync, or one that is open");
  }
  try {
    database.loadExtension(file, entry);
  } catch (error) {
    const hint = error.message.includes('not allowed') ? ' (open it with allowExtension: true, or give install() the class)' : '';
    throw new Error(`pwal: cannot load ${file}: ${error.message}${hint}`, { cause: error });
  }
}

/** What this connection is on: `active` (through pwal), `vfs`, and where it is not active, the `reason`. */
function status(database) {
  // The pragma answers without reading the database, but on pwal only; the function on every connection that can read.
  const pragma = database.prepare('PRAGMA parallel_wal_status');
  const row = (pragma.reader === false ? undefined : pragma.get()) ?? database.prepare('SELECT pwal_status()').get();
  return JSON.parse(Object.values(row)[0]);
}

/**
 * The SQLite database files that this process has open. Read through the descriptors that are there: to open such a file
 * once more and to close it would drop SQLite's locks on it, which are the process's.
 */
function openDatabases() {
  const found = new Set();
  for (const name of descriptors()) {
    try {
      const start = Buffer.alloc(MAGIC.length);
      if (fs.fstatSync(Number(name)).isFile() && fs.readSync(Number(name), start, 0, start.length, 0) && start.equals(MAGIC)) {
        found.add(fs.readlinkSync(`/proc/self/fd/${name}`));
      }
    } catch {
      // Not to be read, or closed meanwhile.
    }
  }
  return [...found].sort();
}

function descriptors() {
  try {
    return fs.readdirSync('/proc/self/fd');
  } catch {
    return [];
  }
}

module.exports = {
  /** The loadable library. */
  get path() {
    return thePath();
  },
  install,
  status,
};
