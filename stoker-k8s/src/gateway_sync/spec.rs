//! What the engine is told for one gateway: its profile, and what every Ignition gateway needs.

use std::collections::BTreeSet;

use stoker_core::{
    FileEdit, Generated, Limits, LiveRules, Mapping, MappingKind, MaxDeletes, Patch, Protection, Prune,
    RelPath, RelPathBuf, SyncSpec, Template,
};
use stoker_ignition::rules::{
    CONFIG_MODE_FILE, DEFAULT_EXCLUDES, MANIFEST_FILES, MIRROR_KEEPS, ProtectionTable, config_mode_json,
    same_but_for_stamp,
};

use super::role::all_but_external;
use crate::api;
use crate::compile::{CompiledProfile, GatewayFacts, variables};

/// Where a gateway keeps its `systemName` (fact sheet, section 2.2).
const SYSTEM_PROPERTIES: &str = "config/resources/core/ignition/system-properties/config.json";

/// What a gateway's spec depends on besides its profile.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Patterns for the tags that the gateway makes at run time; a profile may take them back.
    pub tag_trees: Vec<String>,
    /// It is the backup of a redundant pair: only `external` is its own.
    pub backup: bool,
}

/// The engine's spec for a gateway.
#[must_use]
pub fn engine_spec(profile: &CompiledProfile, facts: &GatewayFacts, around: Surroundings) -> SyncSpec {
    let defaults = DEFAULT_EXCLUDES.iter().map(|e| e.pattern.to_owned()).chain(around.tag_trees);
    let not_its_own = if around.backup { all_but_external() } else { Vec::new() };
    let protections = ProtectionTable::default().patterns().into_iter();
    let variables = variables(profile, facts);
    SyncSpec {
        mappings: profile.mappings.iter().map(mapping).collect(),
        excludes: defaults.chain(profile.exclude_patterns.iter().cloned()).chain(not_its_own).collect(),
        protections: protections
            .map(|(pattern, reason)| Protection { pattern, reason: reason.to_owned() })
            .collect(),
        edits: profile.system_name_template.iter().map(|template| system_name(template)).collect(),
        generated: collections(profile, &variables),
        last_in_directory: MANIFEST_FILES.iter().map(|&name| name.to_owned()).collect(),
        prune: match profile.prune {
            api::Prune::Owned => Prune::Owned,
            api::Prune::Mirror => Prune::Mirror,
            api::Prune::Never => Prune::Never,
        },
        mirror_keeps: MIRROR_KEEPS.map(str::to_owned).to_vec(),
        needed_while_filled: vec![format!("/config/resources/*/{CONFIG_MODE_FILE}")],
        limits: Limits {
            max_files: profile.max_files,
            max_total_bytes: profile.max_total_bytes,
            ..Limits::default()
        },
        max_deletes: MaxDeletes { count: profile.max_deletes.count, percent: profile.max_deletes.percent },
        variables,
        ..SyncSpec::default()
    }
}

fn mapping(compiled: &crate::compile::CompiledMapping) -> Mapping {
    Mapping {
        origin: compiled.origin.clone(),
        source: compiled.source.clone(),
        destination: compiled.destination.clone(),
        kind: compiled.kind.map(|kind| match kind {
            api::MappingType::Dir => MappingKind::Dir,
            api::MappingType::File => MappingKind::File,
        }),
        required: compiled.required,
        template: compiled.template,
        patches: compiled
            .patches
            .iter()
            .map(|p| Patch { file: p.file.clone(), set: p.set.clone() })
            .collect(),
        file_pattern: compiled.file_pattern.clone(),
        max_file_bytes: compiled.max_file_bytes,
    }
}

fn system_name(template: &str) -> FileEdit {
    FileEdit {
        origin: "system name".to_owned(),
        path: SYSTEM_PROPERTIES.to_owned(),
        set: [("systemName".to_owned(), template.into())].into(),
    }
}

