//! Reading a data directory as a gateway does: what loads, what is skipped, what faults.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::rules::{CONFIG_MODE_FILE, Formula, ResourceManifest, resource::MANIFEST_FILES, verify};

/// A resource that loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadedResource {
    /// The files that its manifest lists, with the hexadecimal SHA-256 of their content.
    pub files: BTreeMap<String, String>,
    /// The SHA-256 of the manifest itself.
    pub manifest: String,
    /// Whether it is enabled.
    pub enabled: bool,
    #[serde(skip)]
    pub(super) manifest_path: PathBuf,
    #[serde(skip)]
    pub(super) signature_is_current: bool,
}

/// A project that loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadedProject {
    /// Its title.
    pub title: String,
    /// Its description.
    pub description: String,
    /// Whether it runs.
    pub enabled: bool,
    /// Whether others may inherit from it.
    pub inheritable: bool,
    /// What it inherits from; empty for nothing.
    pub parent: String,
    /// Whether that is missing or not inheritable.
    pub invalid_parent: bool,
    /// Its resources by path within the project.
    pub resources: BTreeMap<String, LoadedResource>,
}

/// A collection of configuration resources that loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
pub struct LoadedCollection {
    /// Its resources by `<module>/<type>[/<name>...]`.
    pub resources: BTreeMap<String, LoadedResource>,
}

/// What a gateway did not load, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// Relative to the data directory.
    pub path: String,
    /// Why.
    pub reason: String,
    /// Whether the gateway says nothing about it.
    #[serde(skip)]
    pub(super) silent: bool,
}

/// One half of a data directory, loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Half<T> {
    /// What loaded, by name.
    pub loaded: BTreeMap<String, T>,
    /// What did not.
    pub skipped: Vec<Skipped>,
    /// What would fault a gateway that starts on this directory.
    pub faults: Vec<String>,
}

impl<T> Default for Half<T> {
    fn default() -> Self {
        Self { loaded: BTreeMap::new(), skipped: Vec::new(), faults: Vec::new() }
    }
}

/// How strictly configuration is read.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Strictness {
    pub(super) enforce_signature: bool,
    pub(super) fault_on_missing_attributes: bool,
}

#[derive(Deserialize)]
struct ProjectJson {
    #[serde(default)]
    title: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    enabled: Option<bool>,
    #[serde(default)]
    inheritable: Option<bool>,
    #[serde(default)]
    parent: Option<String>,
}

/// Every folder in `projects/` with a valid `project.json` is a project.
pub(super) fn projects(data_dir: &Path) -> Half<LoadedProject> {
    let mut half = Half::default();
    for (name, path) in directories(&data_dir.join("projects")) {
        let shown = format!("projects/{name}");
        let description = match fs::read(path.join("project.json")) {
            Ok(content) => serde_json::from_slice::<ProjectJson>(&content).map_err(|e| e.to_string()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => Err(e.to_string()),
        };
        match description {
            Ok(d) => {
                let resources =
                    resources(&path, &shown, Strictness::default(), &mut half.skipped, &mut Vec::new());
                half.loaded.insert(
                    name,
                    LoadedProject {
                        title: d.title.unwrap_or_default(),
                        description: d.description.unwrap_or_default(),
                        enabled: d.enabled.unwrap_or(true),
                        inheritable: d.inheritable.unwrap_or(false),
                        parent: d.parent.unwrap_or_default(),
                        invalid_parent: false,
                        resources,
                    },
                );
            }
            Err(e) => {
                half.skipped.push(skipped(format!("{shown}/project.json"), format!("malformed project: {e}")))
            }
        }
    }
    let inheritable: BTreeMap<String, bool> =
        half.loaded.iter().map(|(n, p)| (n.clone(), p.inheritable)).collect();
    for project in half.loaded.values_mut() {
        project.invalid_parent =
            !project.parent.is_empty() && !inheritable.get(&project.parent).copied().unwrap_or(false);
    }
    half
}

/// Every folder in `config/resources/` with a `config-mode.json` is a collection.
pub(super) fn config(data_dir: &Path, strictness: Strictness) -> Half<LoadedCollection> {
    let mut half = Half::default();
    for (name, path) in directories(&data_dir.join("config/resources")) {
        let shown = format!("config/resources/{name}");
        let mode = match fs::read(path.join(CONFIG_MODE_FILE)) {
            Ok(content) => match serde_json::from_slice::<Value>(&content) {
                Ok(Value::Object(_)) => Ok(()),
                Ok(_) => Err("config-mode.json is not an object".to_owned()),
                Err(e) => Err(format!("config-mode.json is malformed: {e}")),
            },
            Err(_) if is_empty(&path) => continue,
            Err(_) => Err("exists but is not empty and has no config-mode.json".to_owned()),
        };
        match mode {
            Ok(()) => {
                let resources = resources(&path, &shown, strictness, &mut half.skipped, &mut half.faults);
                half.loaded.insert(name, LoadedCollection { resources });
            }
            Err(reason) => {
                half.faults.push(format!("Resource collection path {shown} {reason}"));
                half.skipped.push(skipped(shown, reason));
            }
        }
    }
    half
}

/// Sorted sub-directories, without the gateway's own cache. None when the directory is not there.
fn directories(path: &Path) -> Vec<(String, PathBuf)> {
    let mut found: Vec<_> = fs::read_dir(path)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| {
            let name = e.file_name().into_string().ok()?;
            (name != ".resources" && e.path().is_dir()).then(|| (name, e.path()))
        })
        .collect();
    found.sort();
    found
}

