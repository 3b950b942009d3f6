"""tcl.py PLACE [file...]: SQLite's TCL tests with stock SQLite and with pwal as the default VFS; see .ci/tcl.

PLACE has source/ (SQLite's), build/testfixture and libpwal.so. The output of each file stays in PLACE/stock and PLACE/pwal."""

import concurrent.futures
import os
import re
import shutil
import subprocess
import sys

place, files = os.path.abspath(sys.argv[1]), sys.argv[2:]
tests = f"{place}/source/test"
AT_MOST = 900  # seconds for a file

# At the head of tester.tcl's wrapper of the command `sqlite3`: the library is loaded, also after sqlite3_shutdown().
LOAD = """
  if {[info exists ::env(TCL_TESTS_ON)] && $::env(TCL_TESTS_ON)=="pwal"} {
    proc pwal_load {} {
      sqlite_orig pwal_loader :memory: -vfs unix
      pwal_loader enable_load_extension 1
      pwal_loader eval {SELECT load_extension('PLACE/libpwal.so')}
      pwal_loader close
    }
    rename sqlite3_initialize initialize_orig
    proc sqlite3_initialize {} { set res [initialize_orig]; pwal_load; set res }
    pwal_load
  }
""".replace("PLACE", place)
# After each open.
SWITCH = """
      if {[info exists ::env(TCL_TESTS_ON)]} { catch {[lindex $args 0] eval {PRAGMA journal_mode=WAL}} }
"""
# In the processes that tests start (lock_common.tcl).
CHILD = """
  if {[info exists ::env(TCL_TESTS_ON)] && $::env(TCL_TESTS_ON)=="pwal"} {
    testfixture $chan {
      sqlite3 pwal_loader :memory: -vfs unix
      pwal_loader enable_load_extension 1
      pwal_loader eval {SELECT load_extension('PLACE/libpwal.so')}
      pwal_loader close
    }
  }
""".replace("PLACE", place)
# The list of the quick tests, from permutations.test.
LIST = """
set testdir TESTS
set f [open $testdir/permutations.test]; set t [read $f]; close $f
set head [string range $t 0 [expr {[string first "# If the TEST_FAILURE environment" $t] - 1}]]
eval [string range $head [string first "proc test_set" $head] end]
puts [join [lsort $allquicktests] \\n]
""".replace("TESTS", tests)


def insert(name, *after):
    """Inserts each text after the line that stands with it, once."""
    path = f"{tests}/{name}"
    text = open(path).read()
    if "TCL_TESTS_ON" in text:
        return
    for line, addition in after:
        assert text.count(line) == 1, f"{name} has another form"
        text = text.replace(line, line + addition[1:])
    open(path, "w").write(text)


def patch():
    opened, started = "      set res [uplevel 1 sqlite_orig $args]\n", "    testfixture $chan \"set ::sqlite_pending_byte $::sqlite_pending_byte\"\n  }\n"
    insert("tester.tcl", ("  rename sqlite3 sqlite_orig\n", LOAD), (opened, SWITCH))
    insert("lock_common.tcl", (started, CHILD))


def run(side, file):
    """The exit code ('timeout'), how many cases passed, and the names of those that failed."""
    name = os.path.basename(file)[: -len(".test")]
    directory, log = f"{place}/{side}/dir/{name}", f"{place}/{side}/{name}.log"
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory)
    with open(log, "w") as out:
        try:
            code = subprocess.run(
                [f"{place}/build/testfixture", os.path.join(tests, file)],
                cwd=directory,
                env=dict(os.environ, TCL_TESTS_ON=side),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                timeout=AT_MOST,
            ).returncode
        except subprocess.TimeoutExpired:
            code = "timeout"
    shutil.rmtree(directory, ignore_errors=True)
    text = open(log, errors="replace").read()
    failed = set(re.findall(r"^! (\S+) expected", text, re.M))
    for line in re.findall(r"!Failures on these tests: (.*)", text):
        failed |= set(line.split())
    ended = "errors out of" in text
    return code if ended else f"no end ({code})", len(re.findall(r"^\S+\.\.\. Ok$", text, re.M)), failed


def both(file):
    name = os.path.basename(file)[: -len(".test")]
    (stock, _, before), (code, passed, failed) = run("stock", file), run("pwal", file)
    new = sorted(failed - before)
    # A file that does not come to its end on pwal, but does on stock, is one case.
    if str(code).startswith("no end") and not str(stock).startswith("no end"):
        new.append(f"{name}:{code}")
    with open(f"{place}/progress.tsv", "a") as progress:
        print(name, stock, code, passed, *new, sep="\t", file=progress)
    return name, passed, new


def explained():
    """File -> reason; a line of the list begins with the names of files."""
    reasons = {}
    for line in open(f"{os.path.dirname(__file__)}/tcl_differences.txt"):
        if line.strip() and not line.startswith("#"):
            names, _, reason = line.partition(":")
            reasons.update({name: reason.strip() for name in names.split()})
    return reasons


patch()
if not files:
    files = subprocess.run(["tclsh8.6"], input=LIST, capture_output=True, text=True, check=True).stdout.split()
known, total, cases, unknown = explained(), 0, 0, 0
with concurrent.futures.ThreadPoolExecutor(int(os.environ.get("TCL_JOBS", "2"))) as pool:
    for name, passed, new in pool.map(both, files):
        total += passed
        if new:
            cases += len(new)
            reason = known.get(name)
            unknown += reason is None
            print(f"{name}: {len(new)} ({reason or 'NOT EXPLAINED'}): {' '.join(new)[:400]}", flush=True)
print(f"{len(files)} files, {total} cases pass on pwal, {cases} fail that pass on stock; {unknown} files not explained")
sys.exit(unknown > 0)
