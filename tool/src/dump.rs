//! `pwal dump`: segment files as text, record by record.

use crate::failure::{Done, Failure};
use crate::read_only::ReadOnlyDirectory;
use crate::text;
use pwal::internal::log::format::FileName;
use pwal::internal::log::scan::dump_segment;
use std::path::{Path, PathBuf};

/// Print every record of a segment file as text
///
/// Segments lie in `<database>-pwal`; their names end in .seg. Creates and locks nothing.
#[derive(clap::Args)]
pub struct Arguments {
    /// The segment files
    #[arg(required = true)]
    segments: Vec<PathBuf>,
}

pub fn run(arguments: &Arguments) -> Done {
    arguments.segments.iter().try_for_each(|segment| dump(segment))
}

fn dump(path: &Path) -> Done {
    let about = std::fs::metadata(path).map_err(|error| Failure::io("find", path, &error))?;
    let name = path.file_name().and_then(|name| name.to_str()).filter(|name| about.is_file() && is_segment(name));
    let Some(name) = name else {
        return Err(Failure::cannot(format!(
            "{} is not a segment file: <log id, 16 hex>-<number>.seg",
            path.display()
        )));
    };
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Links to the directory are the user's own here.
    let directory = directory.canonicalize().map_err(|error| Failure::io("find", directory, &error))?;
    let records = dump_segment(&ReadOnlyDirectory::new(directory), name).map_err(Failure::log)?;
    text::print(&records);
    Ok(())
}

fn is_segment(name: &str) -> bool {
    matches!(FileName::parse(name), Some(FileName::Segment { .. }))
}
