//! What a child may use up, and when it ends.

use std::io::Read;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::EXIT_ORPHANED;
use super::message::Request;

/// After its deadline a child ends itself, should its parent have been stopped: a little later than the parent would
/// have ended it, so that the parent's account of it is the one that is told.
const GRACE: Duration = Duration::from_secs(2);
/// What the watching threads need.
const STACK_BYTES: usize = 64 << 10;

/// No core dump, no debugger of the same user: the memory holds a credential.
pub(super) fn hide_secrets() {
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
}

/// Bounds the memory.
pub(super) fn bound(request: &Request) {
    let bytes = request.limits.child_memory_bytes;
    if bytes == 0 {
        return;
    }
    let maximum = getrlimit(Resource::As).maximum;
    let bytes = maximum.map_or(bytes, |maximum| bytes.min(maximum));
    let _ = setrlimit(Resource::As, Rlimit { current: Some(bytes), maximum: Some(bytes) });
}

/// Ends this process when its parent does (the pipe to it closes then) or when its time is over.
pub(super) fn end_with_parent(request: &Request) {
    let deadline = request.deadline + GRACE;
    let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
        let _ = std::thread::Builder::new().name(name.to_owned()).stack_size(STACK_BYTES).spawn(run);
    };
    spawn(
        "parent",
        Box::new(|| {
            let mut rest = [0; 64];
            while std::io::stdin().lock().read(&mut rest).is_ok_and(|length| length > 0) {}
            std::process::exit(EXIT_ORPHANED);
        }),
    );
    spawn(
        "deadline",
        Box::new(move || {
            std::thread::sleep(deadline);
            std::process::exit(EXIT_ORPHANED);
        }),
    );
}
