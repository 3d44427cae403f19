//! Keeps one directory in step with another: `sync_directory FROM TO REVISION`.

use stoker_core::{DirectorySource, Engine, Mapping, SyncSpec};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [from, to, revision] = arguments.as_slice() else {
        return Err("usage: sync_directory FROM TO REVISION".into());
    };
    let spec = SyncSpec::new().map(Mapping::new(".", ".")).exclude("logs/");
    let applied = Engine::open(to)?.sync(&DirectorySource::open(from)?, revision, &spec)?;
    for path in &applied.changed {
        println!("{path}");
    }
    let counts = applied.counts;
    println!("{} added, {} modified, {} deleted", counts.added, counts.modified, counts.deleted);
    Ok(())
}
