//! The calls that a recorded process made, in the one order in which they were performed, as a file.
//!
//! Nodes (files and directories) are named by their inode. Each record is one line, with the bytes of a write behind it.

use std::fmt;
use std::fs;
use std::path::Path;

/// One call that was performed, or a mark that the script set between calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    Mark(String),
    /// Something that was there was opened.
    Open {
        node: u64,
        flags: i32,
        name: String,
    },
    Create {
        directory: u64,
        node: u64,
        name: String,
    },
    MakeDirectory {
        directory: u64,
        node: u64,
        name: String,
    },
    Link {
        directory: u64,
        node: u64,
        name: String,
    },
    /// The name of a file, or of an empty directory, was removed.
    Remove {
        directory: u64,
        name: String,
    },
    Rename {
        directory: u64,
        name: String,
        new_directory: u64,
        new_name: String,
    },
    Write {
        node: u64,
        offset: u64,
        bytes: Vec<u8>,
    },
    Resize {
        node: u64,
        bytes: u64,
    },
    /// `failed`: the process was told that it did not work.
    Sync {
        node: u64,
        failed: bool,
    },
}

impl Call {
    /// The record of this call by the process `pid`.
    pub fn encode(&self, pid: u32) -> Vec<u8> {
        let line = match self {
            Call::Mark(text) => format!("mark\t{text}"),
            Call::Open { node, flags, name } => format!("open\t{node}\t{flags}\t{name}"),
            Call::Create { directory, node, name } => format!("create\t{directory}\t{node}\t{name}"),
            Call::MakeDirectory { directory, node, name } => format!("mkdir\t{directory}\t{node}\t{name}"),
            Call::Link { directory, node, name } => format!("link\t{directory}\t{node}\t{name}"),
            Call::Remove { directory, name } => format!("remove\t{directory}\t{name}"),
            Call::Rename { directory, name, new_directory, new_name } => {
                format!("rename\t{directory}\t{new_directory}\t{name}\t{new_name}")
            }
            Call::Write { node, offset, bytes } => format!("write\t{node}\t{offset}\t{}", bytes.len()),
            Call::Resize { node, bytes } => format!("resize\t{node}\t{bytes}"),
            Call::Sync { node, failed } => format!("sync\t{node}\t{}", u8::from(*failed)),
        };
        let mut record = format!("{pid}\t{line}\n").into_bytes();
        if let Call::Write { bytes, .. } = self {
            record.extend_from_slice(bytes);
        }
        record
    }
}

/// All calls of a file of records, with the process of each.
pub fn read(path: &Path) -> Vec<(u32, Call)> {
    let text = fs::read(path).expect("read the records");
    let (mut rest, mut calls) = (text.as_slice(), Vec::new());
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == b'\n').expect("a whole record");
        let line = std::str::from_utf8(&rest[..end]).expect("a record is text");
        rest = &rest[end + 1..];
        let fields: Vec<&str> = line.split('\t').collect();
        let number = |at: usize| fields[at].parse::<u64>().unwrap_or_else(|_| panic!("field {at} of {line}"));
        let name = |at: usize| fields[at].to_owned();
        let call = match fields[1] {
            "mark" => Call::Mark(name(2)),
            "open" => Call::Open { node: number(2), flags: fields[3].parse().expect("flags"), name: name(4) },
            "create" => Call::Create { directory: number(2), node: number(3), name: name(4) },
            "mkdir" => Call::MakeDirectory { directory: number(2), node: number(3), name: name(4) },
            "link" => Call::Link { directory: number(2), node: number(3), name: name(4) },
            "remove" => Call::Remove { directory: number(2), name: name(3) },
            "rename" => {
                Call::Rename { directory: number(2), new_directory: number(3), name: name(4), new_name: name(5) }
            }
            "write" => {
                let (bytes, behind) = rest.split_at(usize::try_from(number(4)).expect("a length"));
                rest = behind;
                Call::Write { node: number(2), offset: number(3), bytes: bytes.to_vec() }
            }
            "resize" => Call::Resize { node: number(2), bytes: number(3) },
            "sync" => Call::Sync { node: number(2), failed: number(3) == 1 },
            other => panic!("a record of kind {other}"),
        };
        calls.push((u32::try_from(number(0)).expect("a pid"), call));
    }
    calls
}

impl fmt::Display for Call {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = self.encode(0);
        let line = record.split(|byte| *byte == b'\n').next().unwrap_or_default();
        write!(to, "{}", String::from_utf8_lossy(&line[2..]).replace('\t', " "))?;
        if let Call::Write { bytes, .. } = self {
            let start: String = bytes.iter().take(8).map(|byte| char::from(*byte)).collect();
            write!(to, " {start:?}")?;
        }
        Ok(())
    }
}
