//! Memory that a test shares with its processes: what each thread was told is committed, and what it does now.
//!
//! A store into it survives the SIGKILL of who made it, as a line in a pipe would.

use rustix::mm::{MapFlags, ProtFlags, mmap};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

/// Lines of the board: threads that may work at once.
pub const LINES: usize = 256;

/// Kinds of trouble: bits of [`super::worker::Trouble`].
const TROUBLES: usize = 3;

/// The troubles up to a moment ([`Board::troubles`]), and that moment.
#[derive(Clone, Copy, Debug)]
pub struct Troubles {
    now: u64,
    counts: [u64; TROUBLES],
    at: Instant,
    ran_us: u64,
}

/// How often the clock of a board is looked after, and how much of the time in between counts: what the machine takes beyond that
/// from the test it takes from its processes, too.
pub(super) const TICK: Duration = Duration::from_millis(10);
const TICK_MAX: Duration = Duration::from_millis(100);

/// What stands on the board; mapped for ever.
#[derive(Clone)]
pub struct Board {
    path: PathBuf,
    sheet: &'static Sheet,
}

#[repr(C)]
pub struct Sheet {
    /// All shall end, cleanly.
    pub stop: AtomicU64,
    /// Somebody has failed, and said why on standard error.
    pub failed: AtomicU64,
    /// What may fail now: bits of [`super::worker::Trouble`].
    pub trouble: AtomicU64,
    /// How often each bit was set: a statement may begin before a trouble and end after it.
    pub troubles: [AtomicU64; TROUBLES],
    /// For how long the machine has let the test run, in microseconds.
    ran_us: AtomicU64,
    pub lines: [Line; LINES],
}

/// One working thread of one place; its successors at that place go on with the line.
#[repr(C, align(64))]
pub struct Line {
    /// The last transaction that `COMMIT` acknowledged.
    pub acknowledged: AtomicU64,
    pub reads: AtomicU64,
    /// Read-then-write transactions that came too late: BUSY at once is right there.
    pub stale: AtomicU64,
    /// Statements that gave up after the busy timeout.
    pub busy: AtomicU64,
    /// The longest statement or transaction, in microseconds.
    pub longest_us: AtomicU64,
    /// Since when it is in what it does now, in microseconds of the [board's clock](Board::clock_us); 0: in nothing.
    pub since_us: AtomicU64,
    /// What it does: an index of [`DOING`].
    pub doing: AtomicU64,
    pub pid: AtomicU64,
    /// Not 0 when it has found its place in the database.
    pub ready: AtomicU64,
}

/// What a thread may be in.
pub const DOING: [&str; 9] = [
    "nothing",
    "opening",
    "an autocommit statement",
    "a transaction that writes at once",
    "a transaction that reads first",
    "a transaction that rolls back",
    "reading",
    "a checkpoint",
    "closing",
];

impl Board {
    /// A new board, all zero.
    pub fn create(path: &Path) -> Board {
        let file = File::options().read(true).write(true).create_new(true).open(path).expect("create the board");
        file.set_len(size_of::<Sheet>() as u64).expect("size the board");
        Board::map(path, &file)
    }

    /// The board that the test has created.
    pub fn open(path: &Path) -> Board {
        Board::map(path, &File::options().read(true).write(true).open(path).expect("open the board"))
    }

    fn map(path: &Path, file: &File) -> Board {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice, as long as the file, never unmapped; any bytes are
        // valid atomics, and everybody accesses them as atomics.
        let sheet = unsafe {
            let address = mmap(std::ptr::null_mut(), size_of::<Sheet>(), protection, MapFlags::SHARED, file, 0);
            &*address.expect("map the board").cast::<Sheet>()
        };
        Board { path: path.to_owned(), sheet }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn line(&self, number: usize) -> &'static Line {
        &self.sheet.lines[number]
    }

    /// Tells all to end; they do so after what they are in.
    pub fn stop(&self) {
        self.sheet.stop.store(1, SeqCst);
    }

    pub fn fail(&self) {
        self.sheet.failed.store(1, SeqCst);
    }