fn is_empty(path: &Path) -> bool {
    fs::read_dir(path).map_or(true, |d| d.flatten().all(|e| e.file_name() == ".resources"))
}

fn skipped(path: String, reason: String) -> Skipped {
    Skipped { path, reason, silent: false }
}

/// All resources below `root`: every folder with a manifest.
fn resources(
    root: &Path,
    shown: &str,
    strictness: Strictness,
    skipped_here: &mut Vec<Skipped>,
    faults: &mut Vec<String>,
) -> BTreeMap<String, LoadedResource> {
    let mut found = BTreeMap::new();
    let mut open = vec![(String::new(), root.to_owned())];
    while let Some((name, path)) = open.pop() {
        if let Some(manifest) = MANIFEST_FILES.iter().map(|m| path.join(m)).find(|m| m.is_file()) {
            let whole = format!("{shown}/{name}");
            match resource(&path, &manifest, strictness) {
                Ok(resource) => {
                    found.insert(name.clone(), resource);
                }
                Err(NotLoaded::Silently(reason)) => {
                    skipped_here.push(Skipped { path: whole, reason, silent: true });
                }
                Err(NotLoaded::Skip(reason)) => skipped_here.push(skipped(whole, reason)),
                Err(NotLoaded::Fault(reason)) => {
                    faults.push(format!("{whole}: {reason}"));
                    skipped_here.push(skipped(whole, reason));
                }
            }
        }
        for (child, path) in directories(&path) {
            open.push((if name.is_empty() { child } else { format!("{name}/{child}") }, path));
        }
    }
    skipped_here.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

enum NotLoaded {
    Skip(String),
    Silently(String),
    Fault(String),
}

fn resource(dir: &Path, manifest_path: &Path, strictness: Strictness) -> Result<LoadedResource, NotLoaded> {
    let skip = |reason: String| NotLoaded::Skip(reason);
    let content = fs::read(manifest_path).map_err(|e| skip(format!("manifest cannot be read: {e}")))?;
    let manifest = ResourceManifest::parse(&content).map_err(|e| skip(e.to_string()))?;
    if !manifest.has_attributes && strictness.fault_on_missing_attributes {
        return Err(NotLoaded::Fault("resource.json has no attributes".to_owned()));
    }
    let mut files = BTreeMap::new();
    for name in &manifest.files {
        let data =
            fs::read(dir.join(name)).map_err(|e| skip(format!("data file {name} cannot be read: {e}")))?;
        if name.ends_with(".json")
            && let Err(e) = serde_json::from_slice::<serde::de::IgnoredAny>(&data)
        {
            return Err(skip(format!("{name} is malformed JSON: {e}")));
        }
        files.insert(name.clone(), digest(&data));
    }
    let formula = verify(&manifest, |name| fs::File::open(dir.join(name))).unwrap_or(None);
    if strictness.enforce_signature && manifest.signature.is_some() && formula.is_none() {
        return Err(NotLoaded::Silently("its signature does not match".to_owned()));
    }
    let enabled = serde_json::from_slice::<Value>(&content)
        .ok()
        .and_then(|v| v["attributes"]["enabled"].as_bool())
        .unwrap_or(true);
    Ok(LoadedResource {
        files,
        manifest: digest(&content),
        enabled,
        manifest_path: manifest_path.to_owned(),
        signature_is_current: formula == Some(Formula::V83),
    })
}

/// Lower-case hexadecimal SHA-256.
pub(super) fn digest(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, path: &str, content: &str) {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    #[test]
    fn a_project_is_a_folder_with_a_valid_project_json() {
        let dir = tempfile::tempdir().unwrap();
        let d = dir.path();
        write(d, "projects/base/project.json", r#"{"title":"Base","inheritable":true}"#);
        write(d, "projects/line/project.json", r#"{"parent":"base"}"#);
        write(d, "projects/lost/project.json", r#"{"parent":"gone"}"#);
        write(d, "projects/child/project.json", r#"{"parent":"line"}"#);
        write(d, "projects/broken/project.json", "{");
        write(d, "projects/.resources/x/project.json", "{}");
        write(d, "projects/notes/readme.txt", "");
        let half = projects(d);
        assert_eq!(half.loaded.keys().collect::<Vec<_>>(), ["base", "child", "line", "lost"]);
        let invalid: Vec<_> = half.loaded.iter().filter(|(_, p)| p.invalid_parent).map(|(n, _)| n).collect();
        assert_eq!(invalid, ["child", "lost"], "a parent must exist and be inheritable");
        assert_eq!(half.skipped.len(), 1);
        assert_eq!(half.skipped[0].path, "projects/broken/project.json");
    }

    #[test]
    fn the_manifest_decides_which_files_count() {
        let dir = tempfile::tempdir().unwrap();
        let d = dir.path();
        write(d, "projects/p/project.json", "{}");
        write(d, "projects/p/views/ok/resource.json", r#"{"files":["view.json"]}"#);
        write(d, "projects/p/views/ok/view.json", "{}");
        write(d, "projects/p/views/ok/notes.txt", "not listed");
        write(d, "projects/p/views/ok/inner/resource.json", r#"{"files":[]}"#);
        write(d, "projects/p/views/torn/resource.json", r#"{"files":["view.json"]}"#);
        write(d, "projects/p/views/bad/resource.json", r#"{"files":["view.json"]}"#);
        write(d, "projects/p/views/bad/view.json", "{");
        let half = projects(d);
        let resources = &half.loaded["p"].resources;
        assert_eq!(resources.keys().collect::<Vec<_>>(), ["views/ok", "views/ok/inner"]);
        assert_eq!(resources["views/ok"].files.keys().collect::<Vec<_>>(), ["view.json"]);
        let skipped: Vec<_> = half.skipped.iter().map(|s| s.path.as_str()).collect();
        assert_eq!(skipped, ["projects/p/views/bad", "projects/p/views/torn"]);
    }

    #[test]
    fn a_filled_collection_without_its_mode_file_faults() {
        let dir = tempfile::tempdir().unwrap();
        let d = dir.path();
        fs::create_dir_all(d.join("config/resources/empty")).unwrap();
        write(d, "config/resources/core/config-mode.json", "{}");
        write(d, "config/resources/core/ignition/tag-provider/default/resource.json", r#"{"files":[]}"#);
        write(d, "config/resources/external/ignition/x/y/resource.json", r#"{"files":[]}"#);
        let half = config(d, Strictness::default());
        assert_eq!(half.loaded.keys().collect::<Vec<_>>(), ["core"]);
        assert!(half.loaded["core"].resources.contains_key("ignition/tag-provider/default"));
        assert_eq!(half.faults.len(), 1);
        assert!(
            half.faults[0].contains("config/resources/external exists but is not empty"),
            "{:?}",
            half.faults
        );
    }

    #[test]
    fn strictness_can_follow_either_reading_of_the_evidence() {
        let dir = tempfile::tempdir().unwrap();
        let d = dir.path();
        write(d, "config/resources/core/config-mode.json", "{}");
        write(
            d,
            "config/resources/core/m/t/signed/resource.json",
            r#"{"files":[],"attributes":{"lastModificationSignature":"00"}}"#,
        );
        write(d, "config/resources/core/m/t/bare/resource.json", r#"{"files":[]}"#);
        let lenient = config(d, Strictness::default());
        assert_eq!(lenient.loaded["core"].resources.len(), 2);
        let strict = config(d, Strictness { enforce_signature: true, fault_on_missing_attributes: true });
        assert!(strict.loaded["core"].resources.is_empty());
        assert_eq!(strict.faults.len(), 1);
        assert!(strict.skipped.iter().any(|s| s.silent && s.path.ends_with("signed")));
    }
}
