//! What is read from the disk is read as a whole or not at all, and is written as it was read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stoker_core::fuzz;

fuzz_target!(|bytes: &[u8]| {
    fuzz::manifest(bytes);
    fuzz::journal(bytes);
    fuzz::sealed(bytes);
});
