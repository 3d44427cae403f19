//! The engine's own directory, `.stoker/` inside the destination: lock, head, manifest, journal, stage and history.
//!
//! ```text
//! .stoker/            mode 0700, on the destination's own file system
//!   lock              held (flock) by whoever plans and applies
//!   head              JSON: the revision that is live, and what the last plan was made from
//!   seen              JSON: a later revision with the same content
//!   manifest          per owned path: what was written last, and how the file looked right after
//!   journal           exists only while a transaction is between its commit point and its end
//!   stage/N           new contents of the running transaction
//!   history/TX/N      what transaction TX replaced, with its journal and the digests (kept)
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};

use crate::path::{RelPath, RelPathBuf};
use crate::path_map::PathMap;
use crate::root::{Root, StatId};
use crate::sealed::{seal, unseal};
use crate::source::ContentId;

/// The name of the engine's own directory inside the destination. Always protected.
pub const STATE_DIRECTORY: &str = ".stoker";

/// From this size on a directory is worth making anew: on ext4, of some thousand names.
const LONG_DIRECTORY_BYTES: u64 = 64 << 10;

/// The highest number of a transaction that is believed: one above it is damage, and counting on from it would end.
pub(crate) const LAST_TRANSACTION: u64 = 1 << 53;

/// A BLAKE3 digest of written bytes.
pub(crate) type Digest = [u8; 32];

/// What was written at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ManifestEntry {
    /// The content id in the source.
    pub(crate) id: ContentId,
    /// What was done to the content on the way; zero for nothing.
    #[serde(with = "exact")]
    pub(crate) transform: [u8; 16],
    /// The digest of the written bytes.
    #[serde(with = "exact")]
    pub(crate) digest: Digest,
    pub(crate) executable: bool,
    /// How the file looked right after the write; all zero when that is not known.
    pub(crate) stat: StatId,
}

impl ManifestEntry {
    /// What a step carries for a content that the engine has not written.
    pub(crate) fn of_others(digest: Digest, stat: StatId) -> Self {
        Self { id: ContentId::of(&digest), transform: [0; 16], digest, executable: false, stat }
    }

    /// Whether a content is the one that was written, as far as is known.
    pub(crate) fn is_of(&self, digest: Digest) -> bool {
        self.digest == digest || self.digest == Digest::default()
    }

    /// Whether another entry says the same, but for how the file looked.
    pub(crate) fn is_as(&self, other: &Self) -> bool {
        *self == Self { stat: self.stat, ..other.clone() }
    }
}

/// What is owned, by path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) files: PathMap<Box<ManifestEntry>>,
    /// Directories that the engine made, and may remove when they are empty.
    pub(crate) directories: PathMap<()>,
    /// Which tree of the source a directory was made from, wholly and from one mapping alone.
    pub(crate) trees: PathMap<ContentId>,
}

/// So many bytes, read at once. All zero is written as nothing.
mod exact {
    use super::{Deserializer, Serializer};
    use serde::de::{Error, Visitor};

    pub(super) fn serialize<const N: usize, S: Serializer>(
        bytes: &[u8; N],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(if *bytes == [0; N] { &[] } else { bytes })
    }

    pub(super) fn deserialize<'de, const N: usize, D: Deserializer<'de>>(
        from: D,
    ) -> Result<[u8; N], D::Error> {
        from.deserialize_byte_buf(Exact)
    }

    struct Exact<const N: usize>;

    impl<const N: usize> Visitor<'_> for Exact<N> {
        type Value = [u8; N];

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "{N} bytes or none")
        }

        fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<[u8; N], E> {
            if bytes.is_empty() {
                return Ok([0; N]);
            }
            bytes.try_into().map_err(|_| E::invalid_length(bytes.len(), &self))
        }
    }
}

/// What is live, and what it was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Head {
    /// The revision of the source whose content is live.
    pub revision: String,
    /// The digest of the spec it was planned with.
    pub spec: String,
    /// Per mapped source path: the id it had, or none when it was missing.
    pub sources: BTreeMap<RelPathBuf, Option<ContentId>>,
    /// The number of the last transaction.
    pub transaction: u64,
    /// Owned files.
    pub files: u64,
    /// When it became live, in milliseconds since 1970-01-01 UTC.
    pub at: u64,
}

/// The opened state directory.
#[derive(Debug)]
pub(crate) struct StateDir {
    fd: OwnedFd,
}

