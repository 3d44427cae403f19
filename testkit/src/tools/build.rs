//! Building what is missing, once, whatever number of processes ask for it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::catalogue::{Module, Tool};
use super::{Origin, Ready, cache_dir, module_dir, program};

pub(super) fn build(tools: &[Tool]) -> Result<Vec<Ready>> {
    let mut by_module: BTreeMap<&str, Vec<Tool>> = BTreeMap::new();
    for &tool in tools {
        by_module.entry(tool.module().name).or_default().push(tool);
    }
    let mut ready = Vec::new();
    for tools in by_module.into_values() {
        ready.extend(build_module(&tools)?);
    }
    Ok(ready)
}

fn build_module(tools: &[Tool]) -> Result<Vec<Ready>> {
    let Some(&first) = tools.first() else { return Ok(Vec::new()) };
    let module = first.module();
    let folder = module_dir(first)?;
    std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let _lock = lock(&cache_dir()?.join(format!("{}.lock", module.name)))?;

    // Another process may have built them while this one waited for the lock.
    let missing: Vec<Tool> =
        tools.iter().copied().filter(|tool| !folder.join(tool.name()).is_file()).collect();
    let mut took = None;
    if !missing.is_empty() {
        let names: Vec<_> = missing.iter().map(|tool| tool.name()).collect();
        let (names, version) = (names.join(", "), module.version()?);
        say(&format!("building {names} ({} {version}); this takes {}", module.name, module.takes));
        let start = Instant::now();
        compile(module, &missing, &folder)?;
        took = Some(start.elapsed());
        say(&format!("built {names} in {:.0} s", start.elapsed().as_secs_f64()));
    }
    Ok(tools
        .iter()
        .map(|&tool| Ready {
            tool,
            path: folder.join(tool.name()),
            origin: match took {
                Some(took) if missing.contains(&tool) => Origin::Built(took),
                _ => Origin::Cache,
            },
        })
        .collect())
}

/// Compiles into a temporary folder and renames, so that a file under its final name is always whole.
fn compile(module: Module, tools: &[Tool], folder: &Path) -> Result<()> {
    let go = program("go")
        .with_context(|| format!("{} must be built and there is no `go` in PATH: install Go", module.name))?;
    let staging = tempfile::Builder::new().prefix(".building-").tempdir_in(folder)?;
    let mut command = Command::new(&go);
    command
        .current_dir(module.source())
        .args(["build", "-trimpath", "-buildvcs=false", "-mod=readonly"])
        .args(["-tags", module.tags, "-ldflags", &module.linker_flags()?, "-o"])
        .arg(staging.path().join(""))
        .args(tools.iter().map(|tool| tool.package()))
        .env("CGO_ENABLED", if module.cgo { "1" } else { "0" })
        .env("GOWORK", "off")
        .stdin(Stdio::null());
    let output = command.output().with_context(|| format!("running {}", go.display()))?;
    if !output.status.success() {
        bail!(
            "go build of {} failed ({}):\n{}",
            module.name,
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    copy_data(module, &go, staging.path(), folder)?;
    for tool in tools {
        let (from, to) = (staging.path().join(tool.built_as()), folder.join(tool.name()));
        std::fs::rename(&from, &to)
            .with_context(|| format!("moving {} to {}", from.display(), to.display()))?;
    }
    Ok(())
}

/// Keeps the run-time files of a module beside its binaries, so that the cache alone is enough to run them.
fn copy_data(module: Module, go: &Path, staging: &Path, folder: &Path) -> Result<()> {
    let target = folder.join("data");
    if module.data.is_empty() || target.is_dir() {
        return Ok(());
    }
    let package = module.path();
    let output = Command::new(go)
        .current_dir(module.source())
        .args(["list", "-m", "-f", "{{.Dir}}", package])
        .env("GOWORK", "off")
        .output()?;
    let source = String::from_utf8(output.stdout)?;
    let (source, copy) = (Path::new(source.trim()), staging.join("data"));
    if !output.status.success() || !source.is_dir() {
        bail!("go list does not say where {package} is");
    }
    for name in module.data {
        copy_tree(&source.join(name), &copy.join(name))?;
    }
    std::fs::rename(&copy, &target).with_context(|| format!("moving {}", target.display()))
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            // Not fs::copy: the module cache is read-only and its mode would come along.
            std::fs::write(&target, std::fs::read(entry.path())?)?;
        }
    }
    Ok(())
}

fn lock(path: &Path) -> Result<File> {
    let file = File::options().create(true).truncate(false).write(true).open(path)?;
    if file.try_lock().is_err() {
        say(&format!("waiting for another process that builds ({})", path.display()));
        file.lock().with_context(|| format!("locking {}", path.display()))?;
    }
    Ok(file)
}

/// Straight to the terminal: a test's captured output would hide why it takes minutes.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "testkit: {line}");
}
