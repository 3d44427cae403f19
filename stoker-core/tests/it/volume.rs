//! Volumes of one's own: a test runs itself again inside a mount namespace that holds one.

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

/// Where the volume is mounted, in the process inside.
const INSIDE: &str = "STOKER_TEST_VOLUME";
/// Where tests that were left out are written down; see `cargo xtask test`.
const SKIPS: &str = "STOKER_TEST_SKIPS";

/// What to mount.
pub(crate) enum Volume {
    /// A tmpfs with these options.
    Memory(&'static str),
    /// ext4 in a file of 16 MiB, which turns read-only at the first error.
    Ext4,
}

/// The mounted volume for the process inside; `None` for the one outside, which has run it and seen it succeed, or has
/// left the test out with a clear word.
pub(crate) fn on(volume: &Volume, test: &str) -> Option<PathBuf> {
    if let Some(inside) = std::env::var_os(INSIDE) {
        return Some(inside.into());
    }
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path().join("volume");
    std::fs::create_dir(&at).unwrap();
    let mount = match volume {
        Volume::Memory(options) => format!("mount -t tmpfs -o {options} stoker \"$0\""),
        Volume::Ext4 => "truncate -s 16M \"$0.img\" && mkfs.ext4 -q -m 0 \"$0.img\" && mount -o loop,errors=remount-ro \"$0.img\" \"$0\"".to_owned(),
    };
    let is_root = rustix::process::geteuid().is_root();
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(if is_root { &["-m"][..] } else { &["-Urm"][..] }).args(["sh", "-c"]);
        command
    };
    let tried = unshare().arg(&mount).arg(&at).output();
    if !tried.as_ref().is_ok_and(|out| out.status.success()) {
        let why = tried
            .map_or_else(|e| e.to_string(), |out| String::from_utf8_lossy(&out.stderr).trim().to_owned());
        let reason = format!("needs a mount namespace with a volume of its own: {why}");
        eprintln!("left out: {test}: {reason}");
        if let Some(list) = std::env::var_os(SKIPS) {
            let mut list = std::fs::OpenOptions::new().append(true).create(true).open(list).unwrap();
            writeln!(list, "{test}\t{reason}").unwrap();
        }
        return None;
    }
    let out = unshare()
        .arg(format!("{mount} && exec \"$1\" --exact \"$2\" --nocapture"))
        .arg(&at)
        .arg(std::env::current_exe().unwrap())
        .arg(test)
        .env(INSIDE, &at)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && said.contains("1 passed"), "{said}");
    None
}
