'use strict';
// The package in the real hosts: each case in a process of its own, since what is loaded stays loaded.
//
// Run where the package and the hosts are installed: `node --test <checkout>/npm/test/`. A host that is not there is
// skipped by name.

const assert = require('node:assert');
const { spawnSync, spawn } = require('node:child_process');
const fs = require('node:fs');
const { createRequire } = require('node:module');
const os = require('node:os');
const path = require('node:path');
const test = require('node:test');

const here = process.cwd();
const from = createRequire(path.join(here, 'tests.js'));

const hosts = {
  'better-sqlite3': { open: "require('better-sqlite3')", options: '' },
  'node:sqlite': { open: "require('node:sqlite').DatabaseSync", options: ', { timeout: 5000 }' },
};

/** A reason to skip, or false. */
function missing(host) {
  try {
    from(host);
    return false;
  } catch (error) {
    return `${host} is not there (node ${process.version}): ${error.message.split('\n')[0]}`;
  }
}

/** Each script begins with the class `Database` of the host, `pwal`, and what both are asked for. */
function prelude(host) {
  return `
    const pwal = require('pwal');
    const Database = ${hosts[host].open};
    const open = (name) => new Database(name${hosts[host].options});
    const one = (db, sql) => Object.values(db.prepare(sql).get() ?? {})[0];
    const fill = (db) => db.exec('PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE t(x); INSERT INTO t VALUES(1)');
    const assert = require('node:assert');
  `;
}

function command(host, directory, script) {
  const run = `process.chdir(${JSON.stringify(directory)}); ${prelude(host)}\n${script}`;
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^(PWAL_|NODE_TEST)/.test(name)));
  return [process.execPath, ['--disable-warning=ExperimentalWarning', '-e', run], { cwd: here, env, encoding: 'utf8', timeout: 60_000 }];
}

/** What the script printed, on both channels; it must end with this status. */
function run(host, directory, script, status = 0) {
  const done = spawnSync(...command(host, directory, script));
  assert.strictEqual(done.status, status, `${done.stdout}\n${done.stderr}`);
  return { out: done.stdout, errors: done.stderr };
}

/** One plain file, which the host's stock SQLite reads. */
function assertPlain(host, directory, rows) {
  assert.deepStrictEqual(fs.readdirSync(directory), ['app.db']);
  const check = "const db = open('app.db'); console.log(one(db, 'PRAGMA integrity_check'), one(db, 'SELECT count(*) FROM t'))";
  assert.strictEqual(run(host, directory, check).out, `ok ${rows}\n`);
}

