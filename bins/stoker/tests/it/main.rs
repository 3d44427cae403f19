//! The program as people run it: exit codes, standard output, standard error.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a step that fails is the failure of its test")]

mod bench;
mod misuse;
mod sync;
mod validate;
