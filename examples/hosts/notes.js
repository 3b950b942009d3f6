// Node with better-sqlite3 and the npm package pwal: the README shows its lines about pwal.

const Database = require('better-sqlite3');
require('pwal').install(Database); // for every database that is opened from here on

const db = new Database('app.db', { timeout: 10_000 });
db.pragma('journal_mode = WAL');
db.pragma('synchronous = FULL'); // better-sqlite3's default is NORMAL: the newest commits may be lost when the power goes
db.exec('CREATE TABLE IF NOT EXISTS note(id INTEGER PRIMARY KEY, text)');
db.exec("INSERT INTO note(text) VALUES('from Node')"); // durable when it returns
console.log(db.pragma('parallel_wal_mode', { simple: true })); // auto
db.close();
