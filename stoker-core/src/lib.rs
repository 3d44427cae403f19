//! A crash-safe, journalled, three-way directory sync engine.
#![forbid(unsafe_code)]
