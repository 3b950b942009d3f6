//! Looks at everything beside a database, for `inspect` and `verify`.

use crate::database::DatabaseFile;
use crate::failure::Failure;
use crate::owner;
use crate::read_only::ReadOnlyDirectory;
use pwal::internal::log::decide::{Action, Refusal};
use pwal::internal::log::scan::{self, Survey};

/// Looks at a log that is written meanwhile, before its answer is doubted.
const LOOKS: usize = 5;

/// A survey, and whether a process owned the log meanwhile.
pub struct Seen {
    pub database: DatabaseFile,
    pub survey: Survey,
    pub owned: bool,
}

impl Seen {
    /// Looks at the database file at `path`. While the log is written, segments are recycled during the survey: what
    /// seems broken is looked at again.
    pub fn look(path: &std::path::Path) -> Result<Seen, Failure> {
        let mut looks = LOOKS;
        loop {
            looks -= 1;
            let database = DatabaseFile::look(path)?;
            let directory = ReadOnlyDirectory::new(database.log_directory());
            let owned = is_owned(&database)?;
            let survey = scan::survey(&directory, &database.header);
            let owned = owned || is_owned(&database)?;
            match survey {
                Ok(survey) if looks == 0 || !owned || scan::is_sound(&survey) => {
                    return Ok(Seen { database, survey, owned });
                }
                Err(error) if looks == 0 || !owned => return Err(Failure::log(error)),
                _ => {}
            }
        }
    }
}

fn is_owned(database: &DatabaseFile) -> Result<bool, Failure> {
    owner::is_owned(database).map_err(|error| Failure::io("look at the lock in", &database.log_directory(), &error))
}

/// What the next open through pwal does, as a sentence.
pub fn describe(action: Action) -> String {
    match action {
        Action::Open => "opens the file as it is".to_owned(),
        Action::RecoverStock => "lets stock SQLite play back its journal or -wal file first".to_owned(),
        Action::DeleteAll => "deletes what is left of logs that nothing needs".to_owned(),
        Action::DeleteOwn(id) => format!("deletes log {id:016x}, which holds no commit"),
        Action::SetAside(id) => {
            format!("moves log {id:016x} away: its first commit was written, and is not whole any more")
        }
        Action::Orphan(id) => format!("moves log {id:016x} away: it belongs to another database file"),
        Action::Recover(id) => format!("recovers log {id:016x}"),
        Action::Refuse(refusal) => format!("refuses: {}", describe_refusal(refusal)),
    }
}

/// Why the next open refuses.
pub fn describe_refusal(refusal: Refusal) -> String {
    match refusal {
        Refusal::ReadOnly => "a log must be recovered, and nothing may be written".to_owned(),
        Refusal::StockLeftovers => "a journal or -wal file of stock SQLite lies beside the log".to_owned(),
        Refusal::BareCopy(id) => {
            format!(
                "the database file needs log {id:016x}, which is not there: put its directory back, or `pwal recover --discard-log`"
            )
        }
        Refusal::PageSize(id) => format!("the pages of log {id:016x} are not of the size in the database header"),
        Refusal::OldCopy(id) => format!("the database file is older than its log {id:016x}"),
        Refusal::Unreadable(id) => {
            format!("a part of log {id:016x} cannot be read, where a commit may be or a certificate that speaks of it")
        }
        Refusal::Damaged(id) => format!("log {id:016x} is damaged"),
        Refusal::MarkerMismatch(id) => format!("log {id:016x} was retired at another commit than it ends at"),
        Refusal::OlderStamp(log_id) => format!("log {log_id:016x} was written by an older pwal (format version 1)"),
        Refusal::NoHeader(log_id) => {
            format!("the file does not begin as a database; the next open looks whether log {log_id:016x} is its own")
        }
        Refusal::UnknownHeader => "the header of the database file is neither SQLite's nor that of a log".to_owned(),
    }
}
