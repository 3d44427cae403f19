//! Options of libgit2 that hold for the whole process: the one module with `unsafe`.
//!
//! libgit2 keeps them in globals without a lock, so they may be set only while nothing else uses libgit2. Every entry
//! into libgit2 from this crate calls [`set_up`] first, and [`Once`] makes any second caller wait until the first is done.

use std::sync::Once;

use git2::ConfigLevel;

/// A file is mapped in windows of this size.
const WINDOW_BYTES: usize = 1 << 20;
/// All windows together.
const MAPPED_BYTES: usize = 2 << 20;

/// Sets the options, once.
pub(crate) fn set_up() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // No configuration of the machine or user leaks in: `url.insteadOf`, proxies, object alternates.
        for level in [ConfigLevel::System, ConfigLevel::Global, ConfigLevel::XDG, ConfigLevel::ProgramData] {
            // SAFETY: nothing of this crate uses libgit2 before this function returns.
            #[allow(unsafe_code)]
            let _ = unsafe { git2::opts::set_search_path(level, "") };
        }
        // SAFETY: as above.
        #[allow(unsafe_code)]
        unsafe {
            let _ = git2::opts::set_mwindow_size(WINDOW_BYTES);
            let _ = git2::opts::set_mwindow_mapped_limit(MAPPED_BYTES);
        }
        // Directories are kept parsed by `CommitSource`, or read once. What libgit2 would keep of 50,000 small ones are 10 MB.
        git2::opts::enable_caching(false);
        // What is read is what was hashed: the default, made certain.
        git2::opts::strict_hash_verification(true);
    });
}

/// Opens repositories of other users too: for the child process, which runs neither their hooks nor their filters.
pub(crate) fn trust_foreign_owners() {
    static ONCE: Once = Once::new();
    set_up();
    ONCE.call_once(|| {
        // SAFETY: the child process has one thread that uses libgit2.
        #[allow(unsafe_code)]
        let _ = unsafe { git2::opts::set_verify_owner_validation(false) };
    });
}
