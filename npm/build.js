'use strict';
// `npm pack ./npm` runs it: the library by cargo, from the workspace around this directory, for this platform.

const { execFileSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');

const workspace = path.dirname(__dirname);
execFileSync('cargo', ['build', '--release', '--locked', '-p', 'pwal-sqlite-ext'], { cwd: workspace, stdio: 'inherit' });
for (const licence of ['LICENSE-APACHE', 'LICENSE-MIT']) {
  fs.copyFileSync(path.join(workspace, licence), path.join(__dirname, licence));
}
const target = path.resolve(workspace, process.env.CARGO_TARGET_DIR ?? 'target');
const place = path.join(__dirname, 'prebuilt', `${process.platform}-${process.arch}`);
fs.mkdirSync(place, { recursive: true });
const copy = path.join(place, 'libpwal.so');
fs.copyFileSync(path.join(target, 'release', 'libpwal.so'), copy);
try {
  // The line tables are four fifths of the file.
  execFileSync('strip', ['--strip-debug', copy], { stdio: 'inherit' });
} catch (error) {
  if (error.code !== 'ENOENT') throw error;
}
