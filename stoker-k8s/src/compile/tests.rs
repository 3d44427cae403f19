use serde_json::json;

use super::*;
use crate::annotations::PodAnnotations;
use crate::api::{OnTimeout, TokenScheme};
use crate::gateway_sync::{Surroundings, engine_spec};
use crate::protocol::{AuthType, Metadata, Rollout, StartupPolicy, Trust};

fn stoker(extra: serde_json::Value) -> StokerSpec {
    let mut spec = json!({
        "git": {"repo": "https://git.example.com/plant.git", "ref": "main"},
        "gateway": {"apiKeySecretRef": {"name": "k"}},
    });
    for (key, value) in extra.as_object().unwrap() {
        spec[key] = value.clone();
    }
    serde_json::from_value(spec).unwrap()
}

fn sync_profile(value: serde_json::Value) -> SyncProfileSpec {
    serde_json::from_value(value).unwrap()
}

/// Without other profiles.
fn profile(
    base: &CompiledProfile,
    name: &str,
    generation: i64,
    spec: &SyncProfileSpec,
) -> Result<CompiledProfile, Problems> {
    super::profile(base, name, generation, spec, &Profiles::new())
}

fn layers(profile: &CompiledProfile) -> Vec<(&str, &str)> {
    profile.mappings.iter().map(|m| (m.source.as_str(), m.destination.as_str())).collect()
}

#[test]
fn layers_lie_in_the_documented_order() {
    let spec = stoker(json!({"shared": {"mappings": [{"source": "shared/icons", "destination": "icons"}]}}));
    let base = base(&spec, 1).unwrap();
    let area = sync_profile(json!({
        "mappings": [
            {"source": "services/area/projects", "destination": "projects"},
            {"source": "shared/tags/{{.Vars.provider}}", "destination": "config/resources/core/ignition/tag-definition/{{.Vars.provider}}"},
        ],
        "deploymentMode": {"name": "prd-cloud", "source": "services/area/config/resources/prd-cloud"},
        "vars": {"provider": "default"},
    }));
    let compiled = profile(&base, "area", 3, &area).unwrap();
    assert_eq!(
        layers(&compiled),
        [
            ("shared/icons", "icons"),
            ("services/area/projects", "projects"),
            (
                "shared/tags/{{.Vars.provider}}",
                "config/resources/core/ignition/tag-definition/{{.Vars.provider}}"
            ),
            ("services/area/config/resources/prd-cloud", "config/resources/core"),
        ]
    );
    assert_eq!(compiled.mappings[1].origin, "profile area, mappings[0]");
    assert_eq!(compiled.mappings[3].origin, "deployment mode prd-cloud");
    let native = sync_profile(json!({
        "mappings": [{"source": "a", "destination": "b"}],
        "deploymentMode": {"name": "prd", "source": "modes/prd", "strategy": "Native"},
    }));
    assert_eq!(layers(&profile(&base, "n", 1, &native).unwrap())[2], ("modes/prd", "config/resources/prd"));
}

