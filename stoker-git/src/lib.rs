//! Exact git commits, fetched safely, as a source for stoker-core.
