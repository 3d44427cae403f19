//! A fetched commit as a source of files.
//!
//! Nothing is checked out: directories and files are read from the object database when they are asked for, one file at
//! a time, and every object's content is checked against its id.

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use git2::{ErrorCode, ObjectType, Oid, Repository};
use stoker_core::{ContentId, Entry, EntryKind, NamedEntry, RelPath, Source, SourceError};

use crate::cache::generation::Generation;
use crate::cache::objects::{Objects, corrupt, object_id, oid};
use crate::commit::CommitInfo;
use crate::error::GitError;
use crate::object_id::{CommitId, ObjectId};

/// A fetched commit as a source of files.
///
/// Guarantees: it is a snapshot (its objects stay until it is dropped, whatever is fetched meanwhile); ids are git object
/// ids; symbolic links and submodules are named as such and never followed. It may be shared between threads, which then
/// take turns.
pub struct CommitSource {
    inner: Mutex<Inner>,
    info: CommitInfo,
    max_blob_bytes: u64,
    suspect_mark: PathBuf,
    path: String,
    _lease: File,
}

struct Inner {
    repository: Repository,
    /// The directories on the way to what was asked for last, outermost first: who goes through a tree asks for what
    /// lies in one of them next.
    way: Vec<(Oid, Arc<[Item]>)>,
}

/// An entry of a git tree.
#[derive(Debug, Clone)]
struct Item {
    name: Vec<u8>,
    kind: EntryKind,
    id: Oid,
}

/// The default of [`CommitSource::with_max_blob_bytes`].
const DEFAULT_MAX_BLOB_BYTES: u64 = 256 << 20;

impl CommitSource {
    pub(crate) fn open(generation: &Generation, commit: &CommitId, lease: File) -> Result<Self, GitError> {
        let objects_dir = generation.objects_dir();
        let path = objects_dir.display().to_string();
        let repository = Objects::open(&objects_dir)?.into_repository();
        let read = || {
            CommitInfo::read(&repository.find_commit(oid(commit)?)?)
                .ok_or_else(|| git2::Error::from_str("odd id"))
        };
        let info = match read() {
            Ok(info) => info,
            Err(error) => {
                let _ = std::fs::write(generation.suspect_mark(), "");
                return Err(corrupt(&path, &error));
            }
        };
        Ok(Self {
            inner: Mutex::new(Inner { repository, way: Vec::new() }),
            info,
            max_blob_bytes: DEFAULT_MAX_BLOB_BYTES,
            suspect_mark: generation.suspect_mark(),
            path,
            _lease: lease,
        })
    }

    /// Sets the size above which a file is refused, in bytes (default 256 MiB): git holds a file in memory as a whole.
    #[must_use]
    pub fn with_max_blob_bytes(mut self, limit: u64) -> Self {
        self.max_blob_bytes = limit;
        self
    }

    /// What the commit says of itself.
    #[must_use]
    pub fn info(&self) -> &CommitInfo {
        &self.info
    }

    /// The commit as git stores it.
    ///
    /// # Errors
    /// [`GitError::CacheCorrupt`] when it cannot be read (any more).
    pub fn raw_commit(&self) -> Result<Vec<u8>, GitError> {
        let inner = self.lock();
        let read = || -> Result<Vec<u8>, git2::Error> {
            Ok(inner.repository.odb()?.read(oid(&self.info.id)?)?.data().to_vec())
        };
        read().map_err(|error| {
            let _ = std::fs::write(&self.suspect_mark, "");
            corrupt(&self.path, &error)
        })
    }

    /// The id of the commit.
    #[must_use]
    pub fn commit(&self) -> CommitId {
        self.info.id
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // What a panic can leave behind is a shorter way.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn root(&self) -> Result<Oid, git2::Error> {
        oid(&self.info.tree)
    }

    /// A damaged or missing object: the next fetch must start anew.
    fn failed(&self, path: RelPath<'_>, error: &git2::Error) -> SourceError {
        let _ = std::fs::write(&self.suspect_mark, "");
        SourceError::Read { path: path.to_buf(), source: Box::new(corrupt(&self.path, error)) }
    }

    fn find(&self, inner: &mut Inner, path: RelPath<'_>) -> Result<Option<Item>, git2::Error> {
        let mut item = Item { name: Vec::new(), kind: EntryKind::Directory, id: self.root()? };
        for (depth, component) in path.components().enumerate() {
            if item.kind != EntryKind::Directory {
                return Ok(None);
            }
            let directory = inner.directory(depth, item.id)?;
            match directory.binary_search_by(|entry| entry.name.as_slice().cmp(component.as_bytes())) {
                Ok(at) => item = directory[at].clone(),
                Err(_) => return Ok(None),
            }
        }
        Ok(Some(item))
    }
}

