//! The files that a gateway makes itself, whatever anybody else puts beside them.

use std::fs;
use std::io;
use std::path::Path;

use serde_json::json;

use super::data::digest;
use crate::rules::{CONFIG_MODE_FILE, config_mode_json};

const EMPTY_RESOURCE: &str =
    "{\n  \"scope\": \"G\",\n  \"version\": 1,\n  \"files\": [],\n  \"attributes\": {}\n}";
const UNARY: &str = "{\n  \"scope\": \"G\",\n  \"version\": 1,\n  \"files\": [],\n  \"attributes\": {\n    \"config\": {}\n  }\n}";

/// What happens at every start; more of it at the first one. Says what keeps the gateway from starting.
pub(super) fn at_boot(data_dir: &Path, mode: &str, name: &str) -> Result<(), String> {
    let first_boot = !data_dir.join("commissioning.json").exists();
    let fault = |what: &str| {
        let what = what.to_owned();
        move |e: io::Error| format!("unable to create {what}: {e}")
    };
    write(data_dir, "projects/.resources/digests.json", "{}")
        .map_err(fault("resource dir projects/.resources"))?;
    let core = data_dir.join("config/resources/core");
    if !core.exists() {
        write(data_dir, &format!("config/resources/core/{CONFIG_MODE_FILE}"), &config_mode_json("core"))
            .map_err(fault("'core' resource collection"))?;
    }
    let own = || -> io::Result<()> {
        write(data_dir, "config/resources/.resources/cache.bin", "cache")?;
        once(
            data_dir,
            "config/resources/core/com.inductiveautomation.opcua/one-time/resource.json",
            EMPTY_RESOURCE,
        )?;
        for provider in tag_providers(data_dir) {
            let types = format!("config/resources/core/ignition/tag-type-definition/{provider}");
            once(data_dir, &format!("{types}/unary-resource.json"), UNARY)?;
        }
        once(data_dir, "config/local/ignition/gateway-network/uuid.txt", &digest(name.as_bytes())[..32])?;
        once(data_dir, "config/ignition/keys/root.json", "{}")?;
        write(data_dir, "config/ignition/tags/valueStore.idb", "SQLite format 3\0")?;
        write(data_dir, "db/config.idb", "SQLite format 3\0")?;
        write(data_dir, "var/ignition/auth-tokens.bin", "tokens")?;
        append(data_dir, "logs/wrapper.log", "Gateway started\n")?;
        if first_boot {
            first(data_dir, if mode.is_empty() { "core" } else { mode })?;
        }
        Ok(())
    };
    own().map_err(fault("its own files"))
}

/// What a gateway makes at its first boot only.
fn first(data_dir: &Path, mode: &str) -> io::Result<()> {
    let core = "config/resources/core/ignition";
    once(data_dir, &format!("{core}/user-source/default/resource.json"), EMPTY_RESOURCE)?;
    once(data_dir, &format!("{core}/user-source/default/users.json"), "[]")?;
    once(data_dir, &format!("{core}/quickstart/resource.json"), EMPTY_RESOURCE)?;
    // Rewritten even where somebody has put one already.
    let security = format!("config/resources/{mode}/ignition/security-properties");
    if data_dir.join("config/resources").join(mode).join(CONFIG_MODE_FILE).exists() {
        let properties = json!({"readPermissions": ["Authenticated/Roles/Administrator"]});
        write(data_dir, &format!("{security}/config.json"), &format!("{properties:#}"))?;
        let manifest = EMPTY_RESOURCE.replace("[]", "[\n    \"config.json\"\n  ]");
        write(data_dir, &format!("{security}/resource.json"), &manifest)?;
    }
    write(data_dir, "commissioning.json", "{\n  \"commissioned\": true\n}")
}

/// What a running gateway keeps touching: files come and go between listing and opening.
pub(super) fn churn(data_dir: &Path, round: u64) -> io::Result<()> {
    let store = data_dir.join("config/ignition/tags");
    fs::create_dir_all(&store)?;
    for name in ["valueStore.idb-wal", "valueStore.idb-shm"] {
        let path = store.join(name);
        if round.is_multiple_of(2) {
            fs::write(&path, round.to_le_bytes())?;
        } else {
            let _ = fs::remove_file(&path);
        }
    }
    let engine = "MQTT Engine";
    if data_dir.join("config/resources/core/ignition/tag-provider").join(engine).is_dir() {
        let tree = format!("config/resources/core/ignition/tag-definition/{engine}");
        let manifest = UNARY.replace("[]", "[\n    \"tags.json\"\n  ]");
        let tags = json!([{"name": format!("Message {round}"), "tagType": "AtomicTag"}]);
        write(data_dir, &format!("{tree}/tags.json"), &format!("{tags:#}"))?;
        once(data_dir, &format!("{tree}/unary-resource.json"), &manifest)?;
    }
    Ok(())
}

fn tag_providers(data_dir: &Path) -> Vec<String> {
    let providers = data_dir.join("config/resources/core/ignition/tag-provider");
    fs::read_dir(providers)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok())
        .collect()
}

fn write(data_dir: &Path, path: &str, content: &str) -> io::Result<()> {
    let path = data_dir.join(path);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, content)
}

fn once(data_dir: &Path, path: &str, content: &str) -> io::Result<()> {
    if data_dir.join(path).exists() { Ok(()) } else { write(data_dir, path, content) }
}

fn append(data_dir: &Path, path: &str, line: &str) -> io::Result<()> {
    use std::io::Write as _;
    let path = data_dir.join(path);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::OpenOptions::new().create(true).append(true).open(path)?.write_all(line.as_bytes())
}

/// Whether `uid` owns the two directories that matter; names the first that it does not.
#[cfg(unix)]
pub(super) fn wrong_owner(data_dir: &Path, uid: u32) -> Option<String> {
    use std::os::unix::fs::MetadataExt as _;
    let mut open = vec![data_dir.join("projects"), data_dir.join("config/resources")];
    while let Some(path) = open.pop() {
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if metadata.uid() != uid {
            return Some(path.display().to_string());
        }
        if metadata.is_dir() {
            open.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|e| e.path()));
        }
    }
    None
}

#[cfg(not(unix))]
pub(super) fn wrong_owner(_data_dir: &Path, _uid: u32) -> Option<String> {
    None
}
