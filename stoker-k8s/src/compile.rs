//! From what people write to what the engine runs, checked.
//!
//! ```text
//! Stoker ──────────────▶ base ─┬─ + SyncProfile ──────▶ profile      (three tiers, by the controller)
//!                              │      + mappings of included profiles
//!                              └─ + pod annotations ──▶ two-tier profile (by the agent)
//! ```
//!
//! All of it is pure. A result exists only when nothing was wrong; otherwise *every* problem is listed with its place.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use stoker_core::{Category, Fault, Retry};
use stoker_ignition::rules::DEFAULT_EXCLUDES;

use crate::api::{
    AgentConfig, ByteSize, DeploymentMode, DesignerSessionPolicy, Limits, Mapping, MappingType, MaxDeletes,
    ModeStrategy, Patch, Prune, StokerSpec, SyncProfileSpec,
};

mod check;
mod depends;
mod effective;
mod include;
mod variables;

pub use depends::{Dependencies, no_circle};
pub use effective::{EffectiveError, effective, two_tier};
pub use include::Profiles;
pub use variables::{GatewayFacts, variables};

/// Seconds between two drift checks, unless a profile or annotation says otherwise.
pub const DEFAULT_SYNC_PERIOD: u32 = 30;

/// What one gateway gets: everything resolved but the values of template variables.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CompiledProfile {
    /// Generation of the `SyncProfile`, 0 where there is none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub generation: i64,
    /// Digest of the rest, by whoever put this into the metadata ConfigMap. An agent repeats it in its report, so that
    /// an edit that changes no commit is followed, too.
    #[serde(default)]
    pub revision: String,
    /// Layers, in order: a later one wins.
    pub mappings: Vec<CompiledMapping>,
    /// Patterns of files that are neither written nor deleted, in order: the last match decides.
    pub exclude_patterns: Vec<String>,
    /// Template variables.
    pub vars: BTreeMap<String, String>,
    /// `{{.SiteNumber}}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site_number: Option<String>,
    /// Template of `systemName`; absent: left alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_name_template: Option<String>,
    /// Profiles whose gateways go first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<String>,
    /// What happens to files that the repository does not have.
    pub prune: Prune,
    /// Most files.
    pub max_files: u64,
    /// Most bytes.
    pub max_total_bytes: u64,
    /// Deletions that one sync may carry out.
    pub max_deletes: MaxDeletes,
    /// Change nothing, report only.
    #[serde(default)]
    pub dry_run: bool,
    /// Hold.
    #[serde(default)]
    pub paused: bool,
    /// Seconds between two drift checks.
    pub sync_period: u32,
    /// What to do when a designer session is open.
    pub designer_session_policy: DesignerSessionPolicy,
    /// Longest wait for designers to leave, in seconds.
    pub designer_wait_seconds: u64,
}

/// One layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CompiledMapping {
    /// Where it was written, for people: `profile area, mappings[1]`.
    pub origin: String,
    /// Path in the repository; may hold template variables.
    pub source: String,
    /// Path in the data directory; may hold template variables.
    pub destination: String,
    /// `dir` or `file`, when it was given.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<MappingType>,
    /// A missing source is an error.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
    /// Render the contents.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub template: bool,
    /// Values to set in JSON files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub patches: Vec<Patch>,
    /// Which files of a directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_pattern: Option<String>,
    /// The largest file, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_file_bytes: Option<u64>,
    /// Labels without which a gateway does not have this mapping.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pod_labels: BTreeMap<String, String>,
}

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where, like `mappings[2].destination`.
    pub place: String,
    /// What is wrong and what to write instead.
    pub message: String,
    /// The class of the problem.
    pub category: Category,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

/// Everything that is wrong with one object. Never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct Problems(pub Vec<Problem>);

impl Fault for Problems {
    fn category(&self) -> Category {
        self.0.first().map_or(Category::new("ProfileInvalid"), |p| p.category)
    }

    fn retry(&self) -> Retry {
        Retry::AfterChange
    }
}

impl Default for CompiledProfile {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            generation: 0,
            revision: String::new(),
            mappings: Vec::new(),
            exclude_patterns: Vec::new(),
            vars: BTreeMap::new(),
            site_number: None,
            system_name_template: None,
            depends_on: Vec::new(),
            prune: Prune::default(),
            max_files: limits.max_files,
            max_total_bytes: limits.max_total_size.0,
            max_deletes: MaxDeletes::default(),
            dry_run: false,
            paused: false,
            sync_period: DEFAULT_SYNC_PERIOD,
            designer_session_policy: DesignerSessionPolicy::default(),
            designer_wait_seconds: 300,
        }
    }
}

