//! The Stoker command line.

fn main() {}
