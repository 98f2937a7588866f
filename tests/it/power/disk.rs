//! A model of a disk: what was written, what was synced, and what it may contain after a power failure.
//!
//! The model assumes only this of a file system: data written before a sync of its file is durable after it;
//! names in a directory are durable after a sync of the directory, and before that they appear in order.
//! Everything else may be lost: each sector of 512 bytes and each change of a file's size, in any order.

use std::{
    collections::BTreeMap,
    fs,
    path::{Component, Path, PathBuf},
};

/// A sector is written whole or not at all.
const SECTOR: u64 = 512;

/// A recorded operation on files.
#[derive(Debug)]
pub(super) enum Op {
    Create(PathBuf),
    Folder(PathBuf),
    Write(PathBuf, u64, Vec<u8>),
    Size(PathBuf, u64),
    Sync(PathBuf),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

/// Reads a recording; returns each operation with the position after it.
pub(super) fn read(trace: &[u8], root: &Path) -> Vec<(usize, Op)> {
    let number = |at: usize| u64::from_le_bytes(trace[at..at + 8].try_into().unwrap());
    let size = |at: usize| usize::try_from(number(at)).unwrap();
    let relative = |bytes: &[u8]| {
        let path = PathBuf::from(String::from_utf8(bytes.to_vec()).unwrap());
        path.strip_prefix(root)
            .unwrap_or_else(|_| panic!("{} is not in {}", path.display(), root.display()))
            .to_owned()
    };
    let (mut at, mut ops) = (0, Vec::new());
    while at < trace.len() {
        let (kind, value) = (trace[at], number(at + 1));
        let path_end = at + 25 + size(at + 9);
        let path = relative(&trace[at + 25..path_end]);
        let bytes = &trace[path_end..path_end + size(at + 17)];
        at = path_end + bytes.len();
        let op = match kind {
            b'c' => Op::Create(path),
            b'd' => Op::Folder(path),
            b'w' => Op::Write(path, value, bytes.to_vec()),
            b't' => Op::Size(path, value),
            b's' => Op::Sync(path),
            b'r' => Op::Rename(path, relative(bytes)),
            b'u' => Op::Remove(path),
            other => panic!("the recording has {other}"),
        };
        ops.push((at, op));
    }
    ops
}

#[derive(Debug, Clone)]
enum Change {
    Write(u64, Vec<u8>),
    Size(u64),
}

#[derive(Debug, Clone)]
enum Name {
    Put(String, usize),
    Remove(String),
    Rename(String, String, usize),
}

/// A file or a folder: its durable content, and content that may be lost.
#[derive(Debug, Clone)]
enum Node {
    File { kept: Vec<u8>, told: Vec<Change> },
    Folder { kept: BTreeMap<String, usize>, told: Vec<Name> },
}

/// The disk.
#[derive(Debug, Clone)]
pub(super) struct Disk {
    nodes: Vec<Node>,
}

/// The part of unsynced data that survives a power failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// Nothing.
    Lost,
    /// Everything: a killed process.
    Kept,
    /// Some of the changes, each whole.
    Some,
    /// Some of the sectors.
    Torn,
}

impl Disk {
    pub(super) fn new() -> Self {
        Self { nodes: vec![Node::Folder { kept: BTreeMap::new(), told: Vec::new() }] }
    }

    pub(super) fn apply(&mut self, op: &Op) {
        match op {
            Op::Create(path) => {
                self.put(path, Node::File { kept: Vec::new(), told: Vec::new() });
            }
            Op::Folder(path) => {
                self.put(path, Node::Folder { kept: BTreeMap::new(), told: Vec::new() });
            }
            Op::Write(path, at, bytes) => self.change(path, Change::Write(*at, bytes.clone())),
            Op::Size(path, size) => self.change(path, Change::Size(*size)),
            Op::Sync(path) => {
                let node = self.find(path).unwrap();
                match &mut self.nodes[node] {
                    Node::File { kept, told } => {
                        told.drain(..).for_each(|change| write(kept, &change, |_| true));
                    }
                    Node::Folder { kept, told } => {
                        told.drain(..).for_each(|name| rename(kept, name));
                    }
                }
            }
            Op::Rename(from, to) => {
                let node = self.find(from).unwrap();
                let (old, new) = (name(from), name(to));
                if from.parent() == to.parent() {
                    self.tell(from, Name::Rename(old, new, node));
                } else {
                    self.tell(to, Name::Put(new, node));
                    self.tell(from, Name::Remove(old));
                }
            }
            Op::Remove(path) => self.tell(path, Name::Remove(name(path))),
        }
    }

