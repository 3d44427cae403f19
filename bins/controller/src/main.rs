//! The Stoker controller.

fn main() {}
