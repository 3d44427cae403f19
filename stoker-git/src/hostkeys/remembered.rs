//! Keys of hosts that were trusted when they were first seen.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::KnownHosts;
use crate::error::GitError;

/// More than a file has that only we write.
const MAX_BYTES: u64 = 1 << 20;

/// The lines of the file; none if it does not exist yet.
pub(crate) fn read(file: &Path) -> Result<String, GitError> {
    match File::open(file) {
        Ok(mut open) => content(file, &mut open),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(e) => Err(cannot(file, "read", &e)),
    }
}

/// Adds the line of a key, unless a key of that host came in meanwhile: then that one decides.
pub(crate) fn add(file: &Path, host: &str, port: u16, line: &str) -> Result<(), GitError> {
    let failed = |e: std::io::Error| cannot(file, "write", &e);
    let mut open =
        OpenOptions::new().create(true).read(true).append(true).mode(0o600).open(file).map_err(failed)?;
    flock(&open, FlockOperation::LockExclusive).map_err(|e| failed(e.into()))?;
    let text = content(file, &mut open)?;
    if KnownHosts::parse(&text).keys_of(host, port).next().is_some() {
        return Ok(());
    }
    // A file that somebody edited may lack its last line end.
    let gap = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    open.write_all(format!("{gap}{line}\n").as_bytes()).and_then(|()| open.sync_all()).map_err(failed)
}

fn content(file: &Path, open: &mut File) -> Result<String, GitError> {
    let mut text = String::new();
    open.take(MAX_BYTES).read_to_string(&mut text).map_err(|e| cannot(file, "read", &e))?;
    Ok(text)
}

fn cannot(file: &Path, what: &str, error: &std::io::Error) -> GitError {
    let file = file.display();
    GitError::CredentialInvalid {
        detail: format!("cannot {what} the file of remembered host keys {file}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_key_of_a_host_stays() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("known_hosts");
        assert_eq!(read(&file).unwrap(), "");
        let builtin = KnownHosts::builtin();
        let keys: Vec<_> = builtin.keys_of("github.com", 22).collect();
        let line = |at: usize, port| keys[at].known_hosts_line("h", port);
        std::fs::write(&file, "# mine").unwrap();
        add(&file, "h", 22, &line(0, 22)).unwrap();
        add(&file, "h", 22, &line(1, 22)).unwrap();
        add(&file, "h", 2222, &line(1, 2222)).unwrap();
        assert_eq!(read(&file).unwrap(), format!("# mine\n{}\n{}\n", line(0, 22), line(1, 2222)));
        let nowhere = dir.path().join("no/such/folder");
        let error = add(&nowhere, "h", 22, &line(0, 22)).unwrap_err().to_string();
        assert!(error.contains("remembered host keys") && error.contains("No such file"), "{error}");
    }
}
