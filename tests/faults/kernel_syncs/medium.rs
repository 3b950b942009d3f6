//! What a disk holds behind recorded calls, and what a power cut may leave of it.
//!
//! Each node (file or directory) has what is durable, and the changes behind it that are not: a sync of the node makes all of
//! them durable, but those that a failed sync has covered (nobody knows about them any more). A power cut leaves any of the
//! others, in their order: a write also in part, by sectors; a name in a directory by itself. The name of a file is not
//! durable with the file. Shared memory (`control`, `-shm`) and `lock` have no bytes here: nobody reads them after a restart.

use super::trace::Call;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What no disk tears.
const SECTOR_BYTES: usize = 512;

/// The number of a node: never given twice, as inodes are.
pub type Node = usize;

/// One change of a node.
#[derive(Clone, Debug)]
pub enum Change {
    Write { offset: usize, bytes: Arc<[u8]> },
    Resize(usize),
    Enter { name: String, node: Node },
    Leave { name: String },
    Move { name: String, new_name: String },
}

/// A change that a power cut may take.
#[derive(Clone, Debug)]
pub struct Pending {
    /// The number of the call that made it.
    pub at: usize,
    pub change: Change,
    /// A sync that covered it has failed: no later one makes it durable.
    doubtful: bool,
    durable: bool,
}

#[derive(Clone, Debug)]
enum Content {
    File(Vec<u8>),
    Directory(BTreeMap<String, Node>),
}

#[derive(Clone, Debug)]
struct State {
    durable: Content,
    pending: Vec<Pending>,
}

/// What is left of one change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    All,
    Nothing,
    /// Of a write each sector whose number has its bit set, modulo 64.
    Sectors(u64),
    /// Of a write to the first sector of the database file, which some disks lose when they rewrite it: these bytes, again and
    /// again, and the rest of the write.
    LostSector(u64),
}

/// A directory with all that is in it; `None`: a directory.
pub type Tree = BTreeMap<PathBuf, Option<Vec<u8>>>;

#[derive(Clone, Debug)]
pub struct Medium {
    nodes: Vec<State>,
    by_inode: HashMap<u64, Node>,
    shared_memory: BTreeSet<Node>,
    calls: usize,
    changes: usize,
}

/// The root of each medium.
pub const ROOT: Node = 0;

impl Medium {
    /// What lies in a directory, all of it durable.
    pub fn of(root: &Path) -> Medium {
        let mut medium = Medium {
            nodes: Vec::new(),
            by_inode: HashMap::new(),
            shared_memory: BTreeSet::new(),
            calls: 0,
            changes: 0,
        };
        medium.take_over(root);
        medium
    }

    fn take_over(&mut self, path: &Path) -> Node {
        let metadata = fs::symlink_metadata(path).expect("look at a file");
        let node = self.add(metadata.ino(), Content::Directory(BTreeMap::new()));
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let content = if is_shared_memory(&name) {
            self.shared_memory.insert(node);
            Content::File(Vec::new())
        } else if metadata.is_dir() {
            let names = fs::read_dir(path).expect("list a directory").map(|entry| entry.expect("an entry").file_name());
            let names = names.map(|name| name.into_string().expect("a name")).collect::<Vec<_>>();
            Content::Directory(names.into_iter().map(|name| (name.clone(), self.take_over(&path.join(name)))).collect())
        } else {
            Content::File(fs::read(path).expect("read a file"))
        };
        self.nodes[node].durable = content;
        node
    }

    fn add(&mut self, inode: u64, durable: Content) -> Node {
        self.nodes.push(State { durable, pending: Vec::new() });
        self.by_inode.insert(inode, self.nodes.len() - 1);
        self.nodes.len() - 1
    }

    /// The node that has this inode now.
    pub fn node(&self, inode: u64) -> Node {
        *self.by_inode.get(&inode).unwrap_or_else(|| panic!("nobody has made inode {inode}"))
    }

    pub fn is_of_shared_memory(&self, call: &Call) -> bool {
        matches!(call, Call::Write { node, .. } | Call::Resize { node, .. } if self.shared_memory.contains(&self.node(*node)))
    }

