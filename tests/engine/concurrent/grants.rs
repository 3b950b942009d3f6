//! What comes between a grant of WRITE and its use: the connection is closed, or its statement is interrupted. Then others wait no longer
//! than for the end of the grant. `tests/processes/grants.rs` has what happens to its process.

use super::turns::{ADD, pair_that_lost_after_thinking, pair_with_a_turn, words};
use super::*;
use pwal::internal::shared::{ControlMapping, now_us};

const READ: &str = "SELECT n FROM t WHERE id=10";

/// It ends only when it is interrupted.
const ENDLESS: &str =
    "(SELECT count(*) FROM (WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c))";

struct Granted {
    scene: Scene,
    words: ControlMapping,
    a: Connection,
    /// Has no busy timeout, as the serial one.
    b: Connection,
}

impl Granted {
    fn new(scene: Scene, (a, b): (Connection, Connection)) -> Granted {
        for connection in [&b, &scene.serial] {
            patient(connection, 0);
        }
        Granted { words: words(&scene), scene, a, b }
    }

    fn is_taken(&self) -> bool {
        self.words.control().write().holder().is_some()
    }

    /// Before it expires, and without a wait.
    fn assert_free(&self, what: &str) {
        assert!(!self.is_taken(), "{what}");
        assert_eq!(tried(&self.b, &format!("BEGIN; {ADD}; COMMIT")), 0, "{what}");
        assert_eq!(tried(&self.scene.serial, ADD), 0, "{what}");
    }
}

/// Before the snapshot, for a second: it has lost too often.
fn by_its_turn() -> Granted {
    let scene = scene(ROWS);
    let pair = pair_with_a_turn(&scene, 0);
    Granted::new(scene, pair)
}

/// Before the snapshot, for 50 ms, with the setting `serial`: transactions that begin with this statement write soon.
fn before_an_upgrade() -> Granted {
    let scene = scene(ROWS);
    let [a, b] = [(); 2].map(|()| support::open(&scene.path));
    let granted = Granted::new(scene, (a, b));
    for connection in [&granted.a, &granted.b] {
        run(connection, "PRAGMA synchronous=NORMAL");
    }
    for nth in 0..1000 {
        run(&granted.a, "BEGIN");
        number(&granted.a, READ);
        if granted.is_taken() {
            return granted;
        }
        // Beside others, now and then, and soon after its snapshot, on average.
        if nth % 10 == 0 {
            run(&granted.b, "UPDATE t SET n=n+1 WHERE id=10000");
            assert_eq!(code_of(&granted.a, ADD), SNAPSHOT);
            run(&granted.a, "ROLLBACK");
        } else {
            run(&granted.a, &format!("{ADD}; COMMIT"));
        }
    }
    panic!("this machine is too slow");
}

/// With its first write, for a millisecond: the transaction before has lost after it had thought.
fn with_its_first_write() -> Granted {
    let scene = scene(ROWS);
    let pair = pair_that_lost_after_thinking(&scene);
    run(&pair.0, "BEGIN");
    number(&pair.0, "SELECT n FROM t WHERE id=10000");
    Granted::new(scene, pair)
}

/// How a grant comes about, by name.
type Kind = (&'static str, fn() -> Granted);

const KINDS: [Kind; 3] =
    [("a turn", by_its_turn), ("an upgrade", before_an_upgrade), ("a first write", with_its_first_write)];

#[test]
fn a_grant_ends_with_its_connection() {
    if !support::on_pwal() {
        return;
    }
    for (what, granted) in KINDS {
        let mut granted = granted();
        if what == "a first write" {
            run(&granted.a, ADD);
        }
        assert!(granted.is_taken(), "{what}");
        let a = std::mem::replace(&mut granted.a, support::open(&granted.scene.path));
        support::close(a);
        granted.assert_free(what);
    }
}

/// `sqlite3_interrupt` while it runs.
fn interrupted(connection: &mut Connection, sql: &str) {
    let interrupt = connection.get_interrupt_handle();
    let interrupts = move || {
        interrupt.interrupt();
        false
    };
    connection.progress_handler(1000, Some(interrupts)).unwrap();
    assert_eq!(code_of(connection, sql), ffi::SQLITE_INTERRUPT, "{sql}");
    connection.progress_handler(0, None::<fn() -> bool>).unwrap();
}

/// A write that is interrupted ends its transaction. After a read it stays open, and others wait for its grant, which expires.
#[test]
fn a_grant_ends_with_an_interrupted_statement() {
    if !support::on_pwal() {
        return;
    }
    let writes = format!("UPDATE t SET n=n+{ENDLESS} WHERE id=10");
    for (what, granted) in KINDS {
        let mut granted = granted();
        interrupted(&mut granted.a, &writes);
        assert!(granted.a.is_autocommit(), "{what}");
        granted.assert_free(what);
    }
    for (what, granted) in &KINDS[..2] {
        let mut granted = granted();
        interrupted(&mut granted.a, &format!("SELECT {ENDLESS} FROM t WHERE id=10"));
        assert!(!granted.a.is_autocommit() && granted.is_taken(), "{what}");
        assert!(granted.words.control().grant_until_us() <= now_us() + 1_000_000, "{what}");
        run(&granted.a, "ROLLBACK");
        granted.assert_free(what);
    }
}
