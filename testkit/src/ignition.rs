//! Files as an Ignition 8.3 gateway and its Designer write them, for test repositories.
//!
//! Shapes and the signature formula: the project's fact sheet on Ignition, sections 2.2 and 2.4 (from public 8.3
//! repositories). UTF-8, LF, two spaces, no newline at the end, and Gson's escapes for `<`, `>`, `&`, `=` and `'`.
//!
//! ```
//! let tree = stoker_testkit::ignition::small_site();
//! assert!(tree.get("services/gateway/projects/line/project.json").is_some());
//! ```

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// Files by their path from the root of a repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree(BTreeMap<String, Vec<u8>>);

/// The time stamp of every resource: files made twice are equal.
const SAVED_AT: &str = "2026-01-01T00:00:00Z";

impl Tree {
    /// No files.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds or replaces a file.
    pub fn file(&mut self, path: impl Into<String>, content: impl AsRef<[u8]>) -> &mut Self {
        self.0.insert(path.into(), content.as_ref().to_vec());
        self
    }

    /// Adds or replaces a JSON file in Ignition's format.
    pub fn json(&mut self, path: impl Into<String>, value: &Value) -> &mut Self {
        self.file(path, to_text(value))
    }

    /// Removes a file.
    pub fn remove(&mut self, path: &str) -> Option<Vec<u8>> {
        self.0.remove(path)
    }

    /// The content of a file.
    pub fn get(&self, path: &str) -> Option<&[u8]> {
        self.0.get(path).map(Vec::as_slice)
    }

    /// All files, by path.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(path, content)| (path.as_str(), content.as_slice()))
    }

    /// The number of files.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no file.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Writes all files below a folder.
    ///
    /// # Errors
    ///
    /// A file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        for (path, content) in &self.0 {
            let target = folder.join(path);
            if let Some(parent) = target.parent() {
                std::fs::create_dir_all(parent)?;
            }
            std::fs::write(&target, content).with_context(|| format!("writing {}", target.display()))?;
        }
        Ok(())
    }

    /// A resource: its data files, and a `resource.json` that lists and signs them.
    pub fn resource(&mut self, folder: &str, scope: &str, files: &[(&str, Vec<u8>)]) -> &mut Self {
        self.resource_with(folder, scope, files, Map::new())
    }

    fn resource_with(
        &mut self,
        folder: &str,
        scope: &str,
        files: &[(&str, Vec<u8>)],
        attributes: Map<String, Value>,
    ) -> &mut Self {
        let manifest = resource_json(scope, files, attributes);
        self.json(format!("{folder}/resource.json"), &manifest);
        for (name, content) in files {
            self.file(format!("{folder}/{name}"), content);
        }
        self
    }

    /// A project with its `project.json`, such as `services/gateway/projects/line`; nothing in it yet.
    pub fn project(&mut self, folder: &str, title: &str) -> &mut Self {
        let project =
            json!({"title": title, "description": "", "parent": "", "enabled": true, "inheritable": false});
        self.json(format!("{folder}/project.json"), &project);
        self.resource(
            &format!("{folder}/ignition/global-props"),
            "A",
            &[("data.bin", vec![0x1f, 0x8b, 8, 0])],
        )
    }

    /// A Perspective view with a label of this text.
    pub fn view(&mut self, project: &str, path: &str, text: &str) -> &mut Self {
        let label = json!({
            "meta": {"name": "Label"},
            "position": {"basis": "32px"},
            "props": {"text": text},
            "type": "ia.display.label",
        });
        let view = json!({
            "custom": {},
            "params": {},
            "props": {"defaultSize": {"height": 400, "width": 600}},
            "root": {"children": [label], "meta": {"name": "root"}, "props": {"direction": "column"}, "type": "ia.container.flex"},
        });
        let folder = format!("{project}/com.inductiveautomation.perspective/views/{path}");
        self.resource(&folder, "G", &[("view.json", to_text(&view))])
    }

    /// The pages of a Perspective project: URL path to view path.
    pub fn pages(&mut self, project: &str, pages: &[(&str, &str)]) -> &mut Self {
        let pages: Map<String, Value> = pages
            .iter()
            .map(|(url, view)| ((*url).to_owned(), json!({"title": "", "viewPath": view})))
            .collect();
        let folder = format!("{project}/com.inductiveautomation.perspective/page-config");
        self.resource(&folder, "G", &[("config.json", to_text(&json!({"pages": pages})))])
    }

    /// A script module such as `plant/alarms`.
    pub fn script(&mut self, project: &str, module: &str, code: &str) -> &mut Self {
        let mut attributes = Map::new();
        attributes.insert("hintScope".into(), json!(2));
        let folder = format!("{project}/ignition/script-python/{module}");
        self.resource_with(&folder, "A", &[("code.py", code.into())], attributes)
    }

    /// A named query.
    pub fn named_query(&mut self, project: &str, name: &str, sql: &str) -> &mut Self {
        let mut attributes = Map::new();
        attributes.insert("enabled".into(), json!(true));
        attributes.insert("type".into(), json!("Query"));
        let folder = format!("{project}/ignition/named-query/{name}");
        self.resource_with(&folder, "DG", &[("query.sql", sql.into())], attributes)
    }

    /// A collection of config resources, such as `services/gateway/config/resources/core`.
    pub fn collection(&mut self, folder: &str, title: &str, parent: &str) -> &mut Self {
        let mode = json!({
            "title": title,
            "description": "",
            "enabled": true,
            "inheritable": true,
            "parent": parent,
        });
        self.json(format!("{folder}/config-mode.json"), &mode)
    }

    /// A config resource; `name` such as `ignition/database-connection/historian`.
    pub fn config(&mut self, collection: &str, name: &str, config: &Value) -> &mut Self {
        let mut attributes = Map::new();
        attributes.insert("uuid".into(), json!(uuid_of(name)));
        attributes.insert("enabled".into(), json!(true));
        self.resource_with(
            &format!("{collection}/{name}"),
            "A",
            &[("config.json", to_text(config))],
            attributes,
        )
    }

    /// A tag provider.
    pub fn tag_provider(&mut self, collection: &str, name: &str) -> &mut Self {
        let config = json!({
            "profile": {"type": "STANDARD", "allowBackfill": false, "enabled": true},
            "settings": {"defaultDatasourceName": "", "readOnly": false, "valuePersistence": "Database"},
        });
        self.config(collection, &format!("ignition/tag-provider/{name}"), &config)
    }

    /// The memory tags of one folder of a provider (`""` is its root), as name and value.
    pub fn tags(
        &mut self,
        collection: &str,
        provider: &str,
        folder: &str,
        tags: &[(&str, f64)],
    ) -> &mut Self {
        let tags: Vec<Value> = tags
            .iter()
            .map(|(name, value)| {
                json!({"dataType": "Float8", "name": name, "tagType": "AtomicTag", "value": value, "valueSource": "memory"})
            })
            .collect();
        let root = format!("{collection}/ignition/tag-definition/{provider}");
        // Each folder on the way is a resource of its own, or the hierarchy breaks.
        let mut path = root;
        let parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
        for depth in 0..=parts.len() {
            if depth > 0 {
                path = format!("{path}/{}", parts[depth - 1]);
            }
            let last = depth == parts.len();
            if !last && self.get(&format!("{path}/unary-resource.json")).is_some() {
                continue;
            }
            let files: &[&str] = if last { &["tags.json"] } else { &[] };
            let unary = json!({
                "scope": "G",
                "version": 1,
                "restricted": false,
                "overridable": true,
                "files": files,
                "attributes": {"config": {}},
            });
            self.json(format!("{path}/unary-resource.json"), &unary);
            if last {
                self.json(format!("{path}/tags.json"), &json!(tags));
            }
        }
        self
    }

    /// What gives a gateway its name; a common target of templates and patches.
    pub fn system_name(&mut self, collection: &str, name: &str) -> &mut Self {
        let config = json!({"homepageNotes": "", "systemName": name, "useSSL": false});
        self.config(collection, "ignition/system-properties", &config)
    }
}

