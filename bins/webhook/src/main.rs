//! The Stoker pod injection webhook.

fn main() {}
