//! `pwal dump`: slot files as text, record by record.

use crate::failure::{Done, Failure};
use crate::read_only::ReadOnlyDirectory;
use crate::text;
use pwal::internal::log::format::FileName;
use pwal::internal::log::scan::dump_slot;
use std::path::{Path, PathBuf};

/// Print every record of a slot file as text
///
/// Slots lie in `<database>-pwal`; their names end in .seg. Creates and locks nothing.
#[derive(clap::Args)]
pub struct Arguments {
    /// The slot files
    #[arg(required = true)]
    slots: Vec<PathBuf>,
}

pub fn run(arguments: &Arguments) -> Done {
    arguments.slots.iter().try_for_each(|slot| dump(slot))
}

fn dump(path: &Path) -> Done {
    let about = std::fs::metadata(path).map_err(|error| Failure::io("find", path, &error))?;
    let name = path.file_name().and_then(|name| name.to_str()).filter(|name| about.is_file() && is_slot(name));
    let Some(name) = name else {
        return Err(Failure::cannot(format!("{} is not a slot file: <log id, 16 hex>-<number>.seg", path.display())));
    };
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Links to the directory are the user's own here.
    let directory = directory.canonicalize().map_err(|error| Failure::io("find", directory, &error))?;
    let records = dump_slot(&ReadOnlyDirectory::new(directory), name).map_err(Failure::log)?;
    text::print(&records);
    Ok(())
}

fn is_slot(name: &str) -> bool {
    matches!(FileName::parse(name), Some(FileName::Slot { .. }))
}
