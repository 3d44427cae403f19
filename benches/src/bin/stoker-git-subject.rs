//! A follower of a git repository, in a process of its own, so that its time and its memory are its own.
//!
//! `stoker-git-subject poll URL REF` asks once. `stoker-git-subject follow URL REF CACHE FILE` looks up the ref, fetches the
//! commit and reads the file, once for each line on standard input. Both print what each round took.

use std::io::{BufRead, Read, Write};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use stoker_benches::git::subject::Round;
use stoker_benches::process::peak_rss_mib;
use stoker_core::{RelPathBuf, Source};
use stoker_git::{Access, Cache, ChildCommand, Git, Remote, RemoteUrl, Wanted};

fn main() -> ExitCode {
    stoker_git::child::run_if_child();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.context("no runtime").and_then(|runtime| runtime.block_on(run(&arguments)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &[String]) -> Result<()> {
    let [what, url, reference, rest @ ..] = arguments else {
        bail!("usage: poll|follow URL REF [CACHE FILE]")
    };
    let git = Git::new(ChildCommand::current_exe());
    let remote = Remote::new(RemoteUrl::parse_allowing_insecure(url)?, Access::default());
    let reference = reference.parse()?;
    match (what.as_str(), rest) {
        ("poll", []) => {
            let resolved = git.resolve(&remote, &reference).await?;
            println!("{}", resolved.commit);
            Ok(())
        }
        ("follow", [cache, file]) => {
            let (cache, file) = (Cache::new(cache), RelPathBuf::parse(file)?);
            let mut out = std::io::stdout();
            for line in std::io::stdin().lock().lines() {
                line?;
                let began = Instant::now();
                let resolved = git.resolve(&remote, &reference).await?;
                let polled = began.elapsed();
                let fetched = git.fetch(&remote, &cache, &Wanted::from(&resolved)).await?;
                let entry = fetched.source.entry(file.as_path())?.context("the file is not there")?;
                let id = entry.id.context("a file has an id")?;
                let mut content = Vec::new();
                fetched.source.open(file.as_path(), &id)?.read_to_end(&mut content)?;
                let took = began.elapsed();
                let round = Round {
                    commit: resolved.commit.to_string(),
                    poll_ms: polled.as_secs_f64() * 1000.0,
                    total_ms: took.as_secs_f64() * 1000.0,
                    transferred_bytes: fetched.report.transferred_bytes,
                    rebuilt: fetched.report.rebuilt,
                    peak_rss_mib: peak_rss_mib()?,
                    child_peak_rss_mib: fetched.report.peak_memory_bytes as f64 / f64::from(1 << 20),
                };
                writeln!(out, "{}", serde_json::json!(round))?;
                out.flush()?;
            }
            Ok(())
        }
        _ => bail!("usage: poll URL REF | follow URL REF CACHE FILE"),
    }
}
