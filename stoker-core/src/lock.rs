//! The lock on a destination: whoever plans and applies holds it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::state::StateDir;

/// How often a lock that somebody else holds is tried again.
const EVERY: Duration = Duration::from_millis(50);

/// The lock; released when dropped, and by the kernel when the process ends.
#[derive(Debug)]
pub(crate) struct StateLock {
    file: OwnedFd,
}

impl Drop for StateLock {
    /// Unlocks by word, not by closing: a child process that is being forked right now still holds a duplicate.
    fn drop(&mut self) {
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}

impl StateLock {
    /// Takes the lock, trying for as long as `patience`; when it is in vain, says who holds it.
    pub(crate) fn take(state: &StateDir, patience: Duration) -> io::Result<Result<Self, String>> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(state.fd(), "lock", flags, Mode::RUSR | Mode::WUSR)?;
        let began = Instant::now();
        loop {
            let tried = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
            match tried {
                Ok(()) => return Ok(Ok(Self { file })),
                Err(Errno::INTR) => continue,
                Err(Errno::WOULDBLOCK) => {}
                Err(e) => return Err(e.into()),
            }
            let left = patience.saturating_sub(began.elapsed());
            if left.is_zero() {
                let inode = rustix::fs::fstat(file.as_fd())?.st_ino;
                return Ok(Err(holder(&std::fs::read_to_string("/proc/locks").unwrap_or_default(), inode)));
            }
            std::thread::sleep(EVERY.min(left));
        }
    }
}

/// Who holds the lock, as far as can be told from here.
fn holder(locks: &str, inode: u64) -> String {
    // The kernel shows the locks of processes that are visible from here, by `device:inode`.
    let of_the_file = |line: &&str| {
        let mut fields = line.split_whitespace();
        fields.nth(1) == Some("FLOCK")
            && fields.nth(3).and_then(|file| file.rsplit(':').next()?.parse().ok()) == Some(inode)
    };
    let pid = locks
        .lines()
        .find(of_the_file)
        .and_then(|line| line.split_whitespace().nth(4)?.parse::<u32>().ok())
        .filter(|pid| *pid > 0);
    let Some(pid) = pid else {
        return "a process in another container or on another machine".to_owned();
    };
    match std::fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => format!("process {pid} ({})", name.trim()),
        Err(_) => format!("process {pid}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_is_named_or_said_to_be_elsewhere() {
        let locks = "1: POSIX  ADVISORY  WRITE 11 fe:00:7 0 EOF\n2: FLOCK  ADVISORY  WRITE 4194305 fe:00:7 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 0 fe:00:8 0 EOF\n";
        let elsewhere = "a process in another container or on another machine";
        assert_eq!(holder(locks, 7), "process 4194305");
        assert_eq!(holder(locks, 8), elsewhere);
        assert_eq!(holder(locks, 77), elsewhere);
        assert_eq!(holder("", 7), elsewhere);
    }
}
