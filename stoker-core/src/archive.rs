//! All owned files in one file, to be kept elsewhere: tar, compressed with Zstandard.
//!
//! ```text
//! Session::export ─▶ .stoker-archive.json {format, revision, at, files, bytes}
//!                    path, path, …        in path order; 0644 or 0755, no times, no owners
//!                                 │
//! ArchiveSource::read ◀───────────┘  a source like any other: Engine::sync brings it back
//! ```
//!
//! The same files make the same bytes. Any tar program can read an archive.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::engine::{OpenError, Session};
use crate::fault::{Category, Fault, Retry};
use crate::path::{PathError, RelPath, RelPathBuf};
use crate::root::{Live, live_at, open_file};
use crate::source::{ContentId, Entry, EntryKind, NamedEntry, Source, SourceError};
use crate::spec::Limits;
use crate::state::is_own;

/// The name of the first entry.
const HEADER: &str = ".stoker-archive.json";
/// Largest header that is read, in bytes.
const MAX_HEADER_BYTES: u64 = 64 << 10;
/// Most that may follow the last entry, in bytes: padding.
const MAX_TRAILER_BYTES: u64 = 64 << 10;
/// What this version writes and reads.
const FORMAT: u32 = 1;

/// What an archive says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveHeader {
    format: u32,
    /// The revision whose files it holds.
    pub revision: String,
    /// When that became live, in milliseconds since 1970-01-01 UTC.
    pub at: u64,
    /// How many files.
    pub files: u64,
    /// How many bytes they have together.
    pub bytes: u64,
}

