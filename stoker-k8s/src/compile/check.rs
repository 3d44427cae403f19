//! What can be judged without a repository and without a gateway.

use std::collections::BTreeSet;

use serde_json::Value;
use stoker_core::json::JsonPath;
use stoker_core::template::Template;
use stoker_core::{Category, Fault, PatternSet, RelPathBuf};
use stoker_ignition::rules::{Protection, protected};

use super::{CompiledMapping, CompiledProfile, Problem, Problems};
use crate::api::{ByteSize, MappingType};

/// Template variables that every gateway has.
pub(super) const TEXT_VARIABLES: [&str; 7] =
    ["GatewayName", "PodName", "PodOrdinal", "Namespace", "CRName", "Ref", "Commit"];

/// Whether the variables of `Vars` are all known yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Vars {
    /// One that is not there is a problem.
    Known,
    /// A profile may still add some.
    MayComeLater,
    /// A `Stoker` may add some, and a site number.
    NoStoker,
}

/// Collects problems.
pub(super) struct Checks<'a> {
    vars: BTreeSet<&'a str>,
    site_number: bool,
    problems: Vec<Problem>,
}

const PATH: Category = Category::new("InvalidPath");
const PROTECTED: Category = Category::new("ProtectedPath");
const TEMPLATE: Category = Category::new("TemplateError");
const PATTERN: Category = Category::new("InvalidPattern");

/// The largest file that a mapping may ask for: git objects beyond it are not read (`stoker_git::Limits`).
const MAX_FILE_BYTES: u64 = 256 << 20;

impl<'a> Checks<'a> {
    pub(super) fn new(profile: &'a CompiledProfile) -> Self {
        Self {
            vars: profile.vars.keys().map(String::as_str).collect(),
            site_number: profile.site_number.is_some(),
            problems: Vec::new(),
        }
    }

    pub(super) fn finish(self) -> Result<(), Problems> {
        if self.problems.is_empty() { Ok(()) } else { Err(Problems(self.problems)) }
    }

    /// Adds what others have found.
    pub(super) fn add(&mut self, found: Result<(), Problems>) {
        if let Err(Problems(problems)) = found {
            self.problems.extend(problems);
        }
    }

    fn push(&mut self, place: impl Into<String>, category: Category, message: impl Into<String>) {
        self.problems.push(Problem { place: place.into(), message: message.into(), category });
    }

    /// Adds a problem with a path.
    pub(super) fn refuse(&mut self, place: &str, message: String) {
        self.push(place, PATH, message);
    }

    /// Adds a problem of a class of its own.
    pub(super) fn refuse_as(&mut self, place: &str, category: Category, message: String) {
        self.push(place, category, message);
    }

    /// Adds a field that has no meaning here.
    pub(super) fn refuse_field(&mut self, place: &str, message: &str) {
        self.push(place, Category::new("ProfileInvalid"), message);
    }

    pub(super) fn patterns(&mut self, place: &str, patterns: &[String]) {
        for (index, pattern) in patterns.iter().enumerate() {
            if let Err(error) = PatternSet::new([pattern]) {
                self.push(format!("{place}[{index}]"), error.category(), error.to_string());
            }
        }
    }

    pub(super) fn mapping(&mut self, place: &str, mapping: &CompiledMapping, vars: Vars) {
        self.path(&format!("{place}.source"), &mapping.source, vars);
        let destination = format!("{place}.destination");
        self.path(&destination, &mapping.destination, vars);
        if let Some(row) = protection(&mapping.destination) {
            self.push(
                &destination,
                PROTECTED,
                format!(
                    "{:?} is protected: {}; write a destination like projects or config/resources/core",
                    mapping.destination, row.reason
                ),
            );
        }
        self.selection(place, mapping, vars);
        for (index, patch) in mapping.patches.iter().enumerate() {
            let place = format!("{place}.patches[{index}]");
            match &patch.file {
                Some(file) => self.pattern(&format!("{place}.file"), file, vars),
                None if mapping.kind == Some(MappingType::Dir) => {
                    let message =
                        "missing; a mapping of type dir needs the file below its destination that is patched";
                    self.push(format!("{place}.file"), PATH, message);
                }
                None => {}
            }
            for (path, value) in &patch.set {
                let place = format!("{place}.set[{path:?}]");
                if let Err(error) = JsonPath::parse(path) {
                    self.push(&place, error.category(), error.to_string());
                }
                self.values(&place, value, vars);
            }
        }
    }

