//! What is left alone by default, although a profile may include it again.

use std::collections::BTreeMap;

use serde::Deserialize;

/// A pattern that is excluded by default, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exclude {
    /// A pattern as [`stoker_core::PatternSet`] reads it, for paths relative to the data directory.
    pub pattern: &'static str,
    /// Why it is left alone.
    pub reason: &'static str,
}

const fn own(pattern: &'static str) -> Exclude {
    Exclude { pattern, reason: "every gateway creates its own at first boot" }
}

const fn identity(pattern: &'static str) -> Exclude {
    Exclude { pattern, reason: "holds hashes or secrets of one gateway" }
}

/// Resources inside `core` that each gateway makes itself: from another gateway they break or clobber it.
///
/// Tag trees come on top, see [`tag_tree_patterns`]. Source: fact sheet, section 2.3.
pub const DEFAULT_EXCLUDES: &[Exclude] = &[
    identity("config/resources/core/ignition/user-source/"),
    own("config/resources/core/ignition/identity-provider/temp*/"),
    identity("config/resources/core/ignition/opc-connection/"),
    identity("config/resources/core/ignition/api-token/"),
    own("config/resources/core/ignition/gateway-network-queue-settings/"),
    own("config/resources/core/ignition/gateway-network-proxy-rules/"),
    own("config/resources/core/ignition/gateway-network-incoming/"),
    own("config/resources/core/ignition/quickstart/"),
    own("config/resources/core/com.inductiveautomation.opcua/one-time/"),
];

/// Tag providers that are runtime-owned by name, when no `config.json` says otherwise.
const MANAGED_BY_NAME: [&str; 3] = ["System", "MQTT Engine", "MQTT Transmission"];

/// Who owns the tag tree of a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TagProviderOwner {
    /// Definitions live in files: they can be synced.
    Files,
    /// The gateway or one of its modules makes the tags at run time.
    Gateway,
}

/// Judges a tag provider by the `profile.type` of its `config.json`; by its name only when that file is absent or
/// does not say.
///
/// ```
/// use stoker_ignition::rules::{TagProviderOwner, tag_provider_owner};
/// let standard = br#"{"profile":{"type":"STANDARD"}}"#;
/// assert_eq!(tag_provider_owner("MQTT Engine", Some(standard)), TagProviderOwner::Files);
/// assert_eq!(tag_provider_owner("MQTT Engine", None), TagProviderOwner::Gateway);
/// ```
#[must_use]
pub fn tag_provider_owner(name: &str, config_json: Option<&[u8]>) -> TagProviderOwner {
    #[derive(Deserialize)]
    struct Config {
        profile: Profile,
    }
    #[derive(Deserialize)]
    struct Profile {
        r#type: String,
    }
    let managed = match config_json.and_then(|c| serde_json::from_slice::<Config>(c).ok()) {
        Some(config) => config.profile.r#type.eq_ignore_ascii_case("MANAGED"),
        None => MANAGED_BY_NAME.contains(&name),
    };
    if managed { TagProviderOwner::Gateway } else { TagProviderOwner::Files }
}

/// Patterns for the tag trees of runtime-owned providers, in every collection.
///
/// `providers` are the tag providers that are known (from the source or from the live directory), each with the
/// content of its `config.json`. One that is named more than once is the gateway's when any of them says so; one that
/// is not named is judged by its name alone.
#[must_use]
pub fn tag_tree_patterns<'a>(
    providers: impl IntoIterator<Item = (&'a str, Option<&'a [u8]>)>,
) -> Vec<String> {
    let mut owned: BTreeMap<&str, bool> = BTreeMap::new();
    for (name, config) in providers {
        *owned.entry(name).or_default() |= tag_provider_owner(name, config) == TagProviderOwner::Gateway;
    }
    for name in MANAGED_BY_NAME {
        owned.entry(name).or_insert(true);
    }
    owned
        .into_iter()
        .filter_map(|(name, by_gateway)| by_gateway.then_some(name))
        .flat_map(|name| {
            let name = escape(name);
            ["tag-definition", "tag-type-definition"]
                .map(|tree| format!("config/resources/*/ignition/{tree}/{name}/"))
        })
        .collect()
}

/// A name as a pattern that matches only itself.
fn escape(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for c in name.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '{' | '}' | '\\' | '!') {
            text.push('\\');
        }
        text.push(c);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use stoker_core::{PatternSet, RelPathBuf};

    fn excluded(patterns: &[String], path: &str) -> bool {
        PatternSet::new(patterns).unwrap().excludes(RelPathBuf::parse(path).unwrap().as_path(), false)
    }

    #[test]
    fn what_a_gateway_makes_itself_is_left_alone_and_can_be_taken_back() {
        let mut patterns: Vec<String> = DEFAULT_EXCLUDES.iter().map(|e| e.pattern.to_owned()).collect();
        let user = "config/resources/core/ignition/user-source/default/users.json";
        assert!(excluded(&patterns, user));
        assert!(excluded(&patterns, "config/resources/core/ignition/identity-provider/temp_0/config.json"));
        assert!(!excluded(&patterns, "config/resources/core/ignition/identity-provider/corp/config.json"));
        assert!(!excluded(&patterns, "config/resources/external/ignition/api-token/ci/config.json"));
        patterns.push("!config/resources/core/ignition/user-source/default/".into());
        assert!(!excluded(&patterns, user));
    }

    #[test]
    fn a_tag_tree_follows_the_profile_type_not_the_name() {
        let managed = br#"{"profile":{"type":"MANAGED"},"settings":{}}"#.as_slice();
        let standard = br#"{"profile":{"type":"STANDARD"}}"#.as_slice();
        let patterns = tag_tree_patterns([
            ("default", Some(standard)),
            ("Line [1]", Some(managed)),
            ("MQTT Engine", Some(standard)),
            ("both", Some(managed)),
            ("both", Some(standard)),
        ]);
        let tree = |p: &str| format!("config/resources/core/ignition/tag-definition/{p}/a/tags.json");
        assert!(excluded(&patterns, &tree("System")));
        assert!(excluded(&patterns, &tree("Line [1]")));
        assert!(!excluded(&patterns, &tree("Line 1")));
        assert!(!excluded(&patterns, &tree("MQTT Engine")));
        assert!(!excluded(&patterns, &tree("default")));
        assert!(excluded(&patterns, &tree("both")));
        assert!(excluded(
            &patterns,
            "config/resources/external/ignition/tag-type-definition/System/udts.json"
        ));
    }

    #[test]
    fn an_unreadable_provider_file_falls_back_to_the_name() {
        assert_eq!(tag_provider_owner("System", Some(b"{")), TagProviderOwner::Gateway);
        assert_eq!(tag_provider_owner("edge", Some(b"{}")), TagProviderOwner::Files);
    }
}
