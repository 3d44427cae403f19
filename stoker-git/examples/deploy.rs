//! A git commit into a directory that belongs to somebody else, whose own paths are never touched:
//! `cargo run -p stoker-git --example deploy -- URL REF CACHE-DIR SOURCE DIRECTORY`.

use std::error::Error;

use stoker_core::{Engine, Mapping, NoObserver, PlanOptions, SyncSpec};
use stoker_git::{Access, Cache, ChildCommand, Git, Remote, RemoteUrl, Wanted};

fn main() -> Result<(), Box<dyn Error>> {
    // The same program serves as the child that talks to the server.
    stoker_git::child::run_if_child();

    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, reference, cache, source, directory] = arguments.as_slice() else {
        return Err("usage: deploy URL REF CACHE-DIR SOURCE DIRECTORY".into());
    };
    let git = Git::new(ChildCommand::current_exe());
    let remote = Remote::new(RemoteUrl::parse_allowing_insecure(url)?, Access::default());
    let resolved = git.resolve_blocking(&remote, &reference.parse()?)?;
    let fetched = git.fetch_blocking(&remote, &Cache::new(cache), &Wanted::from(&resolved))?;

    let spec = SyncSpec::new()
        .map(Mapping::new(source, ".").required())
        .protect("/uploads/", "belongs to the users")
        .protect("*.sqlite*", "the program's database");
    let engine = Engine::open(directory)?;
    let session = engine.begin(true)?;
    let commit = resolved.commit.to_string();
    let plan = session.plan(&fetched.source, &commit, &spec, &PlanOptions::default())?;
    plan.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    print!("{plan}");
    session.apply(plan, &fetched.source, &spec, &mut NoObserver)?;
    Ok(())
}