    /// The number of the last call that changed something.
    pub fn changes(&self) -> usize {
        self.changes
    }

    /// Makes the next call.
    pub fn apply(&mut self, call: &Call) {
        let at = self.calls;
        self.calls += 1;
        let (inode, change) = match call {
            Call::Mark(text) => {
                if text.starts_with("life ") {
                    self.settle_doubt();
                }
                return;
            }
            Call::Open { .. } => return,
            Call::Create { directory, node, name } => {
                let node = self.add(*node, Content::File(Vec::new()));
                if is_shared_memory(name) {
                    self.shared_memory.insert(node);
                }
                (directory, Change::Enter { name: name.clone(), node })
            }
            Call::MakeDirectory { directory, node, name } => {
                let node = self.add(*node, Content::Directory(BTreeMap::new()));
                (directory, Change::Enter { name: name.clone(), node })
            }
            Call::Link { directory, node, name } => {
                (directory, Change::Enter { name: name.clone(), node: self.node(*node) })
            }
            Call::Remove { directory, name } => (directory, Change::Leave { name: name.clone() }),
            Call::Rename { directory, name, new_directory, new_name } => {
                assert_eq!(directory, new_directory, "{call}: into another directory");
                (directory, Change::Move { name: name.clone(), new_name: new_name.clone() })
            }
            Call::Write { node, offset, bytes } => {
                let offset = usize::try_from(*offset).expect("an offset");
                (node, Change::Write { offset, bytes: bytes.as_slice().into() })
            }
            Call::Resize { node, bytes } => (node, Change::Resize(usize::try_from(*bytes).expect("a size"))),
            Call::Sync { node, failed } => return self.sync(self.node(*node), *failed),
        };
        let node = self.node(*inode);
        if self.shared_memory.contains(&node) {
            return;
        }
        self.changes = at;
        self.nodes[node].pending.push(Pending { at, change, doubtful: false, durable: false });
    }

    /// Who begins a life reads what the medium has: the writes of a failed sync, as they were recorded. They are not durable yet.
    fn settle_doubt(&mut self) {
        for pending in self.nodes.iter_mut().flat_map(|state| &mut state.pending) {
            pending.doubtful = false;
        }
    }

    fn sync(&mut self, node: Node, failed: bool) {
        let state = &mut self.nodes[node];
        for pending in &mut state.pending {
            pending.doubtful |= failed && !pending.durable;
            pending.durable |= !pending.doubtful;
        }
        let first_left = state.pending.iter().position(|pending| !pending.durable).unwrap_or(state.pending.len());
        for pending in state.pending.drain(..first_left) {
            change(&mut state.durable, &pending.change, Left::All);
        }
    }

    /// What a power cut may take, in the order of the calls: of all that may have a name behind it.
    pub fn pending(&self) -> Vec<&Pending> {
        let (mut reached, mut next) = (BTreeSet::from([ROOT]), vec![ROOT]);
        while let Some(node) = next.pop() {
            let state = &self.nodes[node];
            let durable = match &state.durable {
                Content::Directory(names) => names.values().copied().collect(),
                Content::File(_) => Vec::new(),
            };
            let entered = state.pending.iter().filter_map(|pending| match pending.change {
                Change::Enter { node, .. } => Some(node),
                _ => None,
            });
            next.extend(durable.into_iter().chain(entered).filter(|node| reached.insert(*node)));
        }
        let mut pending: Vec<&Pending> = reached.into_iter().flat_map(|node| self.pending_of(node)).collect();
        pending.sort_by_key(|pending| pending.at);
        pending
    }

    /// What a power cut may take of this node.
    pub fn pending_of(&self, node: Node) -> impl Iterator<Item = &Pending> {
        self.nodes[node].pending.iter().filter(|pending| !pending.durable)
    }

    /// A node with the changes that are left of it.
    fn content(&self, node: Node, left: &dyn Fn(usize) -> Left) -> Content {
        let state = &self.nodes[node];
        let mut content = state.durable.clone();
        for pending in &state.pending {
            change(&mut content, &pending.change, if pending.durable { Left::All } else { left(pending.at) });
        }
        content
    }