impl CompiledProfile {
    /// Adds a layer on top.
    pub fn push(&mut self, origin: impl Into<String>, mapping: Mapping) {
        let Mapping { source, destination, kind, required, template, patches, .. } = mapping;
        self.mappings.push(CompiledMapping {
            origin: origin.into(),
            source,
            destination,
            kind,
            required,
            template,
            patches,
            file_pattern: mapping.file_pattern,
            max_file_bytes: mapping.max_size.map(|ByteSize(bytes)| bytes),
            pod_labels: mapping.when.map(|when| when.pod_labels).unwrap_or_default(),
        });
    }

    /// What is left of it on a gateway with these labels: a mapping that is for others is not there.
    #[must_use]
    pub fn on(mut self, labels: &BTreeMap<String, String>) -> Self {
        self.mappings.retain(|m| m.pod_labels.iter().all(|(name, value)| labels.get(name) == Some(value)));
        self
    }

    /// Adds the resources of a deployment mode on top.
    fn push_mode(&mut self, mode: &DeploymentMode) {
        let destination = match mode.strategy {
            ModeStrategy::Overlay => "config/resources/core".to_owned(),
            ModeStrategy::Native => format!("config/resources/{}", mode.name),
        };
        let mapping = Mapping { kind: Some(MappingType::Dir), ..Mapping::new(&mode.source, destination) };
        self.push(format!("deployment mode {}", mode.name), mapping);
    }
}

/// What holds for every gateway of a `Stoker`.
///
/// # Errors
/// All that is wrong with its templates, patterns and shared mappings.
pub fn base(spec: &StokerSpec, generation: i64) -> Result<CompiledProfile, Problems> {
    let mut base = CompiledProfile {
        generation,
        exclude_patterns: excludes(&spec.exclude_patterns),
        vars: spec.vars.clone(),
        site_number: spec.site_number.clone(),
        system_name_template: spec.ignition.system_name_template.clone(),
        max_deletes: spec.deployment.max_deletes,
        designer_session_policy: spec.ignition.designer_session_policy,
        designer_wait_seconds: spec.ignition.designer_wait_timeout.0.as_secs(),
        ..CompiledProfile::default()
    };
    let shared = spec.shared.iter().flat_map(|shared| &shared.mappings);
    for (index, mapping) in shared.enumerate() {
        base.push(format!("shared.mappings[{index}]"), mapping.clone());
    }
    let mut checks = check::Checks::new(&base);
    for (index, mapping) in base.mappings.iter().enumerate() {
        // A profile may define what a shared mapping names: variables of that kind are judged there.
        checks.mapping(&format!("shared.mappings[{index}]"), mapping, check::Vars::MayComeLater);
    }
    checks.patterns("excludePatterns", &spec.exclude_patterns);
    if let Some(template) = &base.system_name_template {
        checks.template("ignition.systemNameTemplate", template, check::Vars::MayComeLater);
    }
    checks.finish().map(|()| base)
}

/// What the gateways of a `SyncProfile` get, on top of `base`; `others` are the profiles that it may include.
///
/// # Errors
/// All that is wrong with it.
pub fn profile(
    base: &CompiledProfile,
    name: &str,
    generation: i64,
    spec: &SyncProfileSpec,
    others: &Profiles<'_>,
) -> Result<CompiledProfile, Problems> {
    let mut compiled = base.clone();
    compiled.generation = generation;
    compiled.exclude_patterns.extend(spec.exclude_patterns.iter().cloned());
    compiled.vars.extend(spec.vars.clone());
    compiled.depends_on = spec.depends_on.iter().map(|d| d.profile_name.clone()).collect();
    compiled.prune = spec.prune;
    let Limits { max_files, max_total_size: ByteSize(max_total_bytes) } = spec.limits;
    (compiled.max_files, compiled.max_total_bytes) = (max_files, max_total_bytes);
    compiled.dry_run = spec.dry_run;
    compiled.paused = spec.paused;
    compiled.sync_period = spec.sync_period.unwrap_or(base.sync_period);
    compiled.designer_session_policy = spec.designer_session_policy.unwrap_or(base.designer_session_policy);
    let mut places: Vec<String> =
        (0..compiled.mappings.len()).map(|index| format!("shared.mappings[{index}]")).collect();
    let nothing = CompiledProfile::default();
    let mut unusable = check::Checks::new(&nothing);
    for included in include::included(name, spec, others, &mut unusable) {
        compiled.push(included.origin, included.mapping.clone());
        places.push(included.place);
    }
    for (index, mapping) in spec.mappings.iter().enumerate() {
        compiled.push(format!("profile {name}, mappings[{index}]"), mapping.clone());
        places.push(format!("mappings[{index}]"));
    }
    if let Some(mode) = &spec.deployment_mode {
        compiled.push_mode(mode);
        places.push("deploymentMode".to_owned());
    }

    let mut checks = check::Checks::new(&compiled);
    checks.add(unusable.finish());
    for (place, mapping) in places.iter().zip(&compiled.mappings) {
        checks.mapping(place, mapping, check::Vars::Known);
    }
    checks.patterns("excludePatterns", &spec.exclude_patterns);
    if let Some(template) = &compiled.system_name_template {
        checks.template("ignition.systemNameTemplate", template, check::Vars::Known);
    }
    checks.finish().map(|()| compiled)
}

