//! Which part of a redundant pair a gateway is. A backup takes projects, `core` and the modes over from its master;
//! whoever writes them there fights the gateway (fact sheet, section 6).
//!
//! The gateway says it. While it is down, its own `redundancy.xml` does, which also `preconfigure` of the official
//! chart writes before the first start; then what the gateway said last. Where nothing says that it is a backup, it is
//! treated as one that is alone: nearly all are, and what is written by mistake on a backup its master takes back.
//! The number of the pod says nothing.

use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};
use stoker_ignition::client::GatewayClient;

/// What a backup's agent says beside everything else.
pub(super) const BACKUP_NOTE: &str = "backup: projects, core and modes come from the master";

/// The redundancy role of a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// Alone, or the master of a pair: the configuration is its own.
    Owner,
    /// The backup of a pair: only `external` is its own.
    Backup,
}

impl Role {
    /// From the gateway's word, like `Independent`, `Master` or `Backup`; `None` when it says nothing.
    pub(super) fn parse(word: &str) -> Option<Self> {
        match word.trim() {
            "" => None,
            word if word.eq_ignore_ascii_case("backup") => Some(Self::Backup),
            _ => Some(Self::Owner),
        }
    }

    /// What the gateway's own settings say.
    pub(super) fn configured(data_dir: &Path) -> Option<Self> {
        let mut text = String::new();
        let file = std::fs::File::open(data_dir.join("redundancy.xml")).ok()?;
        file.take(64 * 1024).read_to_string(&mut text).ok()?;
        Self::of_settings(&text)
    }

    /// Reads `<entry key="redundancy.noderole">Backup</entry>`.
    fn of_settings(text: &str) -> Option<Self> {
        let (_, after) = text.split_once("\"redundancy.noderole\"")?;
        let (_, value) = after.split_once('>')?;
        Self::parse(value.split_once('<')?.0)
    }
}

/// Asks the gateway, if it answers. The first way needs no key.
pub(super) async fn ask(client: &GatewayClient) -> Option<Role> {
    let info = client.gwinfo().await.ok()?;
    match info.field("RedundancyStatus").and_then(Role::parse) {
        Some(role) => Some(role),
        None => Role::parse(&client.gateway_info().await.ok()?.redundancy_role),
    }
}

/// Patterns for everything but the collection that is each node's own.
///
/// They name what is *not* `external` instead of excluding all and taking it back: so what a profile excludes within
/// `external`, and takes back there, stays as it is written.
pub(super) fn all_but_external() -> Vec<String> {
    let mut patterns = Vec::new();
    let mut above = String::from("/");
    for name in ["config", "resources", "external"] {
        patterns.extend(others(name).map(|other| format!("{above}{other}")));
        above.push_str(name);
        above.push('/');
    }
    patterns
}

/// Patterns that match every name but this one.
fn others(name: &'static str) -> impl Iterator<Item = String> {
    let first_difference = name.char_indices().map(|(at, c)| format!("{}[!{c}]*", &name[..at]));
    let shorter = name.char_indices().skip(1).map(|(at, _)| name[..at].to_owned());
    first_difference.chain(shorter).chain([format!("{name}?*")])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use stoker_core::{PatternSet, RelPathBuf};

    fn excluded(patterns: &[String], path: &str) -> bool {
        PatternSet::new(patterns).unwrap().excludes(RelPathBuf::parse(path).unwrap().as_path(), false)
    }

    #[test]
    fn the_settings_of_a_gateway_say_what_it_is() {
        let file = |role: &str| {
            format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<!DOCTYPE properties SYSTEM \
                 \"http://java.sun.com/dtd/properties.dtd\">\n<properties>\n\
                 <entry key=\"redundancy.gan.host\">master</entry>\n\
                 <entry key=\"redundancy.noderole\">{role}</entry>\n</properties>\n"
            )
        };
        for (text, role) in [
            (file("Backup"), Some(Role::Backup)),
            (file(" BACKUP "), Some(Role::Backup)),
            (file("Master"), Some(Role::Owner)),
            (file("Independent"), Some(Role::Owner)),
            (file(""), None),
            ("<properties/>".to_owned(), None),
            (String::new(), None),
        ] {
            assert_eq!(Role::of_settings(&text), role, "{text}");
        }
        let data = tempfile::tempdir().unwrap();
        assert_eq!(Role::configured(data.path()), None);
        std::fs::write(data.path().join("redundancy.xml"), file("Backup")).unwrap();
        assert_eq!(Role::configured(data.path()), Some(Role::Backup));
    }

    #[test]
    fn what_a_profile_says_within_external_still_counts() {
        let mut patterns: Vec<String> = [
            "config/resources/external/ignition/api-token/",
            "!config/resources/external/ignition/api-token/ci/",
            "!config/resources/core/ignition/api-token/ci/",
            "!projects/",
        ]
        .map(str::to_owned)
        .into();
        patterns.extend(all_but_external());
        for (path, expected) in [
            ("config/resources/external/config-mode.json", false),
            ("config/resources/external/ignition/tag-provider/x/config.json", false),
            ("config/resources/external/ignition/api-token/x/config.json", true),
            ("config/resources/external/ignition/api-token/ci/config.json", false),
            ("config/resources/core/ignition/api-token/ci/config.json", true),
            ("config/resources/dev/config-mode.json", true),
            ("config/resources/readme.md", true),
            ("config/com.inductiveautomation.opcua/x", true),
            ("projects/line/project.json", true),
            ("user-lib/pylib/a.py", true),
        ] {
            assert_eq!(excluded(&patterns, path), expected, "{path}");
        }
    }

    proptest! {
        #[test]
        fn exactly_the_paths_outside_external_are_excluded(
            parts in prop::collection::vec("(config|resources|external|extern|externals|[a-z][a-z.]{0,8})", 1..6),
        ) {
            let Ok(path) = RelPathBuf::parse(&parts.join("/")) else { return Ok(()) };
            let inside = parts.len() > 3 && parts[..3] == ["config", "resources", "external"];
            // A file of the very name of a directory above is none that a mapping into `external` could bring.
            let above = ["config", "config/resources", "config/resources/external"].contains(&path.as_str());
            prop_assert_eq!(excluded(&all_but_external(), path.as_str()), !inside && !above);
        }
    }
}
