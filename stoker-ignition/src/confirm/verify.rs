//! After the scan: is everything there, and does the gateway complain?

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use serde::Serialize;
use stoker_core::{Fault, chain};

use super::{ConfirmOptions, ScanReport, Work};
use crate::client::{GatewayClient, GatewayError, GatewayInfo, LogLevel, LogLine, ProjectInfo};
use crate::rules::{ResourceType, Touched};

/// How many log lines that are nobody's problem are passed on.
const MAX_NOTES: usize = 20;
/// How much of a message is searched for names and passed on, in characters.
const MAX_MESSAGE_CHARS: usize = 400;

/// What was looked at after a scan.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verification {
    /// What the gateway says about itself.
    pub gateway: Option<GatewayInfo>,
    /// What is wrong, by project or resource.
    pub problems: Vec<Problem>,
    /// What could not be looked at.
    pub unverified: Vec<Unverified>,
    /// Log lines since the scan that name nothing we changed; the newest few.
    pub notes: Vec<LogLine>,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Problem {
    /// With what.
    pub subject: Subject,
    /// What is wrong with it.
    pub message: String,
}

/// What a problem is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Subject {
    /// A project, by name.
    Project(String),
    /// A configuration resource, as `module/type/name`.
    Resource(String),
    /// The folder of a resource, relative to the data directory.
    Folder(String),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Project(name) => write!(f, "project {name}"),
            Self::Resource(name) => write!(f, "resource {name}"),
            Self::Folder(path) => f.write_str(path),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.message)
    }
}

/// Something that could not be looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unverified {
    /// What.
    pub what: String,
    /// Why not.
    pub why: String,
}

impl fmt::Display for Unverified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} not verified: {}", self.what, self.why)
    }
}

impl Verification {
    /// The result of a call, or a note that it could not be had. Fails when the gateway is not ready any more.
    fn take<T>(&mut self, what: &str, result: Result<T, GatewayError>) -> Result<Option<T>, GatewayError> {
        match result {
            Ok(value) => Ok(Some(value)),
            // The scan before it was let in: this call alone is refused.
            Err(error) if error.is_not_ready() && !error.lacks_right() => Err(error),
            Err(error) if error.lacks_key() => Err(error),
            Err(error) => {
                self.unverified.push(Unverified { what: what.to_owned(), why: chain(&error) });
                tracing::debug!(what, category = %error.category(), "not verified");
                Ok(None)
            }
        }
    }
}

/// Looks at everything that `work` touched.
pub(super) async fn verify(
    client: &GatewayClient,
    work: &Work,
    scans: &[ScanReport],
    options: &ConfirmOptions,
) -> Result<Verification, GatewayError> {
    let mut v = Verification::default();
    v.gateway = v.take("gateway", client.gateway_info().await)?;
    if !work.projects.is_empty() {
        let listed = client.projects_list().await;
        if let Some(listed) = v.take("projects", listed)? {
            let missing = work.projects.iter().any(|p| !listed.iter().any(|l| l.name == *p));
            // The list may hold runnable projects only: a missing one can still be there.
            let names = if missing { v.take("project names", client.project_names().await)? } else { None };
            v.problems.extend(project_problems(&work.projects, &listed, names.as_deref()));
        }
    }
    if work.need.config {
        let mode = v.gateway.as_ref().map(|g| g.deployment_mode.clone());
        for (of, expected) in expected_resources(&work.touched, mode.as_deref()) {
            let names = client.resource_names(&of).await;
            if let Some(loaded) = v.take(&format!("{of}"), names)? {
                let missing = expected.iter().filter(|e| !loaded.iter().any(|l| l.name == **e));
                v.problems.extend(missing.map(|name| Problem {
                    subject: Subject::Resource(format!("{of}/{name}")),
                    message: "the gateway has not loaded it; its log may say why".to_owned(),
                }));
            }
        }
    }
    if let Some(from) = scans.iter().filter_map(|s| s.log_from_ms).min() {
        let lines = client.logs_since(from, LogLevel::Warn, options.log_lines).await;
        let names = Names::of(&work.touched);
        for line in v.take("log", lines)?.unwrap_or_default() {
            match names.concern(&line) {
                Some(subject) => {
                    v.problems.push(Problem { subject, message: shorten(&line.message).to_owned() })
                }
                None if v.notes.len() < MAX_NOTES => v.notes.push(line),
                None => {}
            }
        }
    }
    v.problems.sort();
    v.problems.dedup();
    Ok(v)
}

