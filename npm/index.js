'use strict';
// pwal in the SQLite of better-sqlite3, node:sqlite, bun:sqlite or sqlite3:
//
//     const Database = require('better-sqlite3');
//     require('pwal').install(Database);
//
// or, in an ES module,
//
//     import Database from 'better-sqlite3';
//     import { install } from 'pwal';
//     install(Database);
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
 * Loads pwal into the SQLite that `host` uses: the class `Database` of better-sqlite3 or bun:sqlite, `DatabaseSync` of node:sqlite, or a
 * database of theirs that is open (of node:sqlite with `allowExtension: true`). For `Database` of sqlite3, which has no
 * synchronous calls, the answer is a promise.
 */
function install(host, options = {}) {
  if (options.strict && options.default === false) {
    throw new TypeError('pwal: strict makes every connection to a file go through pwal: it cannot be had without default');
  }
  const plain = options.default === false ? 'sqlite3_pwalvfs_init' : 'sqlite3_pwal_init';
  const entry = options.strict ? 'sqlite3_pwalstrict_init' : plain;
  const before = installed ? [] : openDatabases();
  const file = thePath();
  if (before.length > 0 && options.strict) {
    throw new Error(`pwal: open before pwal was installed: ${before.join(', ')}`);
  }
  // Only the class of sqlite3 has it.
  if (typeof host?.prototype?.parallelize === 'function') {
    return loadLater(host, file, entry).then(() => done(before));
  }
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
  done(before);
}

function done(before) {
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
    throw new TypeError("pwal: install() takes better-sqlite3's Database (or bun:sqlite's, or sqlite3's), node:sqlite's DatabaseSync, or one that is open");
  }
  try {
    database.loadExtension(file, entry);
  } catch (error) {
    const other = error.message.includes('registered already, by other code') && loadedCopy(database);
    if (other) {
      database.loadExtension(other, entry);
      return;
    }
    const hint = error.message.includes('not allowed') ? ' (open it with allowExtension: true, or give install() the class)' : '';
    throw new Error(`pwal: cannot load ${file}: ${error.message}${hint}`, { cause: error });
  }
}

/**
 * Another file of the library that is loaded into this SQLite (a preload, a second package), if it is of this package's
 * version: then it is as good.
 */
function loadedCopy(database) {
  const version = Object.values(database.prepare('SELECT pwal_version()').get())[0].split(' ')[0];
  if (version !== require('./package.json').version) return undefined;
  const files = fs.readFileSync('/proc/self/maps', 'utf8').split('\n').map((line) => line.slice(line.indexOf('/')));
  const own = fs.realpathSync(library);
  return files.find((file) => /pwal[^/]*\.so$/.test(file) && !file.endsWith('_preload.so') && file !== own);
}

/** sqlite3 loads a library by its default entry point only. */
async function loadLater(host, file, entry) {
  if (entry !== 'sqlite3_pwal_init') {
    throw new TypeError('pwal: sqlite3 cannot choose what it loads: neither `default: false` nor `strict` can be had there');
  }
  const loader = await new Promise((opened, failed) => {
    const database = new host(':memory:', (error) => (error ? failed(error) : opened(database)));
  });
  const call = (name, ...words) =>
    new Promise((ended, failed) => loader[name](...words, (error) => (error ? failed(error) : ended())));
  try {
    await call('loadExtension', file);
  } catch (error) {
    throw new Error(`pwal: cannot load ${file}: ${error.message}`, { cause: error });
  } finally {
    await call('close');
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
 * Takes the log of this connection's database away with connections open: for the shutdown of a server. The file is plain and
 * complete then, and stock SQLite can open it once this process has ended, however it ends. Answers 'retired', or 'no log' where there is none; the next commit makes a log anew. An error if another process has the
 * database open, or a transaction is open.
 */
function retire(database) {
  return Object.values(database.prepare('SELECT pwal_retire()').get())[0];
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

// One by one and with plain values: so Node finds the names for `import { install } from 'pwal'`.
exports.install = install;
exports.retire = retire;
exports.status = status;
/** The loadable library. */
exports.path = library;