for (const host of Object.keys(hosts)) {
  const skip = missing(host);
  const scratch = (t) => {
    const directory = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), 'pwal-npm-')));
    t.after(() => fs.rmSync(directory, { recursive: true }));
    return directory;
  };

  test(`${host}: every database that is opened afterwards goes through pwal`, { skip }, (t) => {
    const directory = scratch(t);
    const { out, errors } = run(host, directory, `
      pwal.install(Database);
      pwal.install(Database);
      const [db, other] = [open('app.db'), open('app.db')];
      fill(db);
      assert(pwal.status(db).active);
      assert.strictEqual(one(db, 'PRAGMA parallel_wal_mode'), 'auto');
      other.exec('INSERT INTO t VALUES(2)');
      assert.strictEqual(one(db, 'SELECT count(*) FROM t'), 2);
      db.close();
      other.close();
      console.log('done');
    `);
    assert.deepStrictEqual([out, errors], ['done\n', '']);
    assertPlain(host, directory, 2);
  });

  test(`${host}: through a database that is open`, { skip }, (t) => {
    const directory = scratch(t);
    run(host, directory, `
      const loader = new Database(':memory:', { allowExtension: true });
      pwal.install(loader);
      const db = open('app.db');
      fill(db);
      assert(pwal.status(db).active);
      assert.strictEqual(pwal.status(loader).active, false);
      db.close();
    `);
    assertPlain(host, directory, 1);
  });

  test(`${host}: process.exit() with an open database leaves one plain file`, { skip }, (t) => {
    const directory = scratch(t);
    run(host, directory, "pwal.install(Database); const db = open('app.db'); fill(db); process.exit(3)", 3);
    assertPlain(host, directory, 1);
  });

  test(`${host}: retire() leaves a plain file with connections open`, { skip }, (t) => {
    const directory = scratch(t);
    run(host, directory, `
      pwal.install(Database);
      const db = open('app.db');
      fill(db);
      const log = () => require('node:fs').readdirSync('app.db-pwal').filter((name) => name.endsWith('.seg'));
      assert.notDeepStrictEqual(log(), []);
      db.exec('BEGIN; INSERT INTO t VALUES(2)');
      assert.throws(() => pwal.retire(db), /pwal_retire: /);
      db.exec('COMMIT');
      assert.strictEqual(pwal.retire(db), 'retired');
      assert.deepStrictEqual(log(), []);
      assert.strictEqual(pwal.retire(db), 'no log');
      db.close();
    `);
    assertPlain(host, directory, 2);
  });

  test(`${host}: SIGTERM leaves the log, where the program does not make an exit of it`, { skip }, async (t) => {
    for (const handled of [false, true]) {
      const directory = scratch(t);
      const script = `
        if (${handled}) process.once('SIGTERM', () => process.exit(143));
        pwal.install(Database);
        const db = open('app.db');
        fill(db);
        console.log('ready');
        setInterval(() => {}, 1000);
      `;
      const [program, words, options] = command(host, directory, script);
      const child = spawn(program, words, { ...options, stdio: ['ignore', 'pipe', 'inherit'] });
      for await (const data of child.stdout) if (data.includes('ready')) child.kill('SIGTERM');
      assert.strictEqual(fs.existsSync(path.join(directory, 'app.db-pwal')), !handled);
      run(host, directory, "pwal.install(Database); const db = open('app.db'); one(db, 'SELECT * FROM t'); db.close()");
      assertPlain(host, directory, 1);
    }
  });

  test(`${host}: SIGKILL loses nothing that was acknowledged`, { skip }, async (t) => {
    const directory = scratch(t);
    const script = `
      pwal.install(Database);
      const db = open('app.db');
      db.exec('PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE t(x)');
      for (let n = 1; ; n++) {
        db.prepare('INSERT INTO t VALUES(?)').run(n);
        require('node:fs').writeSync(1, n + '\\n');
      }
    `;
    const [program, words, options] = command(host, directory, script);
    const child = spawn(program, words, { ...options, stdio: ['ignore', 'pipe', 'inherit'] });
    let told = '';
    for await (const data of child.stdout) {
      told += data;
      if (told.split('\n').length > 100) child.kill('SIGKILL');
    }
    const acknowledged = Number(told.slice(0, told.lastIndexOf('\n')).split('\n').pop());
    assert(acknowledged >= 100, told);
    assert(fs.readdirSync(directory).includes('app.db-pwal'), 'a log is left');
    const look = "pwal.install(Database); const db = open('app.db'); console.log(one(db, 'SELECT count(*) FROM t')); db.close()";
    const there = Number(run(host, directory, look).out);
    assert(there === acknowledged || there === acknowledged + 1, `${acknowledged} acknowledged, ${there} there`);
    assertPlain(host, directory, there);
  });

  test(`${host}: a database that was open before is named, and what to do`, { skip }, (t) => {
    const directory = scratch(t);
    const { out, errors } = run(host, directory, `
      const old = open('app.db');
      fill(old);
      pwal.install(Database);
      let db = open('app.db');
      db.exec('PRAGMA busy_timeout=0');
      assert.strictEqual(one(db, 'SELECT count(*) FROM t'), 1);
      assert(pwal.status(db).beside_stock);
      console.log(pwal.status(db).reason);
      old.close();
      db.close();
      db = open('app.db');
      assert.strictEqual(one(db, 'SELECT count(*) FROM t'), 1);
      assert(pwal.status(db).active);
      db.close();
    `);
    assert.match(errors, /PwalOpenedBeforeWarning: open before pwal was installed: /);
    assert(errors.includes(path.join(directory, 'app.db')), errors);
    assert.match(errors, /call install\(\) before the first one/);
    assert.match(out, /load pwal before the first connection/);
    assertPlain(host, directory, 1);
  });

  test(`${host}: a worker thread's databases, too`, { skip }, (t) => {
    const directory = scratch(t);
    run(host, directory, `
      pwal.install(Database);
      const db = open('app.db');
      fill(db);
      const { Worker } = require('node:worker_threads');
      const work = \`
        const Database = require(\${JSON.stringify(require.resolve(${JSON.stringify(host)}))});
        const db = new (Database.DatabaseSync ?? Database)(\${JSON.stringify(process.cwd() + '/app.db')}, { timeout: 5000 });
        for (let n = 0; n < 50; n++) db.exec('INSERT INTO t VALUES(2)');
        db.close();
      \`;
      const workers = [0, 1].map(() => new Promise((ended, failed) =>
        new Worker(work, { eval: true }).on('error', failed).on('exit', ended)));
      Promise.all(workers).then(() => {
        assert.strictEqual(one(db, 'SELECT count(*) FROM t'), 101);
        db.close();
      });
    `);
    assertPlain(host, directory, 101);
  });
}