/// What is wrong with the projects that must be there. `names` are all that exist, if that is known.
fn project_problems(
    expected: &BTreeSet<String>,
    listed: &[ProjectInfo],
    names: Option<&[String]>,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    for name in expected {
        let message = match listed.iter().find(|p| p.name == *name) {
            Some(project) if project.invalid_parent => {
                format!("its parent {:?} is missing or not inheritable", project.parent)
            }
            Some(_) => continue,
            None if names.is_some_and(|n| n.contains(name)) => continue,
            None => "the gateway does not list it; is its project.json valid?".to_owned(),
        };
        problems.push(Problem { subject: Subject::Project(name.clone()), message });
    }
    problems
}

/// The written resources that the gateway must name: those of collections that are in force. `mode` is the active
/// deployment mode (empty for none); unknown when the gateway does not say.
fn expected_resources(touched: &Touched, mode: Option<&str>) -> BTreeMap<ResourceType, BTreeSet<String>> {
    let in_force = ["core", "external"].into_iter().chain(mode.filter(|m| !m.is_empty()));
    let collections: Vec<&str> = in_force.collect();
    let mut expected = BTreeMap::new();
    for (of, names) in &touched.resources {
        let certain: BTreeSet<String> = names
            .iter()
            .filter(|name| {
                collections
                    .iter()
                    .any(|c| touched.folders.contains(&format!("config/resources/{c}/{of}/{name}")))
            })
            .cloned()
            .collect();
        if !certain.is_empty() {
            expected.insert(of.clone(), certain);
        }
    }
    expected
}

/// The names by which log lines are recognised as being about what was touched.
struct Names<'a> {
    projects: &'a BTreeSet<String>,
    /// Folders by their path within the project or collection.
    folders: HashMap<&'a str, &'a str>,
}

impl<'a> Names<'a> {
    fn of(touched: &'a Touched) -> Self {
        let folders = touched.folders.iter().filter_map(|f| Some((inner_path(f)?, f.as_str()))).collect();
        Self { projects: &touched.projects, folders }
    }

    /// What a log line is about, if that was touched.
    ///
    /// A line concerns a resource when it contains the resource's path within its project or collection, and a
    /// project when a logger for projects names it in quotes or brackets, or the line holds a path into it.
    fn concern(&self, line: &LogLine) -> Option<Subject> {
        let message = shorten(&line.message);
        // Where a name can begin and end: at anything but a letter, digit, dot, dash or underscore.
        let edges =
            || message.char_indices().filter(|(_, c)| !(c.is_alphanumeric() || matches!(c, '.' | '-' | '_')));
        let starts = std::iter::once(0).chain(edges().map(|(i, c)| i + c.len_utf8()));
        let ends: Vec<usize> = edges().map(|(i, _)| i).chain([message.len()]).collect();
        for start in starts {
            // The longest name wins: views lie in views.
            let longest_first = ends.iter().rev().take_while(|end| **end > start);
            if let Some(folder) =
                longest_first.filter_map(|end| self.folders.get(&message[start..*end])).next()
            {
                return Some(Subject::Folder((*folder).to_owned()));
            }
        }
        let about_projects = line.logger_name.to_ascii_lowercase().contains("project");
        let named = |p: &&String| {
            message.contains(&format!("projects/{p}/"))
                || about_projects
                    && ["'|'", "\"|\"", "[|]"].iter().any(|q| message.contains(&q.replace('|', p)))
        };
        self.projects.iter().find(named).map(|p| Subject::Project(p.clone()))
    }
}