/// Judges what a profile includes, where there is no `Stoker` to judge more by.
///
/// # Errors
/// Every name that it cannot include.
pub fn includes(name: &str, spec: &SyncProfileSpec, others: &Profiles<'_>) -> Result<(), Problems> {
    let nothing = CompiledProfile::default();
    let mut checks = check::Checks::new(&nothing);
    include::included(name, spec, others, &mut checks);
    checks.finish()
}

/// Judges a profile on its own: a variable that it does not define may come from a `Stoker`.
///
/// # Errors
/// All that is wrong with it in any case.
pub fn profile_alone(name: &str, spec: &SyncProfileSpec) -> Result<(), Problems> {
    let mut alone = CompiledProfile::default();
    for mapping in &spec.mappings {
        alone.push(name, mapping.clone());
    }
    if let Some(mode) = &spec.deployment_mode {
        alone.push_mode(mode);
    }
    let mut checks = check::Checks::new(&alone);
    for (index, mapping) in alone.mappings.iter().enumerate() {
        let place = if index < spec.mappings.len() {
            format!("mappings[{index}]")
        } else {
            "deploymentMode".to_owned()
        };
        checks.mapping(&place, mapping, check::Vars::NoStoker);
    }
    checks.patterns("excludePatterns", &spec.exclude_patterns);
    checks.finish()
}

/// What the gateway of a configuration file gets.
///
/// # Errors
/// All that is wrong with it.
pub fn config(config: &AgentConfig) -> Result<CompiledProfile, Problems> {
    let base = CompiledProfile {
        exclude_patterns: excludes(&config.exclude_patterns),
        vars: config.vars.clone(),
        site_number: config.site_number.clone(),
        max_deletes: config.max_deletes,
        ..CompiledProfile::default()
    };
    let mut checks = check::Checks::new(&base);
    checks.patterns("excludePatterns", &config.exclude_patterns);
    if !config.profile.depends_on.is_empty() {
        let message = "a gateway without Kubernetes knows no other gateways to wait for: remove it";
        checks.refuse_field("profile.dependsOn", message);
    }
    if !config.profile.include_mappings_from.is_empty() {
        let message = "a gateway without Kubernetes knows no other profiles: write their mappings into profile.mappings";
        checks.refuse_field("profile.includeMappingsFrom", message);
    }
    let own = checks.finish();
    let spec = SyncProfileSpec { include_mappings_from: Vec::new(), ..config.profile.clone() };
    match (own, profile(&base, &config.gateway_name, 0, &spec, &Profiles::new())) {
        (Ok(()), compiled) => compiled,
        (Err(problems), Ok(_)) => Err(problems),
        (Err(Problems(mut all)), Err(Problems(more))) => {
            all.extend(more.into_iter().map(|p| Problem { place: format!("profile.{}", p.place), ..p }));
            Err(Problems(all))
        }
    }
}

/// What every gateway keeps to itself by default, then what was written: a later pattern may take something back.
fn excludes(written: &[String]) -> Vec<String> {
    DEFAULT_EXCLUDES.iter().map(|e| e.pattern.to_owned()).chain(written.iter().cloned()).collect()
}

fn is_zero(n: &i64) -> bool {
    *n == 0
}

#[cfg(test)]
mod tests;
