//! What Stoker costs, measured on the programs that ship and on the real parts of the testkit.
//!
//! `cargo xtask bench` runs these. Each prints its figures as one JSON object a line on standard output, for programs,
//! and as a table on standard error, for people. A figure may carry a bound; one that breaks it fails the run.
//!
//! An absolute time says something about the machine. Where a peer does the same work it is measured in the same run,
//! and the figure is the ratio.

pub mod engine;
pub mod figure;
pub mod git;
pub mod idle;
pub mod process;
pub mod tree;

pub use figure::{Bound, Figure, Report};