#[test]
fn included_mappings_lie_between_the_shared_ones_and_the_profiles_own() {
    let spec = stoker(json!({
        "shared": {"mappings": [{"source": "shared", "destination": "icons"}]},
        "vars": {"set": "dark"},
    }));
    let base = base(&spec, 1).unwrap();
    let mapping = |source: &str| json!({"source": source, "destination": "themes"});
    let (first, second) = (
        sync_profile(json!({
            "mappings": [mapping("first/{{.Vars.set}}"), mapping("more/{{.Vars.own}}")],
            "vars": {"own": "of first"}, "excludePatterns": ["of-first"], "dependsOn": [{"profileName": "x"}],
            "deploymentMode": {"name": "prd", "source": "modes/prd"},
        })),
        sync_profile(json!({"mappings": [mapping("second")]})),
    );
    let others = Profiles::from([("first".to_owned(), &first), ("second".to_owned(), &second)]);
    let area = |vars: serde_json::Value| {
        let includes = json!([{"name": "second"}, {"name": "first"}]);
        let spec = json!({"mappings": [mapping("own")], "includeMappingsFrom": includes, "vars": vars});
        super::profile(&base, "area", 1, &sync_profile(spec), &others)
    };
    let compiled = area(json!({"own": "of area"})).unwrap();
    let sources: Vec<_> = compiled.mappings.iter().map(|m| m.source.as_str()).collect();
    assert_eq!(sources, ["shared", "second", "first/{{.Vars.set}}", "more/{{.Vars.own}}", "own"]);
    assert_eq!(compiled.mappings[2].origin, "profile first, mappings[0]");
    assert_eq!(compiled.vars["own"], "of area", "mappings only");
    assert!(compiled.depends_on.is_empty() && !compiled.exclude_patterns.contains(&"of-first".to_owned()));
    let error = area(json!({})).unwrap_err().to_string();
    assert!(
        error.starts_with("includeMappingsFrom[1] (SyncProfile first).mappings[1].source: ")
            && error.contains("define vars.own in the profile"),
        "{error}"
    );
}

