//! From a source's content to the bytes that are written: templates, JSON edits, and the checks every file passes.

use std::io::Read;

use serde_json::Value;

use crate::fault::{Category, Fault, Retry};
use crate::json::{self, JsonError, JsonPath};
use crate::path::{RelPath, RelPathBuf};
use crate::source::SourceError;
use crate::template::{Position, Template, TemplateError, Variables};

/// What a Git LFS pointer starts with (git-lfs, docs/spec.md).
const LFS_MARK: &[u8] = b"version https://git-lfs.github.com/spec/";

/// Files up to this size are held in memory whole; larger ones stream unless they must be parsed.
pub(crate) const BUFFERED_BYTES: u64 = 1 << 20;

/// Why a file's content cannot go live.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContentError {
    /// The source could not be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Reading failed half way.
    #[error("cannot read {path} from the source")]
    Read {
        /// The file in the destination.
        path: RelPathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A file is not valid JSON although its name ends in `.json`.
    #[error("{path} is not valid JSON: {error}")]
    Syntax {
        /// The file in the destination.
        path: RelPathBuf,
        /// Where it is broken.
        error: JsonError,
    },
    /// The content is a template that cannot be rendered.
    #[error("{path}: {error}")]
    Template {
        /// The file in the destination.
        path: RelPathBuf,
        /// What is wrong.
        error: TemplateError,
    },
    /// A patch or edit does not fit the file.
    #[error("{path}: {error}")]
    Patch {
        /// The file in the destination.
        path: RelPathBuf,
        /// What is wrong.
        error: JsonError,
    },
    /// A template is asked for, but the file is binary.
    #[error("{path} is binary, but its mapping says \"template: true\"; map binary files separately")]
    BinaryTemplate {
        /// The file in the destination.
        path: RelPathBuf,
    },
    /// The file is a Git LFS pointer, not the content.
    #[error("{path} is a Git LFS pointer; the content itself is not in the commit")]
    LfsPointer {
        /// The file in the destination.
        path: RelPathBuf,
    },
    /// The file is larger than allowed.
    #[error("{path} has more than {limit} bytes, the limit for one file")]
    TooLarge {
        /// The file in the destination.
        path: RelPathBuf,
        /// The limit in bytes.
        limit: u64,
    },
}

impl ContentError {
    /// The file it is about.
    #[must_use]
    pub fn path(&self) -> Option<&RelPathBuf> {
        match self {
            Self::Source(_) => None,
            Self::Read { path, .. }
            | Self::Syntax { path, .. }
            | Self::Template { path, .. }
            | Self::Patch { path, .. }
            | Self::BinaryTemplate { path }
            | Self::LfsPointer { path }
            | Self::TooLarge { path, .. } => Some(path),
        }
    }

    /// Where in the file, when that is known.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        match self {
            Self::Syntax { error: JsonError::Syntax { at, .. }, .. } => Some(*at),
            Self::Template { error, .. } => match error {
                TemplateError::Unclosed { at }
                | TemplateError::Expression { at, .. }
                | TemplateError::Unknown { at, .. } => Some(*at),
                TemplateError::TooLarge { .. } => None,
            },
            _ => None,
        }
    }
}

impl Fault for ContentError {
    fn category(&self) -> Category {
        match self {
            Self::Source(error) => error.category(),
            Self::Read { .. } => Category::new("SourceUnreadable"),
            Self::Syntax { .. } => Category::new("ConfigSyntaxError"),
            Self::Template { .. } | Self::BinaryTemplate { .. } => Category::new("TemplateError"),
            Self::Patch { .. } => Category::new("PatchFailed"),
            Self::LfsPointer { .. } => Category::new("UnsupportedEntry"),
            Self::TooLarge { .. } => Category::new("FileTooLarge"),
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Source(error) => error.retry(),
            Self::Read { .. } => Retry::Backoff,
            _ => Retry::AfterChange,
        }
    }
}

/// What is done to one file's content.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Transform {
    pub(crate) template: bool,
    pub(crate) edits: Vec<(JsonPath, Value)>,
}

