//! A file system in memory, in which every operation is on one inode or one name of one directory.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

pub(crate) type Inode = usize;

#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) enum Node {
    Directory(BTreeMap<String, Inode>),
    File { bytes: Vec<u8>, mode: u32 },
    Link(String),
}

/// What a system call did, independent of the paths by which it was named.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Create { dir: Inode, name: String, inode: Inode, mode: u32 },
    MakeDirectory { dir: Inode, name: String, inode: Inode },
    Symlink { dir: Inode, name: String, inode: Inode, target: String },
    Link { from: (Inode, String), to: (Inode, String) },
    Rename { from: (Inode, String), to: (Inode, String), exchange: bool },
    Unlink { dir: Inode, name: String, was: Inode },
    Write { inode: Inode, bytes: Vec<u8> },
    Truncate { inode: Inode },
    Mode { inode: Inode, mode: u32 },
    SyncFile { inode: Inode },
    SyncDirectory { dir: Inode },
    SyncAll,
}

impl Op {
    /// The names it changes.
    pub(crate) fn names(&self) -> Vec<(Inode, &str)> {
        match self {
            Self::Create { dir, name, .. }
            | Self::MakeDirectory { dir, name, .. }
            | Self::Symlink { dir, name, .. }
            | Self::Unlink { dir, name, .. } => vec![(*dir, name)],
            Self::Link { from, to } | Self::Rename { from, to, .. } => vec![(from.0, &from.1), (to.0, &to.1)],
            _ => Vec::new(),
        }
    }

    /// The inode that it brings into being.
    pub(crate) const fn makes(&self) -> Option<Inode> {
        match self {
            Self::Create { inode, .. } | Self::MakeDirectory { inode, .. } | Self::Symlink { inode, .. } => {
                Some(*inode)
            }
            _ => None,
        }
    }

    /// The file whose content it changes.
    pub(crate) const fn content_of(&self) -> Option<Inode> {
        match self {
            Self::Write { inode, .. } | Self::Truncate { inode } => Some(*inode),
            _ => None,
        }
    }
}

#[derive(Clone, Default)]
pub(crate) struct Disk {
    pub(crate) nodes: BTreeMap<Inode, Node>,
}

pub(crate) const ROOT: Inode = 0;

impl Disk {
    pub(crate) fn load(path: &Path) -> Self {
        let mut disk = Self::default();
        disk.nodes.insert(ROOT, Node::Directory(BTreeMap::new()));
        disk.load_directory(ROOT, path);
        disk
    }

    fn load_directory(&mut self, at: Inode, path: &Path) {
        let mut names = BTreeMap::new();
        for entry in std::fs::read_dir(path).unwrap() {
            let entry = entry.unwrap();
            let inode = self.nodes.len();
            let kind = entry.file_type().unwrap();
            let node = if kind.is_dir() {
                Node::Directory(BTreeMap::new())
            } else if kind.is_symlink() {
                Node::Link(std::fs::read_link(entry.path()).unwrap().to_str().unwrap().to_owned())
            } else {
                let mode = entry.metadata().unwrap().permissions().mode() & 0o7777;
                Node::File { bytes: std::fs::read(entry.path()).unwrap(), mode }
            };
            self.nodes.insert(inode, node);
            if kind.is_dir() {
                self.load_directory(inode, &entry.path());
            }
            names.insert(entry.file_name().into_string().unwrap(), inode);
        }
        self.nodes.insert(at, Node::Directory(names));
    }

    pub(crate) fn store(&self, at: Inode, path: &Path) {
        match &self.nodes[&at] {
            Node::Directory(names) => {
                std::fs::create_dir(path).unwrap();
                names.iter().for_each(|(name, inode)| self.store(*inode, &path.join(name)));
            }
            Node::Link(target) => std::os::unix::fs::symlink(target, path).unwrap(),
            Node::File { bytes, mode } => {
                std::fs::write(path, bytes).unwrap();
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(*mode)).unwrap();
            }
        }
    }

    pub(crate) fn names(&mut self, dir: Inode) -> &mut BTreeMap<String, Inode> {
        match self.nodes.get_mut(&dir) {
            Some(Node::Directory(names)) => names,
            _ => panic!("inode {dir} is no directory"),
        }
    }

    /// The inode at a path below the root.
    pub(crate) fn find(&mut self, path: &str) -> Option<Inode> {
        let mut at = ROOT;
        for name in path.split('/').filter(|c| !c.is_empty()) {
            at = *self.names(at).get(name)?;
        }
        Some(at)
    }

    pub(crate) fn apply(&mut self, op: &Op) {
        match op {
            Op::Create { dir, name, inode, mode } => {
                let file = Node::File { bytes: Vec::new(), mode: *mode };
                self.nodes.entry(*inode).or_insert(file);
                self.names(*dir).insert(name.clone(), *inode);
            }
            Op::MakeDirectory { dir, name, inode } => {
                self.nodes.insert(*inode, Node::Directory(BTreeMap::new()));
                self.names(*dir).insert(name.clone(), *inode);
            }
            Op::Symlink { dir, name, inode, target } => {
                self.nodes.insert(*inode, Node::Link(target.clone()));
                self.names(*dir).insert(name.clone(), *inode);
            }
            Op::Link { from, to } => {
                let inode = self.names(from.0)[&from.1];
                self.names(to.0).insert(to.1.clone(), inode);
            }
            Op::Rename { from, to, exchange } => {
                let inode = self.names(from.0).remove(&from.1).unwrap();
                let replaced = self.names(to.0).insert(to.1.clone(), inode);
                if let (true, Some(replaced)) = (exchange, replaced) {
                    self.names(from.0).insert(from.1.clone(), replaced);
                }
            }
            Op::Unlink { dir, name, .. } => {
                self.names(*dir).remove(name);
            }
            Op::Write { inode, bytes } => {
                if let Some(Node::File { bytes: all, .. }) = self.nodes.get_mut(inode) {
                    all.extend_from_slice(bytes);
                }
            }
            Op::Truncate { inode } => {
                if let Some(Node::File { bytes, .. }) = self.nodes.get_mut(inode) {
                    bytes.clear();
                }
            }
            Op::Mode { inode, mode } => {
                if let Some(Node::File { mode: old, .. }) = self.nodes.get_mut(inode) {
                    *old = *mode;
                }
            }
            Op::SyncFile { .. } | Op::SyncDirectory { .. } | Op::SyncAll => {}
        }
    }
}