    /// The names in a directory.
    pub fn names(&self, directory: Node) -> BTreeMap<String, Node> {
        match self.content(directory, &|_| Left::All) {
            Content::Directory(names) => names,
            Content::File(_) => BTreeMap::new(),
        }
    }

    /// The bytes of a file; `durable`: of what survives for certain.
    pub fn bytes(&self, file: Node, durable: bool) -> Vec<u8> {
        self.bytes_left(file, &|_| if durable { Left::Nothing } else { Left::All })
    }

    /// The bytes of a file, where so much is left of each change that is not durable.
    pub fn bytes_left(&self, file: Node, left: &dyn Fn(usize) -> Left) -> Vec<u8> {
        match self.content(file, left) {
            Content::File(bytes) => bytes,
            Content::Directory(_) => Vec::new(),
        }
    }

    /// The directory with all that is in it, where so much is left of each change that is not durable.
    pub fn tree(&self, left: &dyn Fn(usize) -> Left) -> Tree {
        let mut tree = Tree::new();
        self.grow(ROOT, Path::new(""), left, &mut tree, &mut BTreeSet::new());
        tree
    }

    fn grow(&self, node: Node, path: &Path, left: &dyn Fn(usize) -> Left, tree: &mut Tree, seen: &mut BTreeSet<Node>) {
        match self.content(node, left) {
            Content::File(bytes) => {
                tree.insert(path.to_owned(), Some(bytes));
            }
            Content::Directory(names) => {
                // A rename that was lost in part leaves no directory in two places.
                if !seen.insert(node) {
                    return;
                }
                tree.insert(path.to_owned(), None);
                for (name, node) in names {
                    self.grow(node, &path.join(name), left, tree, seen);
                }
            }
        }
    }
}

pub fn is_shared_memory(name: &str) -> bool {
    name == "control" || name == "lock" || name.ends_with("-shm")
}

fn change(content: &mut Content, change: &Change, left: Left) {
    if left == Left::Nothing {
        return;
    }
    match (content, change) {
        (Content::File(file), Change::Write { offset, bytes }) => {
            let end = offset + bytes.len();
            if file.len() < end {
                file.resize(end, 0);
            }
            let mut at = *offset;
            while at < end {
                let stop = ((at / SECTOR_BYTES + 1) * SECTOR_BYTES).min(end);
                if let Left::LostSector(bytes) = left
                    && at < SECTOR_BYTES
                {
                    file[..SECTOR_BYTES].chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&bytes.to_le_bytes()));
                    at = stop;
                    continue;
                }
                let is_left = match left {
                    Left::Sectors(mask) => mask >> (at / SECTOR_BYTES % 64) & 1 == 1,
                    _ => true,
                };
                if is_left {
                    file[at..stop].copy_from_slice(&bytes[at - offset..stop - offset]);
                }
                at = stop;
            }
        }
        (Content::File(file), Change::Resize(bytes)) => file.resize(*bytes, 0),
        (Content::Directory(names), Change::Enter { name, node }) => {
            names.insert(name.clone(), *node);
        }
        (Content::Directory(names), Change::Leave { name }) => {
            names.remove(name);
        }
        (Content::Directory(names), Change::Move { name, new_name }) => {
            if let Some(node) = names.remove(name) {
                names.insert(new_name.clone(), node);
            }
        }
        (content, change) => panic!("{change:?} of {content:?}"),
    }
}

/// What lies in a directory now.
pub fn tree_of(root: &Path) -> Tree {
    Medium::of(root).tree(&|_| Left::All)
}

/// Lays it down in an empty directory.
pub fn lay_down(tree: &Tree, root: &Path) {
    for (path, content) in tree {
        let place = root.join(path);
        match content {
            Some(bytes) => fs::write(place, bytes).expect("write a file"),
            None if path.as_os_str().is_empty() => {}
            None => fs::create_dir(place).expect("make a directory"),
        }
    }
}
