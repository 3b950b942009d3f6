//! Several processes: several attachments in this process where that is enough, children where somebody dies.

mod deaths;
mod turns;

use super::*;
use crate::os::usage;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use support::child::{Role, command, report, role, setting};

const CHILD: &str = "engine::queue::tests::processes::plays_its_role_in_a_child_process";
/// A word of the control file that is nobody's: who is inside, and how often somebody was.
const INSIDE: usize = 6;
const COUNT: usize = 7;

/// What a child does.
fn start(part: &str, directory: &Directory, settings: &[(&str, u64)]) -> Role {
    let mut all = vec![
        ("PWAL_QUEUE_PART", String::from(part)),
        ("PWAL_QUEUE_DIRECTORY", directory.0.path().to_str().unwrap().to_owned()),
    ];
    all.extend(settings.iter().map(|(name, value)| (*name, value.to_string())));
    support::child::start(CHILD, &all)
}

/// As an application does with a busy handler of its own.
fn poll(queue: &WriteQueue, connection: ConnectionId, pause: Duration) {
    let begin = Instant::now();
    loop {
        queue.line_up(connection);
        if queue.try_acquire(connection) {
            return;
        }
        assert!(begin.elapsed() < LONG, "BUSY again and again");
        std::thread::sleep(pause);
    }
}

fn number(name: &str) -> u64 {
    setting(name).parse().unwrap()
}

#[test]
fn plays_its_role_in_a_child_process() {
    if !role(CHILD) {
        return;
    }
    let member = join(Path::new(&setting("PWAL_QUEUE_DIRECTORY")));
    let mut queue = WriteQueue::new(Arc::clone(&member));
    match setting("PWAL_QUEUE_PART").as_str() {
        "writes" => {
            let load = Load {
                threads: number("PWAL_QUEUE_THREADS"),
                keep_lease: number("PWAL_QUEUE_KEEP") != 0,
                work_us: number("PWAL_QUEUE_WORK"),
                think_us: number("PWAL_QUEUE_THINK"),
                for_us: number("PWAL_QUEUE_FOR"),
                slice_us: number("PWAL_QUEUE_SLICE"),
                patient: number("PWAL_QUEUE_PATIENT") != 0,
                polls_us: number("PWAL_QUEUE_POLLS"),
            };
            if load.patient {
                queue.times = PATIENT;
            }
            report("ready");
            command();
            report(&load.run(&member, &queue).to_line());
        }
        "owns" => {
            write(&queue, 1, LONG);
            report("inside");
            command();
            queue.release(1, false);
        }
        "keeps" => {
            write(&queue, 1, LONG);
            queue.release(1, true);
            report("kept");
            command();
        }
        "waits" => {
            assert!(!queue.try_acquire(1));
            report("refused");
            let granted = queue.wait(1, LONG);
            report(if granted { "granted" } else { "not granted" });
            command();
            assert!(queue.try_acquire(1));
            report("inside");
            command();
        }
        "sleeps" => {
            assert!(!queue.try_acquire(1));
            let before = usage();
            assert!(!queue.wait(1, Duration::from_millis(500)));
            let after = usage();
            report(&format!("{} {}", after.0 - before.0, after.1 - before.1));
        }
        part => panic!("{part}"),
    }
}

/// Writers that take WRITE again and again.
#[derive(Clone, Copy)]
struct Load {
    threads: u64,
    keep_lease: bool,
    /// Inside.
    work_us: u64,
    /// Outside, as long as a flush.
    think_us: u64,
    for_us: u64,
    /// What the busy handler asks for at once.
    slice_us: u64,
    /// Nobody looks by itself, so that a wake or a grant that is lost is found out.
    patient: bool,
    /// It does not wait in the queue but sleeps so long and tries again. 0: it waits.
    polls_us: u64,
}

/// Only news helps.
const PATIENT: Times = Times { grant: 5_000_000, look: 5_000_000, ..TIMES };

/// What a process of that load did.
#[derive(Clone, Copy, Debug, Default)]
struct Done {
    writes: u64,
    /// The slowest of its threads.
    fewest: u64,
    /// The longest that one waited.
    longest_us: u64,
    cpu_us: u64,
    /// Times that a thread gave its processor away.
    sleeps: u64,
}

impl Load {
    fn start(&self, directory: &Directory) -> Role {
        let settings = [
            ("PWAL_QUEUE_THREADS", self.threads),
            ("PWAL_QUEUE_KEEP", u64::from(self.keep_lease)),
            ("PWAL_QUEUE_WORK", self.work_us),
            ("PWAL_QUEUE_THINK", self.think_us),
            ("PWAL_QUEUE_FOR", self.for_us),
            ("PWAL_QUEUE_SLICE", self.slice_us),
            ("PWAL_QUEUE_PATIENT", u64::from(self.patient)),
            ("PWAL_QUEUE_POLLS", self.polls_us),
        ];
        start("writes", directory, &settings)
    }

    fn run(&self, member: &Member, queue: &WriteQueue) -> Done {
        let before = usage();
        let control = member.control();
        let me = u64::from(member.me().slot) << 32;
        let (fewest, longest_us, writes) = (AtomicU64::new(u64::MAX), AtomicU64::new(0), AtomicU64::new(0));
        let end = now_us() + self.for_us;
        std::thread::scope(|threads| {
            for connection in 1..=self.threads {
                let (fewest, longest_us, writes) = (&fewest, &longest_us, &writes);
                threads.spawn(move || {
                    let mut mine = 0;
                    loop {
                        let begin = now_us();
                        if begin >= end {
                            break;
                        }
                        match self.polls_us {
                            0 => {
                                write(queue, connection, Duration::from_micros(self.slice_us));
                            }
                            polls_us => poll(queue, connection, Duration::from_micros(polls_us)),
                        }
                        let inside = now_us();
                        longest_us.fetch_max(inside - begin, SeqCst);
                        control.set_setting(INSIDE, me + connection);
                        // A load and a store: two that are inside at once lose one.
                        let count = control.setting(COUNT);
                        spin(self.work_us);
                        control.set_setting(COUNT, count + 1);
                        assert_eq!(control.setting(INSIDE), me + connection, "two are inside");
                        mine += 1;
                        queue.release(connection, self.keep_lease);
                        if self.think_us > 0 {
                            std::thread::sleep(Duration::from_micros(self.think_us));
                        }
                    }
                    queue.forget(connection);
                    fewest.fetch_min(mine, SeqCst);
                    writes.fetch_add(mine, SeqCst);
                });
            }
        });
        let after = usage();
        Done {
            writes: writes.into_inner(),
            fewest: fewest.into_inner(),
            longest_us: longest_us.into_inner(),
            cpu_us: after.0 - before.0,
            sleeps: after.1 - before.1,
        }
    }
}

impl Done {
    fn to_line(self) -> String {
        format!("{} {} {} {} {}", self.writes, self.fewest, self.longest_us, self.cpu_us, self.sleeps)
    }

    fn from_line(line: &str) -> Done {
        let mut numbers = line.split(' ').map(|number| number.parse().unwrap());
        let mut next = || numbers.next().unwrap();
        Done { writes: next(), fewest: next(), longest_us: next(), cpu_us: next(), sleeps: next() }
    }
}

fn spin(us: u64) {
    let end = now_us() + us;
    while now_us() < end {
        std::hint::spin_loop();
    }
}