    /// Which files a mapping takes.
    fn selection(&mut self, place: &str, mapping: &CompiledMapping, vars: Vars) {
        if let Some(pattern) = &mapping.file_pattern {
            let place = format!("{place}.filePattern");
            self.pattern(&place, pattern, vars);
            if pattern.starts_with('!') {
                let message = format!(
                    "{pattern:?} takes nothing; write which files to take, and leave files out by excludePatterns"
                );
                self.push(&place, PATTERN, message);
            }
            if mapping.kind == Some(MappingType::File) {
                self.push(&place, PATTERN, "selects files of a directory: remove it, or write type: dir");
            }
        }
        if let Some(bytes) = mapping.max_file_bytes.filter(|bytes| !(1..=MAX_FILE_BYTES).contains(bytes)) {
            let message =
                format!("{} is out of bounds; write a size from 1 to 256Mi, like 10Mi", ByteSize(bytes));
            self.push(format!("{place}.maxSize"), Category::new("ProfileInvalid"), message);
        }
        for (name, value) in &mapping.pod_labels {
            if let Some(rule) = label(name, value) {
                let place = format!("{place}.when.podLabels[{name:?}]");
                self.push(place, Category::new("ProfileInvalid"), rule);
            }
        }
    }

    /// Checks a pattern that may hold variables: what they bring is judged when it is known.
    fn pattern(&mut self, place: &str, pattern: &str, vars: Vars) {
        self.template(place, pattern, vars);
        if !pattern.contains("{{")
            && let Err(error) = PatternSet::new([pattern])
        {
            self.push(place, error.category(), error.to_string());
        }
    }

    fn values(&mut self, place: &str, value: &Value, vars: Vars) {
        match value {
            Value::String(text) => self.template(place, text, vars),
            Value::Array(items) => items.iter().for_each(|item| self.values(place, item, vars)),
            Value::Object(members) => members.values().for_each(|member| self.values(place, member, vars)),
            _ => {}
        }
    }

    fn path(&mut self, place: &str, text: &str, vars: Vars) {
        self.template(place, text, vars);
        // Every variable is replaced by a name that is fine, so that the rest of the path is judged all the same.
        if let Err(error) = RelPathBuf::parse(&without_variables(text)) {
            self.push(place, PATH, error.to_string());
        }
    }

    /// Checks that `text` is a template whose variables exist.
    pub(super) fn template(&mut self, place: &str, text: &str, vars: Vars) {
        let template = match Template::parse(text) {
            Ok(template) => template,
            Err(error) => return self.push(place, TEMPLATE, error.to_string()),
        };
        for variable in template.variables() {
            let known = match (variable.name.as_str(), &variable.key) {
                ("SiteNumber", None) => self.site_number || vars == Vars::NoStoker,
                ("Vars", Some(key)) => vars != Vars::Known || self.vars.contains(key.as_str()),
                ("Labels", Some(_)) => true,
                (name, None) => TEXT_VARIABLES.contains(&name),
                _ => false,
            };
            if known {
                continue;
            }
            let hint = match (variable.name.as_str(), &variable.key) {
                ("SiteNumber", None) => "set siteNumber on the Stoker".to_owned(),
                ("Vars", Some(key)) => format!("define vars.{key} in the profile or the Stoker"),
                _ => {
                    format!("there are: {}, SiteNumber, Vars.<key>, Labels.<key>", TEXT_VARIABLES.join(", "))
                }
            };
            self.push(place, TEMPLATE, format!("there is no variable {variable} ({hint})"));
        }
    }
}

/// Why no pod can have this label (Kubernetes, "Labels and Selectors": syntax and character set).
fn label(name: &str, value: &str) -> Option<String> {
    let plain = |text: &str| {
        let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        let inside = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        text.len() <= 63 && ends(text.chars().next()) && ends(text.chars().last()) && text.chars().all(inside)
    };
    let (prefix, short) = name.split_once('/').map_or((None, name), |(prefix, short)| (Some(prefix), short));
    let prefix = prefix.is_none_or(|p| p.len() <= 253 && p.split('.').all(plain));
    if !prefix || !plain(short) {
        return Some("no label has such a name; write it like role or example.com/role".to_owned());
    }
    let fits = value.is_empty() || plain(value);
    (!fits).then(|| {
        format!("{value:?} is no value of a label; write letters, digits, dashes, dots, at most 63, without templates")
    })
}

fn without_variables(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, inside)) = rest.split_once("{{") {
        out.push_str(before);
        out.push('v');
        rest = inside.split_once("}}").map_or("", |(_, after)| after);
    }
    out.push_str(rest);
    out
}

/// The row of the protection table that keeps this destination from being written, as far as its constant beginning
/// tells.
///
/// The engine judges each file again by the whole table; this is the early and readable answer.
fn protection(destination: &str) -> Option<&'static Protection> {
    let constant = destination.split("{{").next().unwrap_or_default();
    // With a variable in it the last component is not complete.
    let constant = if constant.len() < destination.len() {
        constant.rsplit_once('/').map_or("", |(head, _)| head)
    } else {
        constant
    };
    protected(RelPathBuf::parse(constant).ok()?.as_path())
}
