//! The API key: read anew for every request, shown to nobody.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use reqwest::header::HeaderValue;
use stoker_core::{Category, Fault, Retry};
use tokio::io::AsyncReadExt;

/// The longest key file that is read, in bytes.
const MAX_KEY_BYTES: usize = 4096;

/// Reads a key file. Links are followed: the files of a Secret volume are links to regular files.
async fn read(path: &Path) -> io::Result<Vec<u8>> {
    // Looked at before it is opened: opening a pipe waits for a writer.
    if !tokio::fs::metadata(path).await?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut content = Vec::new();
    let file = tokio::fs::File::open(path).await?;
    // One byte more tells a file that is too long; a device without end is never read to it.
    file.take(MAX_KEY_BYTES as u64 + 1).read_to_end(&mut content).await?;
    Ok(content)
}

/// Where the API key comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiKeySource {
    /// No key: only the calls that need none will work.
    None,
    /// A file with `name:secret`, read at every request, so that a rotated Secret is picked up by itself.
    File(PathBuf),
}

/// Why there is no usable API key. Never quotes the key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The file cannot be read.
    #[error("API key file {} cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The file holds something else than a key.
    #[error("API key file {} {rule}; it must hold the whole \"name:secret\" text that the gateway shows once", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        rule: &'static str,
    },
}

impl Fault for KeyError {
    fn category(&self) -> Category {
        match self {
            Self::Unreadable { .. } => Category::new("ApiKeyUnreadable"),
            Self::Malformed { .. } => Category::new("ApiKeyInvalid"),
        }
    }

    /// Both pass when the Secret is mounted or corrected; the file is read again anyway.
    fn retry(&self) -> Retry {
        Retry::Backoff
    }
}

impl ApiKeySource {
    /// A key in a file.
    #[must_use]
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::File(path.into())
    }

    /// The key as it stands now, as a header value that formats as "Sensitive".
    pub(super) async fn header(&self) -> Result<Option<HeaderValue>, KeyError> {
        match self {
            Self::None => Ok(None),
            Self::File(path) => {
                let content =
                    read(path).await.map_err(|source| KeyError::Unreadable { path: path.clone(), source })?;
                parse(path, &content).map(Some)
            }
        }
    }
}

fn parse(path: &Path, content: &[u8]) -> Result<HeaderValue, KeyError> {
    let malformed = |rule| KeyError::Malformed { path: path.to_owned(), rule };
    if content.len() > MAX_KEY_BYTES {
        return Err(malformed("is longer than 4096 bytes"));
    }
    let key = content.trim_ascii();
    if key.is_empty() {
        return Err(malformed("is empty"));
    }
    if !key.iter().all(u8::is_ascii_graphic) {
        return Err(malformed("contains white space or other characters that no key has"));
    }
    match key.iter().position(|&b| b == b':') {
        None => return Err(malformed("has no colon")),
        Some(0) => return Err(malformed("has no name before the colon")),
        Some(i) if i + 1 == key.len() => return Err(malformed("has no secret after the colon")),
        Some(_) => {}
    }
    let mut value = HeaderValue::from_bytes(key).map_err(|_| malformed("cannot be sent in a header"))?;
    value.set_sensitive(true);
    Ok(value)
}

impl fmt::Display for ApiKeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("no API key"),
            Self::File(path) => write!(f, "API key file {}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_name_and_a_secret_and_never_shows() {
        let path = Path::new("/key");
        let key = parse(path, b" ci:s3cret\n").unwrap();
        assert_eq!(key.as_bytes(), b"ci:s3cret");
        assert!(!format!("{key:?}").contains("s3cret"));
        for bad in ["", "\n", "s3cret", ":s3cret", "ci:", "ci: s3cret", "ci:s3\ncret", "ci:s\u{e9}cret"] {
            let error = parse(path, bad.as_bytes()).expect_err(bad);
            let text = format!("{error} {error:?}");
            assert!(text.contains("/key") && !text.contains("s3cret"), "{text}");
        }
        assert!(parse(path, &[b'a'; 5000]).is_err());
    }

    #[tokio::test]
    async fn only_a_short_regular_file_is_read_also_behind_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("..data"), "ci:s3cret").unwrap();
        std::os::unix::fs::symlink("..data", at("key")).unwrap();
        assert!(ApiKeySource::file(at("key")).header().await.unwrap().is_some());
        std::fs::write(at("long"), vec![b'a'; 1 << 20]).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
        for (path, category, words) in [
            (at("long"), "ApiKeyInvalid", "longer than 4096 bytes"),
            (at("pipe"), "ApiKeyUnreadable", "not a regular file"),
            ("/dev/zero".into(), "ApiKeyUnreadable", "not a regular file"),
            (folder.path().to_owned(), "ApiKeyUnreadable", "not a regular file"),
            (at("missing"), "ApiKeyUnreadable", "missing"),
        ] {
            let error = ApiKeySource::file(&path).header().await.expect_err(words);
            let text = stoker_core::chain(&error);
            assert_eq!(error.category().as_str(), category, "{text}");
            assert!(text.contains(words) && text.contains(path.to_str().unwrap()), "{text}");
        }
    }
}
