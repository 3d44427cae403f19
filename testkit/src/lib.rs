//! The real parts that tests run on.