/// A collection with resources but without `config-mode.json` faults the gateway at its next start: every collection
/// that may get files gets one, unless git or the gateway has one already.
fn collections(profile: &CompiledProfile, variables: &stoker_core::Variables) -> Vec<Generated> {
    let mut names: BTreeSet<String> = ["core".to_owned(), "external".to_owned()].into();
    for mapping in &profile.mappings {
        let destination = Template::parse(&mapping.destination).and_then(|t| t.render(variables, 4096));
        let destination = destination.ok().and_then(|text| RelPathBuf::parse(&text).ok()).unwrap_or_default();
        let below = RelPathBuf::parse("config/resources").unwrap_or_default();
        if let Some(rest) = destination.as_path().strip_prefix(below.as_path())
            && let Some(name) = rest.components().next()
        {
            names.insert(name.to_owned());
        }
    }
    let generated = |name: &String| {
        let needed_by = RelPathBuf::parse(&format!("config/resources/{name}")).ok()?;
        Some(Generated {
            origin: format!("config-mode.json of collection {name}"),
            path: needed_by.as_path().child(CONFIG_MODE_FILE).ok()?,
            needed_by,
            content: config_mode_json(name),
        })
    };
    names.iter().filter_map(generated).collect()
}

/// What counts as unchanged on a gateway: it restamps `resource.json` when files change outside of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct IgnitionRules;

impl LiveRules for IgnitionRules {
    fn equivalent(&self, path: RelPath<'_>, ours: &[u8], live: &[u8]) -> bool {
        path.file_name().is_some_and(|name| MANIFEST_FILES.contains(&name)) && same_but_for_stamp(ours, live)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Mapping as ApiMapping;
    use crate::compile::CompiledMapping;

    fn profile(destinations: &[&str]) -> CompiledProfile {
        let mut profile = CompiledProfile::default();
        for destination in destinations {
            profile.push("m", ApiMapping::new("s", *destination));
        }
        profile
    }

    #[test]
    fn every_collection_that_may_get_files_is_completed() {
        let spec = engine_spec(
            &profile(&[
                "projects",
                "config/resources/prd-{{.GatewayName}}",
                "config/resources/core/ignition",
            ]),
            &GatewayFacts { gateway_name: "a".into(), ..GatewayFacts::default() },
            Surroundings::default(),
        );
        let paths: Vec<&str> = spec.generated.iter().map(|g| g.path.as_str()).collect();
        assert_eq!(
            paths,
            ["core", "external", "prd-a"].map(|c| format!("config/resources/{c}/config-mode.json"))
        );
    }

    #[test]
    fn a_restamped_resource_is_not_drift_but_a_changed_one_is() {
        let path = RelPathBuf::parse("projects/p/view/resource.json").unwrap();
        let ours =
            br#"{"scope":"G","files":["view.json"],"attributes":{"lastModification":{"actor":"admin"}}}"#;
        let restamped =
            br#"{"scope":"G","files":["view.json"],"attributes":{"lastModification":{"actor":"external"}}}"#;
        let changed =
            br#"{"scope":"D","files":["view.json"],"attributes":{"lastModification":{"actor":"external"}}}"#;
        assert!(IgnitionRules.equivalent(path.as_path(), ours, restamped));
        assert!(!IgnitionRules.equivalent(path.as_path(), ours, changed));
        let other = RelPathBuf::parse("projects/p/view/view.json").unwrap();
        assert!(!IgnitionRules.equivalent(other.as_path(), ours, restamped));
    }

    #[test]
    fn a_profile_can_take_back_a_default_exclude_but_never_a_protection() {
        let mut profile = profile(&["."]);
        profile.exclude_patterns =
            vec!["!config/resources/core/ignition/api-token/ci/".into(), "!logs/".into()];
        let spec = engine_spec(&profile, &GatewayFacts::default(), Surroundings::default());
        let excludes = stoker_core::PatternSet::new(&spec.excludes).unwrap();
        let path = |text: &str| RelPathBuf::parse(text).unwrap();
        assert!(
            !excludes
                .excludes(path("config/resources/core/ignition/api-token/ci/config.json").as_path(), false)
        );
        assert!(
            excludes
                .excludes(path("config/resources/core/ignition/api-token/x/config.json").as_path(), false)
        );
        let protected = stoker_core::PatternSet::new(spec.protections.iter().map(|p| &p.pattern)).unwrap();
        assert!(protected.excludes(path("logs/wrapper.log").as_path(), false));
    }

    #[test]
    fn a_system_name_becomes_an_edit() {
        let profile =
            CompiledProfile { system_name_template: Some("site{{.SiteNumber}}".into()), ..profile(&["x"]) };
        let spec = engine_spec(&profile, &GatewayFacts::default(), Surroundings::default());
        assert_eq!(spec.edits[0].set["systemName"], "site{{.SiteNumber}}");
        let _: &CompiledMapping = &profile.mappings[0];
    }
}
