// Node with better-sqlite3 and the package of npm/: transactions that write beside each other. docs/concurrent.md shows its lines about
// pwal.

const { Worker, isMainThread } = require('node:worker_threads');
const Database = require('better-sqlite3');
if (isMainThread) require('pwal').install(Database); // once, for all threads

function connect() {
  const db = new Database('app.db', { timeout: 10_000 });
  db.pragma('parallel_wal_writers = concurrent');
  return db;
}

function again(db, work, attempts = 8) {
  const transaction = db.transaction(work);
  for (let attempt = 0; ; attempt++) {
    try {
      return attempt < attempts ? transaction.deferred() : transaction.immediate();
    } catch (error) {
      if (attempt === attempts || !error.code?.startsWith('SQLITE_BUSY')) throw error;
    }
  }
}

const db = connect();
if (isMainThread) {
  db.pragma('journal_mode = WAL');
  db.exec('CREATE TABLE IF NOT EXISTS counter(id INTEGER PRIMARY KEY, n); REPLACE INTO counter VALUES(1, 0)');
  const ended = Array.from({ length: 4 }, () => new Promise((end) => new Worker(__filename).on('exit', end)));
  Promise.all(ended).then((codes) => {
    const { n } = db.prepare('SELECT n FROM counter WHERE id = 1').get();
    if (codes.some((code) => code !== 0) || n !== 200) throw new Error(`${codes}: ${n} of 200`);
    console.log(db.pragma('parallel_wal_mode', { simple: true })); // auto
    db.close();
  });
} else {
  for (let i = 0; i < 50; i++) {
    again(db, () => {
      const { n } = db.prepare('SELECT n FROM counter WHERE id = 1').get();
      db.prepare('UPDATE counter SET n = ? WHERE id = 1').run(n + 1);
    });
  }
  db.close();
}
