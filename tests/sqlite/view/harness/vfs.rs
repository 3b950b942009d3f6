//! The VFS: what SQLite calls, and the databases that it opens by it.

use super::{Connected, State, World};
use libsqlite3_sys as ffi;
use pwal::internal::view::View;
use rusqlite::{Connection, OpenFlags};
use std::collections::HashMap;
use std::ffi::{CStr, c_int};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, Once};
use support::test_vfs::{self, Below, Call, Hook, OpenFile, Shape};

static WORLDS: LazyLock<Mutex<HashMap<String, Arc<Mutex<World>>>>> = LazyLock::new(Mutex::default);
static CONNECTIONS: AtomicU64 = AtomicU64::new(1);
static REGISTER: Once = Once::new();
const VFS_NAME: &CStr = c"view-under-sqlite";

/// What an open file of ours stands for.
enum Open {
    Main(Arc<Connected>),
    Wal(Arc<Connected>),
}

impl Open {
    fn connected(&self) -> &Arc<Connected> {
        let (Open::Main(connected) | Open::Wal(connected)) = self;
        connected.entered();
        connected
    }
}

/// The VFS. What is not a database of ours, or its WAL, is the VFS's below.
struct Views;

impl Hook for Views {
    fn call(&self, call: &Call, file: Option<&OpenFile>, below: &Below) -> c_int {
        match (call, file) {
            // No journal and no WAL lies beside a database of ours.
            (Call::Access { .. }, _) => {
                call.answer(0);
                ffi::SQLITE_OK
            }
            (Call::Sleep { microseconds, .. }, _) => *microseconds,
            (Call::Open { .. }, Some(file)) => open(call, file, below),
            (_, Some(file)) => match file.kept::<Open>() {
                Some(open) => answer(open, call),
                None => below.pass(call),
            },
            (_, None) => below.pass(call),
        }
    }
}

fn open(call: &Call, file: &OpenFile, below: &Below) -> c_int {
    let open = if file.flags & ffi::SQLITE_OPEN_MAIN_DB != 0 {
        let name = call.path().and_then(Path::to_str).unwrap();
        let Some(world) = WORLDS.lock().unwrap().get(name).cloned() else { return ffi::SQLITE_CANTOPEN };
        let (page_bytes, lane_bytes) = {
            let world = world.lock().unwrap();
            (world.page_bytes as u32, world.lane_bytes)
        };
        let state = State {
            view: View::new(page_bytes, lane_bytes),
            snapshot: None,
            again: false,
            writing: false,
            prepared: None,
            checkpointing: false,
            held_back: false,
            mapped: Vec::new(),
        };
        let id = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
        Open::Main(Arc::new(Connected { id, world, state: Mutex::new(state) }))
    } else if file.flags & ffi::SQLITE_OPEN_WAL != 0 {
        // SAFETY: inside `xOpen` of a WAL name, which is what this function asks for; that file is open, and of this VFS.
        let main = unsafe { OpenFile::at(ffi::sqlite3_database_file_object(call.name())) };
        Open::Wal(Arc::clone(main.kept::<Open>().expect("a main file").connected()))
    } else {
        return below.pass(call);
    };
    call.answer(file.flags.into());
    file.keep(open);
    ffi::SQLITE_OK
}

