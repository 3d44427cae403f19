//! The whole product on a real node: injection by the kubelet's own doing, pushes from a real forge, restarts, upgrades.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy.toml allows it in tests, but does not see what tests call"
)]

mod bed;
mod examples;
mod pushes;
mod release;
mod restarts;