impl Transform {
    pub(crate) fn is_identity(&self) -> bool {
        !self.template && self.edits.is_empty()
    }

    /// A key that is equal when the same content comes out the same: unchanged files are not rendered again.
    pub(crate) fn key(&self, variables: &Variables) -> [u8; 16] {
        if self.is_identity() {
            return [0; 16];
        }
        let mut hasher = blake3::Hasher::new();
        if self.template {
            hasher.update(&serde_json::to_vec(variables).unwrap_or_default());
        }
        for (path, value) in &self.edits {
            hasher
                .update(path.as_str().as_bytes())
                .update(&[0])
                .update(value.to_string().as_bytes())
                .update(&[0]);
        }
        let mut key = [0; 16];
        key.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        // Zero means "no transform".
        key[0] |= 1;
        key
    }
}

pub(crate) fn is_json(path: RelPath<'_>) -> bool {
    path.file_name().is_some_and(|name| name.ends_with(".json"))
}

/// Reads one content through its transform into `write`, piece by piece; everything is checked on the way.
pub(crate) fn produce(
    path: RelPath<'_>,
    reader: &mut dyn Read,
    size: Option<u64>,
    transform: &Transform,
    variables: &Variables,
    limit: u64,
    write: &mut dyn FnMut(&[u8]) -> std::io::Result<()>,
) -> Result<std::io::Result<()>, ContentError> {
    let too_large = || ContentError::TooLarge { path: path.to_buf(), limit };
    if size.is_some_and(|size| size > limit) {
        return Err(too_large());
    }
    let read_failed = |source| ContentError::Read { path: path.to_buf(), source };
    if transform.is_identity() && !is_json(path) && size.is_none_or(|size| size > BUFFERED_BYTES) {
        let mut buffer = vec![0; 64 << 10];
        let mut total = 0;
        loop {
            let n = reader.read(&mut buffer).map_err(read_failed)?;
            if n == 0 {
                return Ok(Ok(()));
            }
            total += n as u64;
            if total > limit {
                return Err(too_large());
            }
            if let Err(e) = write(&buffer[..n]) {
                return Ok(Err(e));
            }
        }
    }
    let mut content = Vec::with_capacity(size.unwrap_or(0) as usize);
    reader.take(limit + 1).read_to_end(&mut content).map_err(read_failed)?;
    if content.len() as u64 > limit {
        return Err(too_large());
    }
    if content.starts_with(LFS_MARK) && content.len() < 1024 {
        return Err(ContentError::LfsPointer { path: path.to_buf() });
    }
    let content = apply(path, content, transform, variables, limit)?;
    if is_json(path) {
        json::check(&content).map_err(|error| ContentError::Syntax { path: path.to_buf(), error })?;
    }
    Ok(write(&content))
}

fn apply(
    path: RelPath<'_>,
    content: Vec<u8>,
    transform: &Transform,
    variables: &Variables,
    limit: u64,
) -> Result<Vec<u8>, ContentError> {
    if transform.is_identity() {
        return Ok(content);
    }
    let binary = |_| ContentError::BinaryTemplate { path: path.to_buf() };
    let mut text = String::from_utf8(content).map_err(binary)?;
    if transform.template {
        if text.contains('\0') {
            return Err(ContentError::BinaryTemplate { path: path.to_buf() });
        }
        let render = |text: &str| {
            Template::parse(text)?.render(variables, usize::try_from(limit).unwrap_or(usize::MAX))
        };
        text = render(&text).map_err(|error| ContentError::Template { path: path.to_buf(), error })?;
    }
    for (at, value) in &transform.edits {
        text = json::set(&text, at, value).map_err(|error| match error {
            JsonError::Syntax { .. } => ContentError::Syntax { path: path.to_buf(), error },
            error => ContentError::Patch { path: path.to_buf(), error },
        })?;
        if text.len() as u64 > limit {
            return Err(ContentError::TooLarge { path: path.to_buf(), limit });
        }
    }
    Ok(text.into_bytes())
}