/// One service in the two-tier layout, `services/gateway`: a project with views, a page, a script and a query;
/// a `core` collection with tags, a tag provider, a database connection; an overlay `prd-cloud`.
pub fn small_site() -> Tree {
    let mut tree = Tree::new();
    tree.service("services/gateway");
    tree.file(".gitignore", ".resources/\n");
    tree.file("README.md", "# A plant\n");
    tree
}

/// A site gateway and its area gateways, `services/site` and `services/area`, with what they share.
pub fn site_and_areas() -> Tree {
    let mut tree = Tree::new();
    tree.service("services/site").service("services/area");
    tree.tags("shared", "default", "Plant/Energy", &[("Power", 0.0), ("Current", 0.0)]);
    tree
}

/// A service with this many views, each two files; for what must not depend on the size.
pub fn large_site(views: usize) -> Tree {
    let mut tree = small_site();
    for number in 0..views {
        let path = format!("generated/area-{:03}/view-{number:05}", number / 100);
        tree.view("services/gateway/projects/line", &path, &format!("View {number}"));
    }
    tree
}

impl Tree {
    fn service(&mut self, folder: &str) -> &mut Self {
        let project = format!("{folder}/projects/line");
        self.project(&project, "Line")
            .view(&project, "overview/main", "Line overview")
            .view(&project, "overview/Motor Übersicht", "Motor & drive <1>")
            .pages(&project, &[("/", "overview/main")])
            .script(&project, "plant/alarms", "def acknowledge(path):\n\treturn system.tag.read(path)\n")
            .named_query(&project, "Shift Report", "SELECT * FROM shift WHERE id = :id\n");
        let core = format!("{folder}/config/resources/core");
        let database = json!({
            "connectURL": "jdbc:mariadb://db:3306/plant",
            "driver": "MariaDB",
            "translator": "MYSQL",
            "username": "ignition",
        });
        self.collection(&core, "Core", "external")
            .tag_provider(&core, "default")
            .tags(&core, "default", "", &[("Heartbeat", 1.0)])
            .tags(&core, "default", "Line 1/Motor", &[("Speed", 0.0), ("Temperature", 21.5)])
            .config(&core, "ignition/database-connection/historian", &database)
            .system_name(&core, "gateway");
        let mode = format!("{folder}/config/resources/prd-cloud");
        self.collection(&mode, "Production", "core").system_name(&mode, "gateway-prd")
    }
}

