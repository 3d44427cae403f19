//! Fetches one commit and lists its files: `cargo run -p stoker-git --example fetch -- URL REF CACHE-DIR`.

use std::error::Error;

use stoker_core::{EntryKind, RelPath, Source};
use stoker_git::{Access, Cache, ChildCommand, CommitSource, Git, RefSpec, Remote, RemoteUrl, Wanted};

fn main() -> Result<(), Box<dyn Error>> {
    // The same program serves as the child that talks to the server.
    stoker_git::child::run_if_child();

    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, reference, cache] = arguments.as_slice() else {
        return Err("usage: fetch URL REF CACHE-DIR".into());
    };
    let git = Git::new(ChildCommand::current_exe());
    let remote = Remote::new(RemoteUrl::parse_allowing_insecure(url)?, Access::default());
    let wanted: RefSpec = reference.parse()?;

    let resolved = git.resolve_blocking(&remote, &wanted)?;
    for warning in &resolved.warnings {
        eprintln!("warning: {warning}");
    }
    let fetched = git.fetch_blocking(&remote, &Cache::new(cache), &Wanted::from(&resolved))?;
    let info = fetched.source.info();
    println!("{} {:?} by {:?}", info.id.short(), info.subject, info.author.name);
    println!("{} bytes transferred", fetched.report.transferred_bytes);
    list(&fetched.source, RelPath::ROOT)
}

fn list(source: &CommitSource, directory: RelPath<'_>) -> Result<(), Box<dyn Error>> {
    for named in source.list(directory)? {
        let path = directory.child(&String::from_utf8(named.name)?)?;
        match named.entry.kind {
            EntryKind::Directory => list(source, path.as_path())?,
            kind => println!("{:>10} {kind:?} {path}", named.entry.size.unwrap_or_default()),
        }
    }
    Ok(())
}
