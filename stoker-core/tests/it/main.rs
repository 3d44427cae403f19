//! What the engine promises, on real directories.
#![allow(clippy::unwrap_used, clippy::panic)]

mod archive;
mod damage;
mod faults;
mod guards;
mod history;
mod policy;
mod reader;
mod sync;
mod volume;
mod world;