impl StateDir {
    /// Opens the directory; `None` when there is none.
    pub(crate) fn open(root: &Root) -> io::Result<Option<Self>> {
        let path = RelPathBuf::parse(STATE_DIRECTORY).map_err(io::Error::other)?;
        match root.directory(path.as_path()) {
            Ok(fd) => Ok(Some(Self { fd })),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Opens the directory, making it when there is none.
    pub(crate) fn open_or_make(root: &Root) -> io::Result<Self> {
        match rustix::fs::mkdirat(root.fd(), STATE_DIRECTORY, Mode::RWXU) {
            Ok(()) => {
                own_like(root.fd(), root.fd(), STATE_DIRECTORY)?;
                rustix::fs::fsync(root.fd())?;
            }
            Err(Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
        let state = Self::open(root)?.ok_or(io::ErrorKind::NotFound)?;
        for sub in ["stage", "history"] {
            state.make_directory(sub)?;
        }
        Ok(state)
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(crate) fn make_directory(&self, path: &str) -> io::Result<()> {
        match rustix::fs::mkdirat(&self.fd, path, Mode::RWXU) {
            Ok(()) => own_like(self.fd(), self.fd(), path),
            Err(Errno::EXIST) if crate::root::live_at(self.fd(), path)? != crate::root::Live::Directory => {
                let text = format!("{STATE_DIRECTORY}/{path} is in the place of a directory; move it away");
                Err(io::Error::new(io::ErrorKind::NotADirectory, text))
            }
            Err(Errno::EXIST) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Makes an empty directory anew that has held many names: ext4 never gives their blocks back, and looks through all
    /// of them whenever the directory is listed. Failing to is no harm: [`StateDir::open_or_make`] makes what is missing.
    pub(crate) fn renew(&self, path: &str) {
        let renewed = || -> io::Result<()> {
            let size = rustix::fs::statat(&self.fd, path, AtFlags::SYMLINK_NOFOLLOW)?.st_size;
            if size as u64 > LONG_DIRECTORY_BYTES {
                rustix::fs::unlinkat(&self.fd, path, AtFlags::REMOVEDIR)?;
                self.make_directory(path)?;
            }
            Ok(())
        };
        if let Err(error) = renewed() {
            tracing::warn!(%error, path, "cannot make the directory anew");
        }
    }

    pub(crate) fn directory(&self, path: &str) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(rustix::fs::openat(&self.fd, path, flags, Mode::empty())?)
    }

    fn open_file(&self, name: &str) -> io::Result<Option<File>> {
        // A pipe in the place of a file must not be waited for.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = match rustix::fs::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        if !file.metadata()?.is_file() {
            let text = format!("{STATE_DIRECTORY}/{name} is not a regular file; remove it");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(Some(file))
    }

    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let Some(mut file) = self.open_file(name)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    /// Reads a sealed value; `Some(None)` when there is one that is damaged or of another format.
    pub(crate) fn read_sealed<T: DeserializeOwned>(&self, name: &str) -> io::Result<Option<Option<T>>> {
        let Some(file) = self.open_file(name)? else { return Ok(None) };
        let length = file.metadata()?.len();
        unseal(file, length).map(Some)
    }

    fn create_new(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(rustix::fs::openat(&self.fd, format!("{name}.new"), flags, Mode::RUSR | Mode::WUSR)?.into())
    }

    /// Writes `name.new`; the caller makes it durable and then calls [`StateDir::publish`].
    pub(crate) fn write_new(&self, name: &str, bytes: &[u8]) -> io::Result<File> {
        let mut file = self.create_new(name)?;
        file.write_all(bytes)?;
        Ok(file)
    }

    /// As [`StateDir::write_new`], for a sealed value.
    pub(crate) fn write_sealed<T: Serialize>(&self, name: &str, value: &T) -> io::Result<File> {
        let file = self.create_new(name)?;
        seal(value, &file)?;
        Ok(file)
    }

    /// Renames `name.new` to `name`.
    pub(crate) fn publish(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.fd, format!("{name}.new"), &self.fd, name)?)
    }

    /// Removes a file; a missing one is fine.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// The names in a directory below, sorted; none when there is no such directory.
    pub(crate) fn names(&self, path: &str) -> io::Result<Vec<String>> {
        match self.directory(path) {
            Ok(directory) => names(&directory),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(e),
        }
    }

    /// Whether a transaction is under way, or was interrupted.
    pub(crate) fn is_under_way(&self) -> io::Result<bool> {
        Ok(crate::root::live_at(self.fd(), "journal")? != crate::root::Live::Absent)
    }

    pub(crate) fn head(&self) -> io::Result<Option<Head>> {
        let read = |name| {
            Ok::<Option<Head>, io::Error>(
                self.read(name)?
                    .and_then(|bytes| serde_json::from_slice(&bytes).ok())
                    .filter(|head: &Head| head.transaction <= LAST_TRANSACTION),
            )
        };
        let (head, seen) = (read("head")?, read("seen")?);
        // A revision that was seen counts only on top of the very transaction and spec that are live.
        let same =
            |head: &Head, seen: &Head| (head.transaction, &head.spec) == (seen.transaction, &seen.spec);
        Ok(match (head, seen) {
            (Some(head), Some(seen)) if same(&head, &seen) && seen.sources == head.sources => Some(seen),
            (head, _) => head,
        })
    }

    /// The number of the last transaction: as the head says, or without one, as the history does.
    pub(crate) fn last_transaction(&self, head: Option<&Head>) -> io::Result<u64> {
        head.map_or_else(|| crate::history::highest(self), |head| Ok(head.transaction))
    }

    /// The manifest, or `None` when there is none or it is damaged: it is then rebuilt by adoption.
    pub(crate) fn manifest(&self) -> io::Result<Option<Manifest>> {
        Ok(self.read_sealed("manifest")?.flatten())
    }
}

pub(crate) fn names(directory: &OwnedFd) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory)? {
        if let Ok(name) = entry?.file_name().to_str()
            && name != "."
            && name != ".."
        {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Whether a directory has entries that [`names`] leaves out, for no source can bring them.
pub(crate) fn has_unnamed(directory: &OwnedFd) -> io::Result<bool> {
    for entry in rustix::fs::Dir::read_from(directory)? {
        if entry?.file_name().to_str().is_err() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Removes what has a name, with everything below it.
pub(crate) fn remove_tree(parent: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    remove_all(parent, &std::ffi::CString::new(name)?)
}

/// As [`remove_tree`], for names of any bytes: what others had in a directory may be kept, too.
fn remove_all(parent: BorrowedFd<'_>, name: &std::ffi::CStr) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(e) => return Err(e.into()),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let directory = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    let entries: Vec<_> = rustix::fs::Dir::read_from(&directory)?.collect::<Result<_, _>>()?;
    for entry in entries.iter().map(rustix::fs::DirEntry::file_name) {
        if entry != c"." && entry != c".." {
            remove_all(directory.as_fd(), entry)?;
        }
    }
    Ok(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}

/// As root, gives `name` the owner of the directory `like`: what we make must belong to whoever runs beside us.
pub(crate) fn own_like(like: BorrowedFd<'_>, parent: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let stat = rustix::fs::fstat(like)?;
    own(parent, name, stat.st_uid, stat.st_gid)
}

pub(crate) fn own(parent: BorrowedFd<'_>, name: &str, uid: u32, gid: u32) -> io::Result<()> {
    let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
    match rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW) {
        // A container's root may lack the right to give files away; the volume's group then decides.
        Ok(()) | Err(Errno::PERM) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Whether `path` lies in the engine's own directory.
pub(crate) fn is_own(path: RelPath<'_>) -> bool {
    path.components().next() == Some(STATE_DIRECTORY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_that_held_thousands_of_names_is_small_again_and_one_with_a_name_in_it_stays() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open_or_make(&Root::open(dir.path()).unwrap()).unwrap();
        let stage = dir.path().join(STATE_DIRECTORY).join("stage");
        let inode = || std::os::unix::fs::MetadataExt::ino(&stage.metadata().unwrap());
        for name in 0..10_000 {
            std::fs::write(stage.join(name.to_string()), "").unwrap();
        }
        let before = inode();
        state.renew("stage");
        assert_eq!(inode(), before, "a directory that is not empty was replaced");

        for name in 0..10_000 {
            std::fs::remove_file(stage.join(name.to_string())).unwrap();
        }
        state.renew("stage");
        let size = stage.metadata().unwrap().len();
        assert!(size <= LONG_DIRECTORY_BYTES, "still {size} bytes");
    }
}
