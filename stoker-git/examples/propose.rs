//! Puts one file on a branch: `cargo run -p stoker-git --example propose -- URL BASE BRANCH PATH FILE CACHE-DIR`.

use std::error::Error;
use std::time::{SystemTime, UNIX_EPOCH};

use stoker_core::RelPathBuf;
use stoker_git::{
    Access, Cache, Change, ChildCommand, Edit, Git, Lease, Person, Proposal, RefName, Remote, RemoteUrl,
};

fn main() -> Result<(), Box<dyn Error>> {
    stoker_git::child::run_if_child();

    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, base, branch, path, file, cache] = arguments.as_slice() else {
        return Err("usage: propose URL BASE BRANCH PATH FILE CACHE-DIR".into());
    };
    let git = Git::new(ChildCommand::current_exe());
    let remote = Remote::new(RemoteUrl::parse_allowing_insecure(url)?, Access::default());
    let base = git.resolve_blocking(&remote, &base.parse()?)?.commit;
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs().try_into()?;
    let me =
        Person { name: "Example".into(), email: "example@plant.example".into(), seconds, offset_minutes: 0 };
    let change = Change::Write { content: std::fs::read(file)?, executable: false };
    let proposal = Proposal {
        base,
        edits: vec![Edit { path: RelPathBuf::parse(path)?, change }],
        author: me.clone(),
        committer: me,
        message: format!("Change {path}"),
        trailers: Vec::new(),
        branch: RefName::parse(branch)?,
        lease: Lease::Absent,
    };
    let pushed = git.push_blocking(&remote, &Cache::new(cache), &proposal)?;
    println!("{branch} is at {}, {} bytes sent", pushed.commit, pushed.sent_bytes);
    Ok(())
}
