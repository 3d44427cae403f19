//! Keeps one directory in step with another: `sync_directory FROM TO REVISION`.

use stoker_core::{DirectorySource, Engine, Mapping, NoObserver, PlanOptions, SyncSpec};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [from, to, revision] = arguments.as_slice() else {
        return Err("usage: sync_directory FROM TO REVISION".into());
    };
    let everything = Mapping { source: ".".into(), destination: ".".into(), ..Mapping::default() };
    let spec = SyncSpec { mappings: vec![everything], excludes: vec!["logs/".into()], ..SyncSpec::default() };
    let source = DirectorySource::open(from)?;
    let engine = Engine::open(to)?;
    let session = engine.begin(true)?;
    let plan = session.plan(
        &source,
        revision,
        &spec,
        &PlanOptions { check_drift: true, ..PlanOptions::default() },
    )?;
    for action in &plan.actions {
        println!("{:9} {}  ({})", action.kind, action.path, action.reason);
    }
    let applied = session.apply(plan, &source, &spec, &mut NoObserver)?;
    println!(
        "{} added, {} modified, {} deleted",
        applied.counts.added, applied.counts.modified, applied.counts.deleted
    );
    Ok(())
}
