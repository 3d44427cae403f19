//! System calls, read from what strace wrote.

use std::path::Path;

use anyhow::{Context, Result};

/// Calls that change something, on the disk or in a directory.
const WRITING: [&str; 24] = [
    "write",
    "pwrite64",
    "writev",
    "sendfile",
    "copy_file_range",
    "rename",
    "renameat",
    "renameat2",
    "link",
    "linkat",
    "symlinkat",
    "unlink",
    "unlinkat",
    "mkdir",
    "mkdirat",
    "fsync",
    "fdatasync",
    "sync_file_range",
    "syncfs",
    "fchmod",
    "fchmodat",
    "fchown",
    "fchownat",
    "ftruncate",
];

/// What a process did to a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Calls {
    /// Files of the directory that were opened, the engine's own left out.
    pub(super) opened: u64,
    /// Calls that write, openings for writing included; standard output left out.
    pub(super) writing: u64,
}

impl Calls {
    /// Reads a trace of `strace -f -y`.
    pub(super) fn read(trace: &Path, data: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(trace).with_context(|| format!("reading {}", trace.display()))?;
        let data = data.to_str().context("the folder is UTF-8")?;
        let mut calls = Self::default();
        for line in text.lines() {
            calls.add(line, data);
        }
        Ok(calls)
    }

    fn add(&mut self, line: &str, data: &str) {
        // `<pid> name(arguments) = result`
        let Some((_, rest)) = line.split_once(' ') else { return };
        let Some((name, arguments)) = rest.trim_start().split_once('(') else { return };
        // Every descriptor is followed by its path: `5</data/a>`.
        let inside = arguments.contains(&format!("<{data}/")) || arguments.contains(&format!("<{data}>"));
        if rest.contains(" = -1 ") || !inside {
            return;
        }
        if name.starts_with("open") {
            let creates = arguments.contains("O_WRONLY") || arguments.contains("O_RDWR");
            self.writing += u64::from(creates);
            let directory = arguments.contains("O_DIRECTORY") || arguments.contains("O_PATH");
            let own = arguments.contains("/.stoker");
            self.opened += u64::from(!directory && !own && !creates);
        } else if WRITING.contains(&name) {
            self.writing += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_strace_are_told_apart() {
        let mut calls = Calls::default();
        for line in [
            "12 openat(4</d/projects>, \"\", O_RDONLY|O_DIRECTORY) = 5</d/projects/a>",
            "12 openat(4</d/projects>, \"\"..., O_RDONLY|O_CLOEXEC) = 5</d/projects/a.json>",
            "12 openat2(4</d/.stoker>, \"\"..., {flags=O_RDONLY}) = 5</d/.stoker/manifest>",
            "12 openat(4</d/.stoker/stage>, \"\"..., O_WRONLY|O_CREAT, 0600) = 5</d/.stoker/stage/0>",
            "12 write(5</d/.stoker/stage/0>, \"\"..., 12) = 12",
            "12 write(1</dev/null>, \"\"..., 12) = 12",
            "12 renameat2(5</d/.stoker/stage>, \"\"..., 6</d/x>, \"\"..., RENAME_NOREPLACE) = -1 EEXIST (File exists)",
            "12 renameat2(5</d/.stoker/stage>, \"\"..., 6</d/x>, \"\"..., RENAME_EXCHANGE) = 0",
        ] {
            calls.add(line, "/d");
        }
        assert_eq!(calls, Calls { opened: 1, writing: 3 });
    }
}
