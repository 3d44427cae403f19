use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use stoker_testkit::leash::Leash;
use stoker_testkit::wait;

const OWNER: &str = "STOKER_TEST_LEASH_OWNER";

/// Not a test by itself: the process that the next test kills.
#[test]
fn owner_for_the_next_test() {
    if std::env::var_os(OWNER).is_none() {
        return;
    }
    let leash = Leash::new("owner").unwrap();
    let server = leash.spawn("server", Command::new("sleep").arg("1000")).unwrap();
    eprintln!("owner\t{}\t{}", server.pid(), leash.folder().display());
    let _ = std::io::stdin().read_line(&mut String::new());
}

#[tokio::test]
async fn servers_and_files_are_gone_when_their_owner_is_killed() {
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "leash::owner_for_the_next_test", "--nocapture"])
        .env(OWNER, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let line = BufReader::new(owner.stderr.take().unwrap())
        .lines()
        .map(Result::unwrap)
        .find(|line| line.starts_with("owner\t"))
        .unwrap();
    let mut fields = line.split('\t').skip(1);
    let server = PathBuf::from("/proc").join(fields.next().unwrap());
    let folder = PathBuf::from(fields.next().unwrap());
    assert!(server.exists() && folder.exists());

    owner.kill().unwrap();
    owner.wait().unwrap();

    wait::until_true("the server and the folder to vanish", Duration::from_secs(10), || async {
        Ok(!server.exists() && !folder.exists())
    })
    .await
    .unwrap();
}

#[test]
fn a_dropped_leash_has_ended_everything_when_drop_returns() {
    let leash = Leash::new("drop").unwrap();
    let folder = leash.folder().to_owned();
    // The shell's child is no child of ours: only the group reaches it.
    let mut server = leash.spawn("server", Command::new("sh").args(["-c", "sleep 1000 & wait"])).unwrap();
    assert!(server.exited().unwrap().is_none());
    drop(leash);
    assert!(!folder.exists());
    assert!(server.exited().unwrap().is_some());
}