/// A JSON value as Ignition writes it.
pub fn to_text(value: &Value) -> Vec<u8> {
    let mut plain = Vec::new();
    let format = serde_json::ser::PrettyFormatter::with_indent(b"  ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut plain, format);
    // Writing a value to memory cannot fail.
    let _ = value.serialize(&mut serializer);
    let mut text = Vec::with_capacity(plain.len());
    for byte in plain {
        // None of these is part of JSON's own syntax: they stand within strings only.
        match byte {
            b'<' => text.extend_from_slice(b"\\u003c"),
            b'>' => text.extend_from_slice(b"\\u003e"),
            b'&' => text.extend_from_slice(b"\\u0026"),
            b'=' => text.extend_from_slice(b"\\u003d"),
            b'\'' => text.extend_from_slice(b"\\u0027"),
            other => text.push(other),
        }
    }
    text
}

/// A `resource.json` with a valid signature.
fn resource_json(scope: &str, files: &[(&str, Vec<u8>)], mut attributes: Map<String, Value>) -> Value {
    attributes.insert("lastModification".into(), json!({"actor": "ada", "timestamp": SAVED_AT}));
    let names: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
    let signature = signature(scope, files, &attributes);
    attributes.insert("lastModificationSignature".into(), json!(signature));
    json!({
        "scope": scope,
        "version": 1,
        "restricted": false,
        "overridable": true,
        "files": names,
        "attributes": attributes,
    })
}

/// The signature of Ignition 8.3, for a resource of version 1 that is overridable, not locked, not restricted.
fn signature(scope: &str, files: &[(&str, Vec<u8>)], attributes: &Map<String, Value>) -> String {
    let bits = scope.chars().fold(0u32, |bits, letter| {
        bits | match letter {
            'G' => 1,
            'D' => 2,
            'C' => 4,
            'A' => 7,
            _ => 0,
        }
    });
    let mut hash = Sha256::new();
    hash.update(bits.to_be_bytes());
    // No documentation; version; locked, restricted, overridable.
    hash.update(1u32.to_be_bytes());
    hash.update([0, 0, 1]);
    let files: BTreeMap<&str, &Vec<u8>> = files.iter().map(|(name, content)| (*name, content)).collect();
    for (name, content) in files {
        hash.update(name);
        hash.update(hex(&Sha256::digest(content)));
    }
    let attributes: BTreeMap<&String, &Value> = attributes.iter().collect();
    for (key, value) in attributes {
        hash.update(key);
        hash.update(value.to_string());
    }
    hex(&hash.finalize())
}

/// An id that depends on the name alone, in the form of a UUID.
fn uuid_of(name: &str) -> String {
    let text = hex(&Sha256::digest(name));
    format!("{}-{}-4{}-8{}-{}", &text[..8], &text[8..12], &text[12..15], &text[15..18], &text[18..30])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_as_ignition_writes_them() {
        for (path, content) in site_and_areas().iter().filter(|(path, _)| path.ends_with(".json")) {
            let text = std::str::from_utf8(content).unwrap();
            assert!(!text.ends_with('\n') && !text.contains('\r') && !text.contains("='"), "{path}");
            let value: Value = serde_json::from_str(text).unwrap();
            assert!(text.starts_with("{\n  \"") || text.starts_with("[\n  {"), "{path}: {text}");
            assert_eq!(to_text(&value), content, "{path} is not a fixed point");
        }
    }

    #[test]
    fn every_resource_lists_exactly_the_files_beside_it() {
        let tree = small_site();
        let mut resources = 0;
        for (path, content) in tree.iter() {
            let Some(folder) = path.strip_suffix("/resource.json") else { continue };
            let value: Value = serde_json::from_slice(content).unwrap();
            let listed: Vec<String> = value["files"]
                .as_array()
                .unwrap()
                .iter()
                .map(|name| format!("{folder}/{}", name.as_str().unwrap()))
                .collect();
            for file in &listed {
                assert!(tree.get(file).is_some(), "{file} is listed and absent");
            }
            resources += 1;
        }
        assert!(resources >= 8, "{resources}");
    }

    #[test]
    fn a_large_site_differs_from_a_small_one_by_its_views() {
        assert_eq!(large_site(250).len(), small_site().len() + 500);
    }
}