impl Inner {
    /// The entries of a directory at some depth, 0 for the root.
    fn directory(&mut self, depth: usize, id: Oid) -> Result<Arc<[Item]>, git2::Error> {
        if let Some((_, known)) = self.way.get(depth).filter(|(known, _)| *known == id) {
            return Ok(known.clone());
        }
        self.way.truncate(depth);
        let tree = self.repository.find_tree(id)?;
        let mut items: Vec<Item> = tree
            .iter()
            .map(|entry| Item {
                name: entry.name_bytes().to_vec(),
                kind: kind(entry.filemode_raw()),
                id: entry.id(),
            })
            .collect();
        // Git orders directories as if their names ended with a slash.
        items.sort_by(|a, b| a.name.cmp(&b.name));
        let items: Arc<[Item]> = items.into();
        self.way.push((id, items.clone()));
        Ok(items)
    }

    fn entry(&self, item: &Item) -> Result<Entry, git2::Error> {
        let size = match item.kind {
            EntryKind::File | EntryKind::Executable => {
                let (size, _) = self.repository.odb()?.read_header(item.id)?;
                Some(size as u64)
            }
            _ => None,
        };
        Ok(Entry { kind: item.kind, id: ContentId::new(item.id.as_bytes()), size })
    }
}

/// What a mode of a git tree means. Group-writable files (`100664`) were written by early versions of git.
fn kind(mode: i32) -> EntryKind {
    match mode & 0o170_000 {
        0o040_000 => EntryKind::Directory,
        0o100_000 if mode & 0o111 != 0 => EntryKind::Executable,
        0o100_000 => EntryKind::File,
        0o120_000 => EntryKind::Symlink,
        0o160_000 => EntryKind::Submodule,
        _ => EntryKind::Other,
    }
}

impl Source for CommitSource {
    fn entry(&self, path: RelPath<'_>) -> Result<Option<Entry>, SourceError> {
        let mut inner = self.lock();
        let found = self.find(&mut inner, path).map_err(|e| self.failed(path, &e))?;
        found.map(|item| inner.entry(&item)).transpose().map_err(|e| self.failed(path, &e))
    }

    fn list(&self, path: RelPath<'_>) -> Result<Vec<NamedEntry>, SourceError> {
        let mut inner = self.lock();
        let found = self.find(&mut inner, path).map_err(|e| self.failed(path, &e))?;
        let Some(directory) = found.filter(|item| item.kind == EntryKind::Directory) else {
            return Err(SourceError::Missing { path: path.to_buf() });
        };
        let items =
            inner.directory(path.components().count(), directory.id).map_err(|e| self.failed(path, &e))?;
        items
            .iter()
            .map(|item| {
                let entry = inner.entry(item).map_err(|e| self.failed(path, &e))?;
                Ok(NamedEntry { name: item.name.clone(), entry })
            })
            .collect()
    }

    fn open(&self, path: RelPath<'_>, id: &ContentId) -> Result<Box<dyn Read + '_>, SourceError> {
        let missing = || SourceError::Missing { path: path.to_buf() };
        let id = ObjectId::from_bytes(id.as_bytes()).ok_or_else(missing)?;
        let object = oid(&id).map_err(|_| missing())?;
        let inner = self.lock();
        let read = || -> Result<Result<Vec<u8>, SourceError>, git2::Error> {
            let odb = inner.repository.odb()?;
            let (size, kind) = odb.read_header(object)?;
            if kind != ObjectType::Blob {
                return Ok(Err(missing()));
            }
            if size as u64 > self.max_blob_bytes {
                let (size, limit) = (size as u64, self.max_blob_bytes);
                return Ok(Err(SourceError::TooLarge { path: path.to_buf(), size, limit }));
            }
            Ok(Ok(odb.read(object)?.data().to_vec()))
        };
        match read() {
            Ok(content) => content.map(|bytes| Box::new(Cursor::new(bytes)) as Box<dyn Read>),
            // An id that this repository never had is the caller's mistake, not damage.
            Err(error) if error.code() == ErrorCode::NotFound && !self.names(&inner, path, &id) => {
                Err(missing())
            }
            Err(error) => Err(self.failed(path, &error)),
        }
    }
}

impl CommitSource {
    /// Whether the commit has this object at this path.
    fn names(&self, inner: &Inner, path: RelPath<'_>, id: &ObjectId) -> bool {
        let find = || {
            let root = inner.repository.find_tree(self.root().ok()?).ok()?;
            let entry = root.get_path(std::path::Path::new(path.as_str())).ok()?;
            object_id(entry.id())
        };
        find() == Some(*id)
    }
}

impl std::fmt::Debug for CommitSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CommitSource").field("commit", &self.info.id).finish_non_exhaustive()
    }
}