    pub fn failed(&self) -> bool {
        self.sheet.failed.load(SeqCst) != 0
    }

    pub fn goes_on(&self) -> bool {
        self.sheet.stop.load(SeqCst) == 0 && !self.failed()
    }

    /// What may fail from now on.
    pub fn set_trouble(&self, bits: u64) {
        for (bit, count) in self.sheet.troubles.iter().enumerate() {
            count.fetch_add(bits >> bit & 1, SeqCst);
        }
        self.sheet.trouble.store(bits, SeqCst);
    }

    pub fn troubles(&self) -> Troubles {
        let now = self.sheet.trouble.load(SeqCst);
        Troubles {
            now,
            counts: std::array::from_fn(|bit| self.sheet.troubles[bit].load(SeqCst)),
            at: Instant::now(),
            ran_us: self.clock_us(),
        }
    }

    /// Whether so much time has passed since that moment, most of which the machine kept the test from running: a virtual machine
    /// that stands still, or many other programs.
    pub fn stood_still(&self, moment: &Troubles, at_least: Duration) -> bool {
        let ran = Duration::from_micros(self.clock_us() - moment.ran_us);
        moment.at.elapsed() >= at_least && ran < at_least / 2
    }

    /// A clock that stands while the machine does, in microseconds; from 1 on.
    pub fn clock_us(&self) -> u64 {
        1 + self.sheet.ran_us.load(SeqCst)
    }

    /// So much time has passed since the last call.
    pub(super) fn tick(&self, passed: Duration) {
        self.sheet.ran_us.fetch_add(passed.min(TICK_MAX).as_micros() as u64, SeqCst);
    }

    /// Runs `work`, noting in the line what it is and how long it takes.
    pub fn during<T>(&self, line: &Line, doing: &str, work: impl FnOnce() -> T) -> T {
        let number = DOING.iter().position(|known| *known == doing).expect("one of what is listed");
        let start = self.clock_us();
        line.doing.store(number as u64, SeqCst);
        line.since_us.store(start, SeqCst);
        let result = work();
        line.longest_us.fetch_max(self.clock_us() - start, SeqCst);
        line.since_us.store(0, SeqCst);
        result
    }

    /// The bits that were set at that moment, or at any time since.
    pub fn trouble_since(&self, moment: &Troubles) -> u64 {
        let after = self.troubles();
        let again = (0..TROUBLES).filter(|bit| after.counts[*bit] != moment.counts[*bit]);
        again.fold(moment.now | after.now, |bits, bit| bits | 1 << bit)
    }

    /// What each of the first lines was acknowledged.
    pub fn acknowledged(&self, lines: usize) -> Vec<u64> {
        self.sheet.lines[..lines].iter().map(|line| line.acknowledged.load(SeqCst)).collect()
    }

    /// The sum of a column over all lines.
    pub fn sum(&self, column: impl Fn(&Line) -> &AtomicU64) -> u64 {
        self.sheet.lines.iter().map(|line| column(line).load(SeqCst)).sum()
    }

    /// The largest of a column.
    pub fn highest(&self, column: impl Fn(&Line) -> &AtomicU64) -> u64 {
        self.sheet.lines.iter().map(|line| column(line).load(SeqCst)).max().unwrap_or(0)
    }

    /// Who of the first lines is in one thing for longer than so many microseconds, in words.
    pub fn hanging(&self, lines: usize, longest_us: u64) -> Vec<String> {
        let now = self.clock_us();
        let hangs = |line: &&Line| {
            let since = line.since_us.load(SeqCst);
            since != 0 && now.saturating_sub(since) > longest_us
        };
        let describe = |line: &Line| {
            let doing = DOING.get(line.doing.load(SeqCst) as usize).unwrap_or(&"something unknown");
            format!("process {}: in {doing} since {} us", line.pid.load(SeqCst), now - line.since_us.load(SeqCst))
        };
        self.sheet.lines[..lines].iter().filter(hangs).map(describe).collect()
    }
}

impl Line {
    /// Who worked here was killed.
    pub fn clear(&self) {
        self.since_us.store(0, SeqCst);
        self.ready.store(0, SeqCst);
    }
}