for (const host of Object.keys(hosts)) {
  test(`${host}: strict forbids what would stay on stock SQLite`, { skip: missing(host) }, (t) => {
    const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'pwal-npm-'));
    t.after(() => fs.rmSync(directory, { recursive: true }));
    run(host, directory, `
      const old = open('app.db');
      fill(old);
      assert.throws(() => pwal.install(Database, { strict: true }), /open before pwal was installed: .*app.db/);
      old.close();
      assert.throws(() => pwal.install(Database, { strict: true, default: false }), /cannot be had without default/);
      pwal.install(Database, { strict: true });
      open(':memory:').exec('CREATE TABLE t(x)');
      const db = open('app.db');
      assert.strictEqual(one(db, 'SELECT count(*) FROM t'), 1);
      assert(pwal.status(db).active);
      if ('${host}' === 'node:sqlite') assert.throws(() => open('file:app.db?vfs=unix'), /another VFS than pwal/);
      db.close();
    `);
    assertPlain(host, directory, 1);
  });

  test(`${host}: another file of the same version is as good`, { skip: missing(host) }, (t) => {
    const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'pwal-npm-'));
    t.after(() => fs.rmSync(directory, { recursive: true }));
    run(host, directory, `
      require('node:fs').copyFileSync(pwal.path, 'libpwal.so');
      new Database(':memory:', { allowExtension: true }).loadExtension('./libpwal.so', 'sqlite3_pwalvfs_init');
      pwal.install(Database);
      const db = open('app.db');
      fill(db);
      assert(pwal.status(db).active);
      db.close();
      require('node:fs').unlinkSync('libpwal.so');
    `);
    assertPlain(host, directory, 1);
  });

  test(`${host}: by the names of an ES module`, { skip: missing(host) }, (t) => {
    const directory = fs.mkdtempSync(path.join(here, 'esm-'));
    t.after(() => fs.rmSync(directory, { recursive: true }));
    const imports = host === 'node:sqlite' ? '{ DatabaseSync as Database }' : 'Database';
    fs.writeFileSync(path.join(directory, 'app.mjs'), `
      import ${imports} from '${host}';
      import { install, path, status } from 'pwal';
      import pwal from 'pwal';
      install(Database);
      const db = new Database('app.db');
      db.exec('PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES(1)');
      console.log(status(db).active, path === pwal.path, path.endsWith('libpwal.so'));
      db.close();
    `);
    const options = { cwd: directory, encoding: 'utf8' };
    const done = spawnSync(process.execPath, ['--disable-warning=ExperimentalWarning', 'app.mjs'], options);
    assert.deepStrictEqual([done.status, done.stdout, done.stderr], [0, 'true true true\n', '']);
  });

  test(`${host}: in TypeScript`, { skip: missing(host) || missing('typescript') }, (t) => {
    const directory = fs.mkdtempSync(path.join(here, 'ts-'));
    t.after(() => fs.rmSync(directory, { recursive: true }));
    const imports = host === 'node:sqlite' ? '{ DatabaseSync as Database }' : 'Database';
    fs.writeFileSync(path.join(directory, 'app.mts'), `
      import ${imports} from '${host}';
      import { install, path, status } from 'pwal';
      const nothing: void = install(Database);
      const db = new Database('app.db');
      db.exec('PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES(1)');
      const active: boolean = status(db).active;
      console.log(active, path.length > 0, nothing);
      db.close();
      // @ts-expect-error: there is no such option.
      export const wrong = () => install(Database, { defaults: false });
    `);
    const words = ['--strict', '--module', 'nodenext', '--target', 'es2022', '--skipLibCheck', '--types', 'node', 'app.mts'];
    const compiled = spawnSync(path.join(here, 'node_modules/.bin/tsc'), words, { cwd: directory, encoding: 'utf8' });
    assert.deepStrictEqual([compiled.status, compiled.stdout], [0, '']);
    const options = { cwd: directory, encoding: 'utf8' };
    const done = spawnSync(process.execPath, ['--disable-warning=ExperimentalWarning', 'app.mjs'], options);
    assert.deepStrictEqual([done.status, done.stdout, done.stderr], [0, 'true true undefined\n', '']);
  });

  test(`${host}: several processes`, { skip: missing(host) }, async (t) => {
    const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'pwal-npm-'));
    t.after(() => fs.rmSync(directory, { recursive: true }));
    run(host, directory, "pwal.install(Database); const db = open('app.db'); fill(db); db.close()");
    const work = `
      pwal.install(Database);
      const db = open('app.db');
      db.exec('PRAGMA busy_timeout=30000; PRAGMA synchronous=FULL');
      for (let n = 0; n < 100; n++) db.exec('INSERT INTO t VALUES(2)');
      assert(pwal.status(db).active);
      db.close();
    `;
    const ends = [0, 1, 2].map(() => new Promise((ended) => {
      const [program, words, options] = command(host, directory, work);
      spawn(program, words, { ...options, stdio: 'inherit' }).on('exit', (...end) => ended(end));
    }));
    assert.deepStrictEqual(await Promise.all(ends), [[0, null], [0, null], [0, null]]);
    assertPlain(host, directory, 301);
  });
}