/// Why an archive could not be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// There is nothing to write: no sync has been here.
    #[error("there is nothing to export: no sync has written here yet")]
    Nothing,
    /// The state cannot be read.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A file could not be read, or changed while it was.
    #[error("cannot read {path}")]
    Live {
        /// The file.
        path: RelPathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The archive could not be written, or is cut off or damaged.
    #[error("cannot write or read the archive")]
    Io(#[from] io::Error),
    /// It does not begin as an archive of this engine does.
    #[error("this is no archive of stoker: {0}")]
    Foreign(String),
    /// An entry has no place in an archive of this engine.
    #[error("{name:?} in the archive {rule}")]
    Entry {
        /// Its name.
        name: String,
        /// The rule.
        rule: &'static str,
    },
    /// The name of an entry is no path that the engine would write.
    #[error("a name in the archive is not usable")]
    Path(#[from] PathError),
    /// It holds more or fewer files or bytes than it says.
    #[error("the archive holds {found} files and says {said}; it is damaged")]
    Count {
        /// Files in it.
        found: u64,
        /// Files by its header.
        said: u64,
    },
    /// It is larger than allowed.
    #[error("the archive holds more than {limit} {what}")]
    TooLarge {
        /// Files or bytes.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
}

impl Fault for ArchiveError {
    fn category(&self) -> Category {
        match self {
            Self::Nothing => Category::new("HistoryNotKept"),
            Self::Open(error) => error.category(),
            Self::Live { .. } => Category::new("DataDirectoryUnavailable"),
            Self::Io(_) => Category::new("ArchiveUnavailable"),
            Self::TooLarge { .. } => Category::new("ArchiveTooLarge"),
            Self::Foreign(_) | Self::Entry { .. } | Self::Path(_) | Self::Count { .. } => {
                Category::new("ArchiveInvalid")
            }
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Open(error) => error.retry(),
            Self::Live { .. } | Self::Io(_) => Retry::Backoff,
            _ => Retry::AfterChange,
        }
    }
}

impl Session<'_> {
    /// Writes all owned files as they are now. One that somebody deleted is not in it; what somebody changed is in it as
    /// changed. No transaction can come between.
    ///
    /// # Errors
    /// When a file cannot be read or changes meanwhile, or the archive cannot be written.
    pub fn export(&self, to: impl Write) -> Result<ArchiveHeader, ArchiveError> {
        let head = self.engine().head()?.ok_or(ArchiveError::Nothing)?;
        let root = self.root();
        let mut cursor = root.cursor();
        let mut files = Vec::new();
        for path in self.engine().owned()? {
            let live = cursor
                .live(path.as_path())
                .map_err(|source| ArchiveError::Live { path: path.clone(), source })?;
            if let Live::File(file) = live {
                files.push((path, file));
            }
        }
        let header = ArchiveHeader {
            format: FORMAT,
            revision: head.revision,
            at: head.at,
            files: files.len() as u64,
            bytes: files.iter().map(|(_, file)| file.id.size).sum(),
        };
        let mut encoder = zstd::Encoder::new(to, 0)?;
        encoder.include_checksum(true)?;
        let mut tar = tar::Builder::new(encoder);
        let text = serde_json::to_vec(&header).map_err(io::Error::other)?;
        tar.append_data(&mut plain(text.len() as u64, false), HEADER, text.as_slice())?;
        cursor.reset();
        for (path, before) in files {
            let unreadable = |source| ArchiveError::Live { path: path.clone(), source };
            let changed = || unreadable(io::Error::other("it changed while it was read"));
            let parent = cursor.parent(path.as_path()).map_err(unreadable)?.ok_or_else(changed)?;
            let name = path.as_path().file_name().unwrap_or_default();
            let file = open_file(parent.as_fd(), name).map_err(unreadable)?;
            let executable = before.mode & 0o100 != 0;
            let mut entry = plain(before.id.size, executable);
            tar.append_data(&mut entry, path.as_str(), file.take(before.id.size))?;
            let after = live_at(parent.as_fd(), name).map_err(unreadable)?;
            if !matches!(after, Live::File(after) if after.id == before.id) {
                return Err(changed());
            }
        }
        tar.into_inner()?.finish()?.flush()?;
        Ok(header)
    }
}

/// The metadata of an entry: nothing that depends on when and where.
fn plain(size: u64, executable: bool) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(if executable { 0o755 } else { 0o644 });
    header
}

/// An archive as a source. Its contents lie in a temporary directory for as long as it lives.
#[derive(Debug)]
pub struct ArchiveSource {
    header: ArchiveHeader,
    files: BTreeMap<RelPathBuf, Packed>,
    contents: tempfile::TempDir,
}

#[derive(Debug)]
struct Packed {
    id: ContentId,
    size: u64,
    executable: bool,
    /// Its name in the temporary directory: no name of the archive becomes one on the disk.
    slot: usize,
}

impl ArchiveSource {
    /// Reads a whole archive into a new directory in `scratch`, and checks it.
    ///
    /// # Errors
    /// When it is cut off, damaged, larger than `limits` or not an archive of this engine.
    pub fn read(from: impl Read, scratch: impl AsRef<Path>, limits: &Limits) -> Result<Self, ArchiveError> {
        let contents = tempfile::Builder::new().prefix("stoker-archive-").tempdir_in(scratch)?;
        let mut archive = tar::Archive::new(zstd::Decoder::new(from)?);
        let mut header: Option<ArchiveHeader> = None;
        let mut files = BTreeMap::new();
        let mut bytes = 0;
        for entry in archive.entries()? {
            let mut entry = entry?;
            let name = String::from_utf8(entry.path_bytes().into_owned()).map_err(|error| {
                PathError::NotUtf8(String::from_utf8_lossy(error.as_bytes()).into_owned())
            })?;
            if entry.header().entry_type() != tar::EntryType::Regular {
                return Err(ArchiveError::Entry { name, rule: "is not a regular file" });
            }
            if header.is_none() {
                header = Some(read_header(&name, &mut entry)?);
                continue;
            }
            let path = RelPathBuf::parse(&name)?;
            if path.as_path().is_root() || is_own(path.as_path()) {
                return Err(ArchiveError::Entry { name, rule: "is not the path of an owned file" });
            }
            let size = entry.size();
            bytes += size;
            for (what, found, limit) in [
                ("files", files.len() as u64 + 1, limits.max_files),
                ("bytes", bytes, limits.max_total_bytes),
                ("bytes in one file", size, limits.max_file_bytes),
            ] {
                if found > limit {
                    return Err(ArchiveError::TooLarge { what, limit });
                }
            }
            let slot = files.len();
            let mut copy = File::create_new(contents.path().join(slot.to_string()))?;
            let mut hasher = blake3::Hasher::new();
            let mut buffer = vec![0; 64 << 10];
            let mut written = 0;
            loop {
                let n = entry.read(&mut buffer)?;
                if n == 0 {
                    break;
                }
                written += n as u64;
                hasher.update(&buffer[..n]);
                copy.write_all(&buffer[..n])?;
            }
            if written != size {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            let id = ContentId::from(hasher.finalize());
            let executable = entry.header().mode()? & 0o100 != 0;
            if files.insert(path, Packed { id, size, executable, slot }).is_some() {
                return Err(ArchiveError::Entry { name, rule: "is there twice" });
            }
        }
        // The checksum is behind the last entry.
        let mut rest = archive.into_inner().take(MAX_TRAILER_BYTES);
        if io::copy(&mut rest, &mut io::sink())? == MAX_TRAILER_BYTES {
            return Err(ArchiveError::Foreign("something follows its end".to_owned()));
        }
        let header = header.ok_or_else(|| ArchiveError::Foreign("it is empty".to_owned()))?;
        if (files.len() as u64, bytes) != (header.files, header.bytes) {
            return Err(ArchiveError::Count { found: files.len() as u64, said: header.files });
        }
        Ok(Self { header, files, contents })
    }

    /// What the archive says of itself.
    #[must_use]
    pub const fn header(&self) -> &ArchiveHeader {
        &self.header
    }

    fn below<'a>(&'a self, path: RelPath<'a>) -> impl Iterator<Item = (&'a str, &'a Packed)> {
        self.files
            .iter()
            .filter_map(move |(at, packed)| Some((at.as_path().strip_prefix(path)?.as_str(), packed)))
    }
}

fn read_header(name: &str, entry: &mut impl Read) -> Result<ArchiveHeader, ArchiveError> {
    if name != HEADER {
        return Err(ArchiveError::Foreign(format!("it begins with {name:?}, not with {HEADER}")));
    }
    let mut text = Vec::new();
    entry.take(MAX_HEADER_BYTES).read_to_end(&mut text)?;
    let header: ArchiveHeader = serde_json::from_slice(&text)
        .map_err(|error| ArchiveError::Foreign(format!("{HEADER} cannot be read: {error}")))?;
    if header.format != FORMAT {
        let said = header.format;
        return Err(ArchiveError::Foreign(format!("its format is {said}, and this version reads {FORMAT}")));
    }
    Ok(header)
}

impl Source for ArchiveSource {
    fn entry(&self, path: RelPath<'_>) -> Result<Option<Entry>, SourceError> {
        if let Some(packed) = self.files.get(path.as_str()) {
            return Ok(Some(packed.entry()));
        }
        let directory = path.is_root() || self.below(path).next().is_some();
        Ok(directory.then_some(Entry { kind: EntryKind::Directory, id: None, size: None }))
    }

    fn list(&self, path: RelPath<'_>) -> Result<Vec<NamedEntry>, SourceError> {
        let mut entries: BTreeMap<&str, Entry> = BTreeMap::new();
        for (below, packed) in self.below(path) {
            match below.split_once('/') {
                None => entries.insert(below, packed.entry()),
                Some((name, _)) => {
                    entries.insert(name, Entry { kind: EntryKind::Directory, id: None, size: None })
                }
            };
        }
        let named = |(name, entry): (&str, Entry)| NamedEntry { name: name.as_bytes().to_vec(), entry };
        Ok(entries.into_iter().map(named).collect())
    }

    fn open(&self, path: RelPath<'_>, id: &ContentId) -> Result<Box<dyn Read + '_>, SourceError> {
        let missing = || SourceError::Missing { path: path.to_buf() };
        let packed = self.files.get(path.as_str()).filter(|packed| packed.id == *id).ok_or_else(missing)?;
        let file = File::open(self.contents.path().join(packed.slot.to_string()));
        let failed = |source: io::Error| SourceError::Read { path: path.to_buf(), source: Box::new(source) };
        Ok(Box::new(file.map_err(failed)?))
    }
}

impl Packed {
    fn entry(&self) -> Entry {
        let kind = if self.executable { EntryKind::Executable } else { EntryKind::File };
        Entry { kind, id: Some(self.id), size: Some(self.size) }
    }
}
