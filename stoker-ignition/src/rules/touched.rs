//! What a set of changed paths means for the gateway: scan halves, projects, resource types.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use stoker_core::RelPath;

/// A half of the data directory that a gateway scans on its own.
///
/// Ordered as they must be scanned: a project may refer to what the configuration of the same commit brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScanKind {
    /// `config/`.
    Config,
    /// `projects/`.
    Projects,
}

impl ScanKind {
    /// Both, in the order in which they are scanned.
    pub const ALL: [Self; 2] = [Self::Config, Self::Projects];

    /// The name that routes and reports use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Projects => "projects",
        }
    }
}

impl fmt::Display for ScanKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which halves have to be scanned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct ScanNeed {
    /// Something below `config/` changed.
    pub config: bool,
    /// Something below `projects/` changed.
    pub projects: bool,
}

impl ScanNeed {
    /// Both halves.
    pub const BOTH: Self = Self { config: true, projects: true };

    /// Whether nothing has to be scanned.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        !self.config && !self.projects
    }

    /// Whether this half has to be scanned.
    #[must_use]
    pub const fn includes(self, kind: ScanKind) -> bool {
        match kind {
            ScanKind::Config => self.config,
            ScanKind::Projects => self.projects,
        }
    }

    /// The halves that have to be scanned, config first.
    pub fn kinds(self) -> impl Iterator<Item = ScanKind> {
        ScanKind::ALL.into_iter().filter(move |k| self.includes(*k))
    }

    /// What either of them needs.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self { config: self.config || other.config, projects: self.projects || other.projects }
    }
}

/// A type of configuration resource, such as `ignition/tag-provider`. Serialises as that text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ResourceType {
    /// The module, for example `ignition`.
    pub module: String,
    /// The type within the module, for example `tag-provider`.
    pub name: String,
}

impl From<ResourceType> for String {
    fn from(of: ResourceType) -> Self {
        of.to_string()
    }
}

impl TryFrom<String> for ResourceType {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let (module, name) = text.split_once('/').ok_or("a resource type is written module/type")?;
        Ok(Self { module: module.to_owned(), name: name.to_owned() })
    }
}

impl fmt::Display for ResourceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.module, self.name)
    }
}

/// Everything that a set of changed paths touches.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Touched {
    need: ScanNeed,
    /// Projects with a changed file.
    pub projects: BTreeSet<String>,
    /// Types of configuration resources with a changed file, each with the names of those that were written and so
    /// must be there afterwards. Singletons and resources in folders (tags, images) have no name here.
    pub resources: BTreeMap<ResourceType, BTreeSet<String>>,
    /// Folders of resources with a changed file, relative to the data directory.
    pub folders: BTreeSet<String>,
    /// Whether the last change of a project's `project.json` left one there.
    #[serde(default)]
    project_file: BTreeMap<String, bool>,
    /// Resources whose last change deleted them: nobody expects them to be there.
    #[serde(default)]
    gone: BTreeMap<ResourceType, BTreeSet<String>>,
}