fn answer(open: &Open, call: &Call) -> c_int {
    match call {
        Call::Close { .. } => _ = open.connected(),
        Call::Read { .. } => return read(open, call),
        Call::Write { offset, .. } => match open {
            Open::Wal(_) => return open.connected().write_wal(call.data(), *offset as u64),
            Open::Main(connected) => {
                connected.world.lock().unwrap().trouble.push("a write to the database file".into());
                return ffi::SQLITE_IOERR_WRITE;
            }
        },
        Call::Truncate { .. } => {
            if let Open::Main(connected) = open {
                connected.world.lock().unwrap().trouble.push("a truncation of the database file".into());
            }
        }
        Call::FileSize { .. } => {
            let connected = open.connected();
            let bytes = match open {
                Open::Main(_) => connected.world.lock().unwrap().file.len() as u64,
                Open::Wal(_) => connected.state.lock().unwrap().view.wal_bytes(),
            };
            call.answer(bytes as i64);
        }
        // At close SQLite asks for EXCLUSIVE to checkpoint and delete the WAL.
        Call::Lock { level, .. } if *level > ffi::SQLITE_LOCK_SHARED => return ffi::SQLITE_BUSY,
        Call::CheckReservedLock { .. } => call.answer(0),
        Call::FileControl { operation, .. } => {
            let connected = open.connected();
            if *operation != ffi::SQLITE_FCNTL_COMMIT_PHASETWO {
                return ffi::SQLITE_NOTFOUND;
            }
            let code = connected.phase_two();
            if code != ffi::SQLITE_OK {
                connected.fail_siblings();
            }
            return code;
        }
        Call::SectorSize { .. } => return 4096,
        Call::DeviceCharacteristics { .. } => return ffi::SQLITE_IOCAP_POWERSAFE_OVERWRITE,
        Call::ShmMap { region, extend, .. } => {
            let connected = open.connected();
            let world = connected.world.lock().unwrap();
            let mut state = connected.state.lock().unwrap();
            if state.view.sequence().is_none() {
                Connected::refresh(&world, &mut state);
            }
            let region = state.view.region(*region as u32, *extend != 0);
            let address = region.as_ref().map_or(std::ptr::null_mut(), |region| Arc::as_ptr(region).cast_mut().cast());
            state.mapped.extend(region);
            call.answer_address(address);
        }
        Call::ShmLock { offset, count, flags, .. } => {
            let connected = open.connected();
            if flags & ffi::SQLITE_SHM_UNLOCK == 0 {
                return connected.lock(*offset, *count, flags & ffi::SQLITE_SHM_EXCLUSIVE != 0);
            }
            connected.unlock(*offset);
        }
        _ => {}
    }
    ffi::SQLITE_OK
}

fn read(open: &Open, call: &Call) -> c_int {
    let code = call.read(|buffer, offset| match open {
        Open::Wal(_) => match open.connected().read_wal(buffer, offset) {
            ffi::SQLITE_OK => Ok(buffer.len()),
            code => Err(code),
        },
        Open::Main(_) => {
            let world = open.connected().world.lock().unwrap();
            let rest = world.file.get(offset as usize..).unwrap_or_default();
            let count = rest.len().min(buffer.len());
            buffer[..count].copy_from_slice(&rest[..count]);
            Ok(count)
        }
    });
    code.unwrap_or_else(|code| code)
}

fn register() {
    REGISTER.call_once(|| {
        test_vfs::register(VFS_NAME.to_str().unwrap(), support::STOCK, Shape { version: 2, shm: true }, Views);
    });
}

/// A database of its own; stock SQLite has made its first bytes, in WAL mode, with `schema`.
pub struct Database {
    name: String,
    world: Arc<Mutex<World>>,
}

impl Database {
    pub fn new(page_bytes: usize, lane_bytes: usize, schema: &str) -> Database {
        register();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("seed.db");
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch(&format!("PRAGMA page_size={page_bytes}; PRAGMA journal_mode=WAL; {schema}")).unwrap();
        connection.close().unwrap();
        let file = std::fs::read(&path).unwrap();
        let pages = (file.len() / page_bytes) as u32;
        let world = World {
            file,
            page_bytes,
            lane_bytes,
            frames: Vec::new(),
            commits: vec![(0, pages)],
            backfilled: 0,
            writer: None,
            snapshots: HashMap::new(),
            fail_prepare: None,
            fail_publish: None,
            trouble: Vec::new(),
            spilled: 0,
            headers_moved: 0,
        };
        let world = Arc::new(Mutex::new(world));
        let name = format!("/view-under-sqlite-{}.db", CONNECTIONS.fetch_add(1, Ordering::Relaxed));
        WORLDS.lock().unwrap().insert(name.clone(), Arc::clone(&world));
        Database { name, world }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn connect(&self) -> Connection {
        let connection =
            Connection::open_with_flags_and_vfs(&self.name, OpenFlags::SQLITE_OPEN_READ_WRITE, VFS_NAME).unwrap();
        connection.busy_timeout(std::time::Duration::ZERO).unwrap();
        connection
    }

    pub fn world<T>(&self, look: impl FnOnce(&mut World) -> T) -> T {
        look(&mut self.world.lock().unwrap())
    }

    pub fn no_trouble(&self) {
        self.world(|world| assert_eq!(world.trouble, Vec::<String>::new()));
    }

    /// Commits so far.
    pub fn commits(&self) -> usize {
        self.world(|world| world.commits.len() - 1)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        WORLDS.lock().unwrap().remove(&self.name);
    }
}
