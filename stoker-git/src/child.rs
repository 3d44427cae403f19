//! The process that talks to git servers.
//!
//! Parsing what a stranger sends, in C for a good part, is not done in the process that looks after a gateway. It is
//! done in a child: the same program, started with one hidden argument. What it needs, secrets included, comes over its
//! standard input; its answer goes over its standard output. It cannot outlive its parent, its deadline or its memory.
//!
//! ```no_run
//! fn main() {
//!     // First of all, before any thread, runtime or argument parser.
//!     stoker_git::child::run_if_child();
//!     // ... the program ...
//! }
//! ```

pub(crate) mod message;
mod perform;
mod sandbox;

use std::ffi::OsString;
use std::io::{BufRead, Read, Write};
use std::path::PathBuf;

use message::{Answer, Request};

use crate::error::GitError;

/// The hidden argument.
const CHILD_ARGUMENT: &str = "__stoker-git-child";
/// Exit code of a child that lost its parent.
const EXIT_ORPHANED: i32 = 70;
/// Exit code of a child that was not asked properly.
const EXIT_USAGE: i32 = 64;
/// A request is a URL, a credential and a CA bundle.
const MAX_REQUEST_BYTES: u64 = 8 << 20;

/// How the child process is started.
///
/// The program must call [`run_if_child`] first in its `main`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildCommand {
    how: How,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum How {
    Program(PathBuf),
    #[cfg(feature = "in-process")]
    InProcess,
}

impl ChildCommand {
    /// The program that runs now.
    #[must_use]
    pub fn current_exe() -> Self {
        // The link also works after the file was replaced by an update or removed.
        let own = PathBuf::from("/proc/self/exe");
        let program = if own.exists() { own } else { std::env::current_exe().unwrap_or(own) };
        Self::executable(program)
    }

    /// Another program.
    #[must_use]
    pub fn executable(program: impl Into<PathBuf>) -> Self {
        Self { how: How::Program(program.into()) }
    }

    /// No child at all: the work is done in this process, on a thread. For test harnesses, whose `main` is not theirs.
    ///
    /// There is no memory bound then, and work whose deadline passed goes on in the background until its own timeouts.
    #[cfg(feature = "in-process")]
    #[must_use]
    pub fn in_process() -> Self {
        Self { how: How::InProcess }
    }

    /// The program and its arguments; `None` for this very process.
    pub(crate) fn command(&self) -> Option<(PathBuf, Vec<OsString>)> {
        match &self.how {
            How::Program(program) => Some((program.clone(), vec![CHILD_ARGUMENT.into()])),
            #[cfg(feature = "in-process")]
            How::InProcess => None,
        }
    }
}

/// Serves one request and ends the process, if this process was started as a child; else does nothing.
///
/// Call it first in `main`.
pub fn run_if_child() {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == CHILD_ARGUMENT) {
        std::process::exit(run());
    }
}

fn run() -> i32 {
    sandbox::hide_secrets();
    let mut line = zeroize::Zeroizing::new(Vec::new());
    // Through the one buffer that standard input has: contents follow, and then the rest of the pipe is the parent's sign
    // of life.
    let mut input = std::io::stdin().lock();
    let read = (&mut input).take(MAX_REQUEST_BYTES).read_until(b'\n', &mut line);
    if read.is_err() || !line.ends_with(b"\n") {
        return EXIT_ORPHANED;
    }
    let Ok(request) = serde_json::from_slice::<Request>(&line) else {
        return EXIT_USAGE;
    };
    drop(line);
    sandbox::bound(&request);
    let Ok(contents) = contents(&request, &mut input) else { return EXIT_ORPHANED };
    drop(input);
    sandbox::end_with_parent(&request);
    let answer = answer(&request, contents);
    let Ok(mut text) = serde_json::to_vec(&answer) else { return EXIT_USAGE };
    text.push(b'\n');
    let mut out = std::io::stdout().lock();
    match out.write_all(&text).and_then(|()| out.flush()) {
        Ok(()) => 0,
        Err(_) => EXIT_ORPHANED,
    }
}

/// Reads the contents that follow a request.
fn contents(request: &Request, input: &mut dyn Read) -> std::io::Result<Vec<Vec<u8>>> {
    let read = |length: &u64| {
        let mut content = Vec::new();
        let read = (&mut *input).take(*length).read_to_end(&mut content)?;
        if read as u64 == *length { Ok(content) } else { Err(std::io::ErrorKind::UnexpectedEof.into()) }
    };
    request.lengths().iter().map(read).collect()
}

/// Does what is asked. A panic is an answer too.
pub(crate) fn answer(request: &Request, contents: Vec<Vec<u8>>) -> Answer {
    let done = std::panic::catch_unwind(|| perform::perform(request, contents));
    match done {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => Answer::Failed(error),
        Err(_) => Answer::Failed(GitError::ChildFailed { detail: "it panicked".to_owned() }),
    }
}