    fn put(&mut self, path: &Path, node: Node) {
        self.nodes.push(node);
        let number = self.nodes.len() - 1;
        self.tell(path, Name::Put(name(path), number));
    }

    fn tell(&mut self, path: &Path, change: Name) {
        let folder = self.find(path.parent().unwrap()).unwrap();
        let Node::Folder { told, .. } = &mut self.nodes[folder] else {
            panic!("{}", path.display())
        };
        told.push(change);
    }

    fn change(&mut self, path: &Path, change: Change) {
        let file = self.find(path).unwrap_or_else(|| panic!("{} is not there", path.display()));
        let Node::File { told, .. } = &mut self.nodes[file] else { panic!("{}", path.display()) };
        told.push(change);
    }

    /// The file or folder that the program sees at a path.
    fn find(&self, path: &Path) -> Option<usize> {
        path.components().try_fold(0, |node, part| {
            let Component::Normal(part) = part else { panic!("{}", path.display()) };
            let Node::Folder { kept, told } = &self.nodes[node] else { return None };
            let mut names = kept.clone();
            told.iter().cloned().for_each(|name| rename(&mut names, name));
            names.get(part.to_str().unwrap()).copied()
        })
    }

    /// Creates a folder with possible content of the disk after a power failure at this point.
    pub(super) fn leave(&self, to: &Path, cut: Cut, random: &mut fastrand::Rng) {
        self.leave_node(0, to, cut, random);
    }

    fn leave_node(&self, node: usize, to: &Path, cut: Cut, random: &mut fastrand::Rng) {
        match &self.nodes[node] {
            Node::File { kept, told } => {
                let mut content = kept.clone();
                for change in told {
                    let whole = match cut {
                        Cut::Lost => continue,
                        Cut::Kept => true,
                        Cut::Some => {
                            if random.bool() {
                                continue;
                            }
                            true
                        }
                        Cut::Torn => false,
                    };
                    write(&mut content, change, |_| whole || random.bool());
                }
                fs::write(to, content).unwrap();
            }
            Node::Folder { kept, told } => {
                let mut names = kept.clone();
                let so_many = match cut {
                    Cut::Lost => 0,
                    Cut::Kept => told.len(),
                    Cut::Some | Cut::Torn => random.usize(..=told.len()),
                };
                told[..so_many].iter().cloned().for_each(|name| rename(&mut names, name));
                fs::create_dir_all(to).unwrap();
                for (name, node) in names {
                    self.leave_node(node, &to.join(name), cut, random);
                }
            }
        }
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

fn rename(names: &mut BTreeMap<String, usize>, change: Name) {
    match change {
        Name::Put(name, node) => {
            names.insert(name, node);
        }
        Name::Remove(name) => {
            names.remove(&name);
        }
        Name::Rename(old, new, node) => {
            names.remove(&old);
            names.insert(new, node);
        }
    }
}

/// Applies a change, or only the sectors that `keep` selects.
fn write(content: &mut Vec<u8>, change: &Change, mut keep: impl FnMut(u64) -> bool) {
    match change {
        Change::Size(size) => {
            if keep(0) {
                content.resize(usize::try_from(*size).unwrap(), 0);
            }
        }
        Change::Write(at, bytes) => {
            let end = at + bytes.len() as u64;
            let mut from = *at;
            while from < end {
                let to = ((from / SECTOR + 1) * SECTOR).min(end);
                if keep(from) {
                    let range = |base: u64| {
                        usize::try_from(from - base).unwrap()..usize::try_from(to - base).unwrap()
                    };
                    if content.len() < range(0).end {
                        content.resize(range(0).end, 0);
                    }
                    content[range(0)].copy_from_slice(&bytes[range(*at)]);
                }
                from = to;
            }
        }
    }
}