impl Touched {
    /// What these written paths touch; all relative to the data directory.
    #[must_use]
    pub fn of_written<'a>(paths: impl IntoIterator<Item = RelPath<'a>>) -> Self {
        let mut touched = Self::default();
        paths.into_iter().for_each(|p| touched.written(p));
        touched
    }

    /// Adds a path that was written.
    pub fn written(&mut self, path: RelPath<'_>) {
        self.add(path, true);
    }

    /// Adds a path that was deleted.
    pub fn deleted(&mut self, path: RelPath<'_>) {
        self.add(path, false);
    }

    /// Which halves have to be scanned.
    #[must_use]
    pub const fn need(&self) -> ScanNeed {
        self.need
    }

    /// The touched projects that must be there afterwards: all but those whose `project.json` was deleted.
    #[must_use]
    pub fn expected_projects(&self) -> BTreeSet<String> {
        let there = |p: &&String| self.project_file.get(*p).copied().unwrap_or(true);
        self.projects.iter().filter(there).cloned().collect()
    }

    /// Adds what a later set touches.
    pub fn merge(&mut self, other: Self) {
        self.need = self.need.or(other.need);
        self.projects.extend(other.projects);
        self.folders.extend(other.folders);
        self.project_file.extend(other.project_file);
        for (resource_type, names) in other.resources {
            if let Some(gone) = self.gone.get_mut(&resource_type) {
                gone.retain(|name| !names.contains(name));
            }
            self.resources.entry(resource_type).or_default().extend(names);
        }
        for (resource_type, gone) in other.gone {
            if let Some(names) = self.resources.get_mut(&resource_type) {
                names.retain(|name| !gone.contains(name));
            }
            self.gone.entry(resource_type).or_default().extend(gone);
        }
    }

    fn add(&mut self, path: RelPath<'_>, written: bool) {
        let components: Vec<&str> = path.components().collect();
        match components.as_slice() {
            ["projects", inside @ ..] => {
                self.need.projects = true;
                if let [project, _, ..] = inside {
                    self.projects.insert((*project).to_owned());
                }
                if let [project, "project.json"] = inside {
                    self.project_file.insert((*project).to_owned(), written);
                }
            }
            ["config", inside @ ..] => {
                self.need.config = true;
                if let ["resources", _collection, module, name, rest @ ..] = inside {
                    self.add_resource(module, name, rest, written);
                }
            }
            _ => return,
        }
        if let (Some(folder), true) = (path.parent(), components.len() > 3) {
            self.folders.insert(folder.as_str().to_owned());
        }
    }

    fn add_resource(&mut self, module: &str, name: &str, rest: &[&str], written: bool) {
        if rest.is_empty() {
            return;
        }
        let resource_type = ResourceType { module: module.to_owned(), name: name.to_owned() };
        let names = self.resources.entry(resource_type.clone()).or_default();
        // `<name>/<file>`: a named resource. One level less is a singleton, more are folders of resources.
        if let [resource, "resource.json" | "config.json"] = rest {
            let gone = self.gone.entry(resource_type).or_default();
            let (to, from) = if written { (names, gone) } else { (gone, names) };
            from.remove(*resource);
            to.insert((*resource).to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use stoker_core::RelPathBuf;

    fn written(paths: &[&str]) -> Touched {
        let paths: Vec<_> = paths.iter().map(|p| RelPathBuf::parse(p).unwrap()).collect();
        Touched::of_written(paths.iter().map(RelPathBuf::as_path))
    }

    #[test]
    fn each_path_needs_the_half_it_lies_in() {
        for (path, config, projects) in [
            ("projects/line/project.json", false, true),
            ("projects/readme.txt", false, true),
            ("config/resources/core/ignition/tag-provider/default/config.json", true, false),
            ("config/resources/core/config-mode.json", true, false),
            ("config/com.inductiveautomation.opcua/trust/x.der", true, false),
            ("themes/dark.css", false, false),
            ("projectsx/a", false, false),
        ] {
            assert_eq!(written(&[path]).need(), ScanNeed { config, projects }, "{path}");
        }
        assert!(written(&[]).need().is_empty());
        assert_eq!(ScanNeed::BOTH.kinds().collect::<Vec<_>>(), [ScanKind::Config, ScanKind::Projects]);
    }

    #[test]
    fn projects_and_resources_are_named() {
        let touched = written(&[
            "projects/line/ignition/global-props/data.bin",
            "projects/readme.txt",
            "config/resources/core/ignition/tag-provider/default/config.json",
            "config/resources/external/ignition/system-properties/config.json",
            "config/resources/core/ignition/tag-definition/default/a/tags.json",
        ]);
        assert_eq!(touched.projects.iter().map(String::as_str).collect::<Vec<_>>(), ["line"]);
        let resources: Vec<(String, Vec<&str>)> = touched
            .resources
            .iter()
            .map(|(t, names)| (t.to_string(), names.iter().map(String::as_str).collect()))
            .collect();
        assert_eq!(
            resources,
            [
                ("ignition/system-properties".to_owned(), vec![]),
                ("ignition/tag-definition".to_owned(), vec![]),
                ("ignition/tag-provider".to_owned(), vec!["default"]),
            ]
        );
        assert!(touched.folders.contains("config/resources/core/ignition/tag-definition/default/a"));
    }

    #[test]
    fn a_deleted_project_is_touched_but_not_expected_until_it_comes_back() {
        let path = RelPathBuf::parse("projects/old/project.json").unwrap();
        let mut touched = written(&["projects/line/x/view.json"]);
        touched.deleted(path.as_path());
        assert_eq!(touched.projects.len(), 2);
        assert_eq!(touched.expected_projects().into_iter().collect::<Vec<_>>(), ["line"]);
        touched.merge(written(&["projects/old/project.json"]));
        assert_eq!(touched.expected_projects().len(), 2);
    }

    #[test]
    fn a_deleted_resource_is_touched_but_not_expected_afterwards() {
        let mut touched = Touched::default();
        let path = RelPathBuf::parse("config/resources/core/ignition/tag-provider/old/config.json").unwrap();
        touched.deleted(path.as_path());
        assert!(touched.need().config);
        assert!(touched.resources.values().all(BTreeSet::is_empty));
    }

    proptest! {
        /// Order and grouping of paths do not matter.
        #[test]
        fn merging_is_the_same_as_adding(
            paths in prop::collection::vec("(projects|config/resources/core|x)(/[ab]){1,5}(/resource[.]json)?", 0..8),
            cut in 0usize..8,
        ) {
            let all: Vec<&str> = paths.iter().map(String::as_str).collect();
            let (left, right) = all.split_at(cut.min(all.len()));
            let mut merged = written(right);
            merged.merge(written(left));
            prop_assert_eq!(merged, written(&all));
        }
    }
}