/// The path of a folder within its project or collection, when that says enough to be recognised.
fn inner_path(folder: &str) -> Option<&str> {
    let rest = match folder.strip_prefix("projects/") {
        Some(rest) => rest,
        None => folder.strip_prefix("config/resources/")?,
    };
    let (_, inner) = rest.split_once('/')?;
    inner.contains('/').then_some(inner)
}

fn shorten(message: &str) -> &str {
    message.char_indices().nth(MAX_MESSAGE_CHARS).map_or(message, |(end, _)| &message[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use stoker_core::RelPathBuf;

    fn touched(paths: &[&str]) -> Touched {
        let paths: Vec<_> = paths.iter().map(|p| RelPathBuf::parse(p).unwrap()).collect();
        Touched::of_written(paths.iter().map(RelPathBuf::as_path))
    }

    fn line(logger: &str, message: &str) -> LogLine {
        LogLine { logger_name: logger.into(), message: message.into(), ..LogLine::default() }
    }

    #[test]
    fn a_log_line_is_about_what_it_names() {
        let t = touched(&[
            "projects/line 1/com.inductiveautomation.perspective/views/Main View/view.json",
            "config/resources/core/ignition/tag-provider/edge/config.json",
        ]);
        let view = "projects/line 1/com.inductiveautomation.perspective/views/Main View";
        for (logger, message, expected) in [
            (
                "x",
                "Unable to load com.inductiveautomation.perspective/views/Main View: bad",
                Some(Subject::Folder(view.into())),
            ),
            ("x", &format!("cannot read /data/{view}/view.json"), Some(Subject::Folder(view.into()))),
            ("x", "com.inductiveautomation.perspective/views/Main View2 is bad", None),
            ("x", "com.inductiveautomation.perspective/views/Main is bad", None),
            (
                "config",
                "ignition/tag-provider/edge: no such type",
                Some(Subject::Folder("config/resources/core/ignition/tag-provider/edge".into())),
            ),
            ("ProjectManager", "project 'line 1' failed", Some(Subject::Project("line 1".into()))),
            ("Alarming", "project 'line 1' failed", None),
            ("x", "projects/line 1/project.json is odd", Some(Subject::Project("line 1".into()))),
            ("ProjectManager", "project 'line 2' failed", None),
            ("x", "a clock drifts", None),
            ("x", "", None),
        ] {
            assert_eq!(Names::of(&t).concern(&line(logger, message)), expected, "{message}");
        }
    }

    #[test]
    fn projects_are_missing_only_when_both_lists_miss_them() {
        let expected: BTreeSet<String> = ["base", "line", "lost"].map(ToOwned::to_owned).into();
        let project = |name: &str, invalid_parent| ProjectInfo {
            name: name.into(),
            parent: "up".into(),
            invalid_parent,
            ..ProjectInfo::default()
        };
        let listed = [project("line", true), project("other", true)];
        let names = ["base".to_owned()];
        let problems = project_problems(&expected, &listed, Some(&names));
        let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(text.len(), 2, "{text:?}");
        assert!(text[0].starts_with("project line: its parent \"up\""), "{text:?}");
        assert!(text[1].starts_with("project lost:"), "{text:?}");
        assert_eq!(project_problems(&expected, &listed, None).len(), 3);
    }

    #[test]
    fn resources_of_a_mode_that_is_not_active_are_not_expected() {
        let t = touched(&[
            "config/resources/core/ignition/a/one/config.json",
            "config/resources/dev/ignition/a/two/config.json",
            "config/resources/dev/ignition/b/three/resource.json",
        ]);
        let names = |mode| {
            let expected = expected_resources(&t, mode);
            expected.into_values().flatten().collect::<Vec<_>>()
        };
        assert_eq!(names(None), ["one"]);
        assert_eq!(names(Some("")), ["one"]);
        assert_eq!(names(Some("prd")), ["one"]);
        assert_eq!(names(Some("dev")), ["one", "two", "three"]);
    }

    proptest! {
        #[test]
        fn any_message_can_be_read(message in "\\PC{0,80}") {
            let t = touched(&["projects/é/a b/c/d.json", "config/resources/core/m/t/n/config.json"]);
            Names::of(&t).concern(&line("Project", &message));
        }
    }
}
