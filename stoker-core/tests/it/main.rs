//! What the engine promises, on real directories.

mod crash;
mod guards;
mod history;
mod model;
mod sync;
mod world;
