//! The Stoker sidecar agent.

fn main() {}
