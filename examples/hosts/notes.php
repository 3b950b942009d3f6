<?php
// PHP with libpwal.so in the directory that sqlite3.extension_dir names (php.ini, or php -d): PDO is on pwal, too.

$loader = new SQLite3(':memory:');
if (!$loader->loadExtension('libpwal.so')) { // for every database that this process opens from here on
    exit(1);
}

$db = new PDO('sqlite:app.db', options: [PDO::ATTR_TIMEOUT => 10]);
$db->exec('PRAGMA journal_mode = WAL');
$db->exec('PRAGMA synchronous = FULL');
$db->exec('CREATE TABLE IF NOT EXISTS note(id INTEGER PRIMARY KEY, text)');
$db->exec("INSERT INTO note(text) VALUES('from PHP')"); // durable when it returns
echo $db->query('PRAGMA parallel_wal_mode')->fetchColumn(), "\n"; // auto
