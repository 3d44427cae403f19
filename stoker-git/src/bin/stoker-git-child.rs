//! The child process of stoker-git as a program of its own.
//!
//! For programs that cannot call `stoker_git::child::run_if_child` in their `main` (a test harness, a plugin): they name
//! this one with `ChildCommand::executable`.

use std::process::ExitCode;

fn main() -> ExitCode {
    stoker_git::child::run_if_child();
    eprintln!(
        "stoker-git-child is started by programs that use the stoker-git library; it does nothing on its own"
    );
    ExitCode::from(2)
}