#[test]
fn what_cannot_be_included_is_named_with_the_reason() {
    let mapping = json!([{"source": "a", "destination": "b"}]);
    let deep = sync_profile(json!({"mappings": mapping, "includeMappingsFrom": [{"name": "plain"}]}));
    let broken = sync_profile(json!({"mappings": [{"source": "a", "destination": "var/x"}]}));
    let plain = sync_profile(json!({"mappings": mapping}));
    let others = Profiles::from([
        ("area".to_owned(), &plain),
        ("deep".to_owned(), &deep),
        ("broken".to_owned(), &broken),
        ("plain".to_owned(), &plain),
    ]);
    let names = ["plain", "gone", "area", "deep", "broken"].map(|name| json!({"name": name}));
    let area = sync_profile(json!({"mappings": mapping, "includeMappingsFrom": names}));
    let Problems(problems) =
        super::profile(&CompiledProfile::default(), "area", 1, &area, &others).unwrap_err();
    let said: Vec<_> = problems.iter().map(|p| (p.category.as_str(), p.to_string())).collect();
    for (index, (category, words)) in [
        (
            "IncludeMissing",
            "includeMappingsFrom[1]: there is no SyncProfile gone in this namespace; create it",
        ),
        ("IncludeCircle", "includeMappingsFrom[2]: SyncProfile area includes itself; remove it"),
        (
            "IncludeNested",
            "includeMappingsFrom[3]: SyncProfile deep includes others itself (plain), and includes go one",
        ),
        (
            "IncludeInvalid",
            "includeMappingsFrom[4]: SyncProfile broken is not valid: mappings[0].destination: \"var/x\"",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        assert!(said[index].0 == category && said[index].1.starts_with(words), "{said:#?}");
    }
    assert_eq!(said.len(), 4, "{said:#?}");
}

#[test]
fn the_profile_wins_over_the_stoker() {
    let spec = stoker(json!({
        "vars": {"a": "stoker", "b": "stoker"},
        "excludePatterns": ["**/tmp/"],
        "ignition": {"designerSessionPolicy": "wait"},
        "deployment": {"maxDeletes": {"count": 7}},
    }));
    let base = base(&spec, 1).unwrap();
    assert_eq!((base.sync_period, base.max_deletes.count, base.max_deletes.percent), (30, 7, 50));
    let own = sync_profile(json!({
        "mappings": [{"source": "a", "destination": "b"}],
        "vars": {"a": "profile"}, "excludePatterns": ["!tmp/keep"], "designerSessionPolicy": "fail",
        "syncPeriod": 60, "prune": "Never", "dryRun": true, "paused": true, "limits": {"maxFiles": 5, "maxTotalSize": "1Ki"},
    }));
    let compiled = profile(&base, "p", 2, &own).unwrap();
    assert_eq!((compiled.vars["a"].as_str(), compiled.vars["b"].as_str()), ("profile", "stoker"));
    assert_eq!(compiled.exclude_patterns[DEFAULT_EXCLUDES.len()..], ["**/tmp/", "!tmp/keep"]);
    assert_eq!(compiled.designer_session_policy, DesignerSessionPolicy::Fail);
    assert_eq!((compiled.sync_period, compiled.prune), (60, Prune::Never));
    assert_eq!((compiled.dry_run, compiled.paused), (true, true));
    assert_eq!((compiled.max_files, compiled.max_total_bytes, compiled.generation), (5, 1024, 2));
    let text = serde_json::to_string(&compiled).unwrap();
    assert_eq!(serde_json::from_str::<CompiledProfile>(&text).unwrap(), compiled);
}

#[test]
fn every_problem_is_listed_with_its_place_and_the_remedy() {
    let base = CompiledProfile::default();
    let bad = sync_profile(json!({
        "mappings": [
            {"source": "../up", "destination": "/etc"},
            {"source": "a{{.Nope}}", "destination": "config/local/x"},
            {"source": "a", "destination": "b", "type": "dir", "patches": [{"set": {"a..b": 1, "c": ["{{.Vars.gone}}"]}}]},
            {"source": "{{.SiteNumber}}", "destination": "projects/.resources"},
            {"source": "{{ if x }}", "destination": "var/{{.GatewayName}}"},
        ],
        "excludePatterns": ["fine", "a[b"],
    }));
    let Problems(problems) = profile(&base, "p", 1, &bad).unwrap_err();
    let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
    for (place, part) in [
        ("mappings[0].source", "\"..\""),
        ("mappings[0].destination", "without the leading slash"),
        ("mappings[1].source", "there is no variable .Nope"),
        ("mappings[1].destination", "identity, keystores"),
        ("mappings[2].patches[0].file", "needs the file"),
        ("mappings[2].patches[0].set[\"a..b\"]", "empty step"),
        ("mappings[2].patches[0].set[\"c\"]", "define vars.gone"),
        ("mappings[3].source", "set siteNumber on the Stoker"),
        ("mappings[3].destination", "resource cache"),
        ("mappings[4].source", "is not a variable"),
        ("mappings[4].destination", "runtime data"),
        ("excludePatterns[1]", "a[b"),
    ] {
        assert!(
            text.iter().any(|t| t.starts_with(&format!("{place}: ")) && t.contains(part)),
            "{place} {part}: {text:#?}"
        );
    }
    assert_eq!(problems.len(), 12, "{text:#?}");
}

#[test]
fn what_a_mapping_takes_reaches_the_engine_and_nonsense_is_refused() {
    let mapping = |extra: serde_json::Value| {
        let mut mapping = json!({"source": "a", "destination": "b"});
        mapping.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        profile(&CompiledProfile::default(), "p", 1, &sync_profile(json!({"mappings": [mapping]})))
    };
    let compiled = mapping(json!({"filePattern": "views/{{.GatewayName}}/**", "maxSize": "10Mi"})).unwrap();
    let spec = engine_spec(
        &compiled,
        &GatewayFacts { gateway_name: "line".into(), ..GatewayFacts::default() },
        Surroundings::default(),
    );
    assert_eq!(spec.mappings[0].file_pattern.as_deref(), Some("views/{{.GatewayName}}/**"));
    assert_eq!(spec.mappings[0].max_file_bytes, Some(10 << 20));
    for (extra, said) in [
        (json!({"filePattern": "a["}), "mappings[0].filePattern: pattern \"a[\""),
        (json!({"filePattern": "!a"}), "mappings[0].filePattern: \"!a\" takes nothing"),
        (json!({"filePattern": "../a"}), "mappings[0].filePattern: pattern \"../a\""),
        (json!({"filePattern": "{{.Nope}}"}), "mappings[0].filePattern: there is no variable .Nope"),
        (
            json!({"filePattern": "*", "type": "file"}),
            "mappings[0].filePattern: selects files of a directory",
        ),
        (json!({"maxSize": "0"}), "mappings[0].maxSize: 0 is out of bounds; write a size from 1 to 256Mi"),
        (json!({"maxSize": "257Mi"}), "mappings[0].maxSize: 257Mi is out of bounds"),
        (
            json!({"when": {"podLabels": {"a b": "x"}}}),
            "mappings[0].when.podLabels[\"a b\"]: no label has such a name",
        ),
        (json!({"when": {"podLabels": {"-/b": "x"}}}), "mappings[0].when.podLabels[\"-/b\"]: no label has"),
        (
            json!({"when": {"podLabels": {"a": "{{.GatewayName}}"}}}),
            "mappings[0].when.podLabels[\"a\"]: \"{{.GatewayName}}\" is no value of a label",
        ),
    ] {
        let error = mapping(extra.clone()).unwrap_err().to_string();
        assert!(error.starts_with(said), "{extra}: {error}");
    }
}

#[test]
fn a_mapping_is_there_on_gateways_with_all_its_labels() {
    let spec = sync_profile(json!({"mappings": [
        {"source": "all", "destination": "a"},
        {"source": "edge", "destination": "b", "when": {"podLabels": {"role": "edge"}}},
        {"source": "both", "destination": "c", "when": {"podLabels": {"role": "edge", "example.com/site": ""}}},
    ]}));
    let compiled = profile(&CompiledProfile::default(), "p", 1, &spec).unwrap();
    for (labels, there) in [
        (vec![], vec!["all"]),
        (vec![("role", "core"), ("example.com/site", "")], vec!["all"]),
        (vec![("role", "edge"), ("more", "x")], vec!["all", "edge"]),
        (vec![("role", "edge"), ("example.com/site", "")], vec!["all", "edge", "both"]),
    ] {
        let labels = labels.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        let on = compiled.clone().on(&labels);
        assert_eq!(on.mappings.iter().map(|m| m.source.as_str()).collect::<Vec<_>>(), there, "{labels:?}");
    }
}

#[test]
fn a_variable_of_a_shared_mapping_may_come_from_the_profile() {
    let spec =
        stoker(json!({"shared": {"mappings": [{"source": "icons/{{.Vars.set}}", "destination": "icons"}]}}));
    let base = base(&spec, 1).unwrap();
    let with =
        sync_profile(json!({"mappings": [{"source": "a", "destination": "b"}], "vars": {"set": "dark"}}));
    let without = sync_profile(json!({"mappings": [{"source": "a", "destination": "b"}]}));
    profile(&base, "p", 1, &with).unwrap();
    let error = profile(&base, "p", 1, &without).unwrap_err().to_string();
    assert!(error.starts_with("shared.mappings[0].source: ") && error.contains("define vars.set"), "{error}");
}

fn metadata(base: CompiledProfile) -> Metadata {
    Metadata {
        git_ref: "main".into(),
        commit: None,
        trigger: String::new(),
        paused: false,
        git_url: "https://git.example.com/plant.git".into(),
        auth_type: AuthType::None,
        git_username: None,
        token_scheme: TokenScheme::Basic,
        github_app: None,
        proxy: None,
        allow_insecure: false,
        verify: None,
        trust: Trust::default(),
        gateway_port: 8043,
        gateway_tls: true,
        startup: StartupPolicy { timeout_seconds: 300, on_timeout: OnTimeout::UseLastGood },
        base,
        profiles: BTreeMap::new(),
        rollout: Rollout::default(),
        approval: None,
    }
}

fn pod(pairs: &[(&str, &str)]) -> PodAnnotations {
    let map = pairs.iter().map(|(k, v)| (format!("stoker.io/{k}"), (*v).to_owned())).collect();
    let (read, errors) = PodAnnotations::read(&map);
    assert_eq!(errors, []);
    read
}

#[test]
fn a_site_and_its_areas_need_annotations_only() {
    let spec = stoker(json!({"siteNumber": "12"}));
    let metadata = metadata(base(&spec, 1).unwrap());
    let site = effective(
        &metadata,
        &pod(&[
            ("service-path", "services/site"),
            ("deployment-mode", "prd-cloud"),
            ("tag-provider", "default"),
            ("system-name-template", "site{{.SiteNumber}}"),
        ]),
    )
    .unwrap();
    assert_eq!(
        layers(&site),
        [
            ("services/site/projects", "projects"),
            ("services/site/config/resources/core", "config/resources/core"),
            ("services/site/config/resources/external", "config/resources/external"),
            ("services/site/udts", "config/resources/core/ignition/tag-type-definition/default"),
            ("services/site/config/resources/prd-cloud", "config/resources/core"),
        ]
    );
    assert_eq!(site.system_name_template.as_deref(), Some("site{{.SiteNumber}}"));
    let area = effective(
        &metadata,
        &pod(&[
            ("service-path", "services/area/"),
            ("tag-provider", "edge"),
            ("system-name-template", "site{{.SiteNumber}}-{{.GatewayName}}"),
            ("exclude-patterns", "**/x.json"),
            ("sync-period", "60"),
        ]),
    )
    .unwrap();
    assert_eq!(area.mappings[3].destination, "config/resources/core/ignition/tag-type-definition/edge");
    assert_eq!(area.mappings.len(), 4);
    assert!(area.mappings.iter().all(|m| !m.required));
    assert_eq!((area.sync_period, area.exclude_patterns.last().unwrap().as_str()), (60, "**/x.json"));
    let root = effective(&metadata, &pod(&[("service-path", ".")])).unwrap();
    assert_eq!(root.mappings[0].source, "projects");
    assert_eq!(root.system_name_template, None);
}

#[test]
fn a_plain_system_name_wins_over_a_template() {
    let spec = stoker(json!({"ignition": {"systemNameTemplate": "all-{{.PodName}}"}}));
    let metadata = metadata(base(&spec, 1).unwrap());
    let name = |pairs| effective(&metadata, &pod(pairs)).map(|p| p.system_name_template.unwrap());
    assert_eq!(name(&[("service-path", "s")]).unwrap(), "all-{{.PodName}}");
    assert_eq!(name(&[("service-path", "s"), ("system-name-template", "t")]).unwrap(), "t");
    assert_eq!(
        name(&[("service-path", "s"), ("system-name-template", "t"), ("system-name", "n")]).unwrap(),
        "n"
    );
    let error = name(&[("service-path", "s"), ("system-name", "{{.PodName}}")]).unwrap_err();
    assert!(stoker_core::chain(&error).contains("stoker.io/system-name-template"), "{error}");
}

#[test]
fn a_pod_without_anything_to_run_is_told_why() {
    let empty = metadata(CompiledProfile::default());
    for (pairs, category, part) in [
        (vec![], "ProfileUnclear", "neither"),
        (vec![("service-path", "a"), ("sync-profile", "b")], "ProfileUnclear", "remove one"),
        (vec![("sync-profile", "b")], "ProfileMissing", "SyncProfile b"),
        (vec![("service-path", "../a")], "InvalidPath", ".."),
        (vec![("service-path", "a"), ("tag-provider", "../../var")], "InvalidPath", "tag-type-definition"),
        (vec![("service-path", "a"), ("deployment-mode", "x/y")], "InvalidPath", "without slashes"),
        (vec![("service-path", "a"), ("exclude-patterns", "a[")], "InvalidPattern", "a["),
        (
            vec![("service-path", "a"), ("system-name-template", "{{.SiteNumber}}")],
            "TemplateError",
            "siteNumber",
        ),
    ] {
        let error = effective(&empty, &pod(&pairs)).expect_err(part);
        let text = stoker_core::chain(&error);
        assert_eq!(error.category().as_str(), category, "{text}");
        assert!(text.contains(part), "{text}");
    }
    let mut shared = CompiledProfile::default();
    shared.push("shared.mappings[0]", Mapping::new("a", "b"));
    assert_eq!(effective(&metadata(shared.clone()), &pod(&[])).unwrap(), shared);
}
