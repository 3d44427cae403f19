//! Resource collections: `config/resources/<collection>/` and the `config-mode.json` each of them needs.

use std::collections::BTreeSet;

use serde::Serialize;
use stoker_core::{RelPath, RelPathBuf};

/// The file that makes a directory a collection.
pub const CONFIG_MODE_FILE: &str = "config-mode.json";

/// Collections that no plan of ours completes: `local` is this host's, `system` the gateway's.
const NOT_OURS: [&str; 2] = ["local", "system"];

#[derive(Serialize)]
struct ConfigMode<'a> {
    title: &'a str,
    description: &'a str,
    enabled: bool,
    inheritable: bool,
    parent: &'a str,
}

/// The smallest `config-mode.json` that makes `collection` valid, in the byte form that gateways write.
///
/// The parent follows the chain system ← external ← core ← mode; `local` stands at the end of it and passes nothing
/// on. Source: fact sheet, section 2.2.
///
/// ```
/// use stoker_ignition::rules::config_mode_json;
/// assert!(config_mode_json("external").contains("\"parent\": \"system\""));
/// assert!(config_mode_json("prd-cloud").contains("\"parent\": \"core\""));
/// ```
#[must_use]
pub fn config_mode_json(collection: &str) -> String {
    let parent = match collection {
        "external" => "system",
        "core" => "external",
        _ => "core",
    };
    let inheritable = collection != "local";
    let mode = ConfigMode { title: collection, description: "", enabled: true, inheritable, parent };
    // Five plain members cannot fail to serialise.
    serde_json::to_string_pretty(&mode).unwrap_or_default()
}

/// The `config-mode.json` files that are missing among `files`, with their content.
///
/// `files` are all files that would be there after a plan, relative to the data directory (ours and foreign). A
/// collection that holds something without that file faults the gateway at its next start.
#[must_use]
pub fn missing_config_modes<'a>(files: impl IntoIterator<Item = RelPath<'a>>) -> Vec<(RelPathBuf, String)> {
    let mut filled = BTreeSet::new();
    let mut complete = BTreeSet::new();
    for file in files {
        let components: Vec<&str> = file.components().take(5).collect();
        let ["config", "resources", collection, inside @ ..] = components.as_slice() else { continue };
        match inside {
            [] | [".resources", ..] => continue,
            [CONFIG_MODE_FILE] => complete.insert((*collection).to_owned()),
            _ => filled.insert((*collection).to_owned()),
        };
    }
    filled
        .difference(&complete)
        .filter(|c| !NOT_OURS.contains(&c.as_str()) && !c.starts_with('.'))
        .filter_map(|c| {
            let path = RelPathBuf::parse(&format!("config/resources/{c}/{CONFIG_MODE_FILE}")).ok()?;
            Some((path, config_mode_json(c)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn missing(files: &[&str]) -> Vec<String> {
        let files: Vec<_> = files.iter().map(|f| RelPathBuf::parse(f).unwrap()).collect();
        missing_config_modes(files.iter().map(RelPathBuf::as_path))
            .iter()
            .map(|(p, _)| p.to_string())
            .collect()
    }

    #[test]
    fn a_filled_collection_without_its_file_is_completed() {
        assert_eq!(
            missing(&["config/resources/external/ignition/x/config.json"]),
            ["config/resources/external/config-mode.json"]
        );
        assert!(
            missing(&["config/resources/core/config-mode.json", "config/resources/core/ignition/x/a"])
                .is_empty()
        );
        assert!(
            missing(&["config/resources/local/ignition/x/a", "config/resources/.resources/a"]).is_empty()
        );
        assert!(missing(&["config/resources/core/.resources/a"]).is_empty());
        assert!(
            missing(&["projects/p/project.json", "config/ignition/keys/a", "config/resources/stray"])
                .is_empty()
        );
    }

    #[test]
    fn the_file_has_the_form_a_gateway_writes() {
        assert_eq!(
            config_mode_json("core"),
            "{\n  \"title\": \"core\",\n  \"description\": \"\",\n  \"enabled\": true,\n  \"inheritable\": true,\n  \"parent\": \"external\"\n}"
        );
    }

    proptest! {
        /// Adding what is missing leaves nothing missing.
        #[test]
        fn completing_once_is_enough(
            files in prop::collection::vec("config/resources/(core|external|dev|local)(/(a|config-mode[.]json)){1,3}", 0..8),
        ) {
            let mut all: Vec<&str> = files.iter().map(String::as_str).collect();
            let added = missing(&all);
            all.extend(added.iter().map(String::as_str));
            prop_assert!(missing(&all).is_empty());
        }
    }
}
