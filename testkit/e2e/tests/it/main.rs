//! The whole product on a real node.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy.toml allows it in tests, but does not see what tests call"
)]

mod life;