test('node:sqlite: without default, only who says so', { skip: missing('node:sqlite') }, (t) => {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'pwal-npm-'));
  t.after(() => fs.rmSync(directory, { recursive: true }));
  run('node:sqlite', directory, `
    pwal.install(Database, { default: false });
    const stock = open('stock.db');
    assert.strictEqual(pwal.status(stock).vfs, 'unix');
    stock.close();
    const db = open('file:app.db?vfs=pwal');
    fill(db);
    assert(pwal.status(db).active);
    db.close();
    require('node:fs').unlinkSync('stock.db');
  `);
  assertPlain('node:sqlite', directory, 1);
});

test('better-sqlite3: a name with ?vfs= is a file of that name', { skip: missing('better-sqlite3') }, (t) => {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'pwal-npm-'));
  t.after(() => fs.rmSync(directory, { recursive: true }));
  run('better-sqlite3', directory, "pwal.install(Database, { default: false }); open('file:app.db?vfs=pwal').exec('CREATE TABLE t(x)')");
  assert.deepStrictEqual(fs.readdirSync(directory), ['file:app.db?vfs=pwal']);
});

test('sqlite3: install() is to be waited for', { skip: missing('sqlite3') }, (t) => {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'pwal-npm-'));
  t.after(() => fs.rmSync(directory, { recursive: true }));
  const script = `
    process.chdir(${JSON.stringify(directory)});
    const assert = require('node:assert');
    const { Database } = require('sqlite3');
    const { install } = require('pwal');
    (async () => {
      await assert.rejects(async () => install(Database, { strict: true }), /sqlite3 cannot choose/);
      await install(Database);
      const db = new Database('app.db');
      const call = (name, sql) => new Promise((ended, failed) => db[name](sql, (error, row) => error ? failed(error) : ended(row)));
      await call('exec', 'PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES(1)');
      console.log(Object.values(await call('get', 'PRAGMA parallel_wal_mode'))[0]);
      db.close();
    })();
  `;
  const done = spawnSync(process.execPath, ['-e', script], { cwd: here, encoding: 'utf8' });
  assert.deepStrictEqual([done.status, done.stdout, done.stderr], [0, 'auto\n', '']);
  assert.deepStrictEqual(fs.readdirSync(directory), ['app.db']);
});

const bun = path.join(here, 'node_modules/.bin/bun');
test('bun:sqlite', { skip: fs.existsSync(bun) ? false : 'bun is not there' }, (t) => {
  const directory = fs.mkdtempSync(path.join(here, 'bun-'));
  t.after(() => fs.rmSync(directory, { recursive: true }));
  fs.writeFileSync(path.join(directory, 'app.ts'), `
    import { Database } from 'bun:sqlite';
    import { install, status } from 'pwal';
    install(Database);
    const db = new Database('app.db');
    db.exec('PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES(1)');
    console.log(status(db).active);
    db.close();
  `);
  const done = spawnSync(bun, ['app.ts'], { cwd: directory, encoding: 'utf8' });
  assert.deepStrictEqual([done.status, done.stdout, done.stderr], [0, 'true\n', '']);
  assert.deepStrictEqual(fs.readdirSync(directory).sort(), ['app.db', 'app.ts']);
});

test('what is no host is an error that says what to give', () => {
  const { install } = from('pwal');
  assert.throws(() => install({}), /better-sqlite3's Database/);
  if (!missing('node:sqlite')) {
    const { DatabaseSync } = require('node:sqlite');
    assert.throws(() => install(new DatabaseSync(':memory:')), /allowExtension: true, or give install\(\) the class/);
  }
});
