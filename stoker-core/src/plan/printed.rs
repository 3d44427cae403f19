//! A plan for people and programs.

use std::fmt;

use serde::ser::{SerializeSeq, SerializeStruct};
use serde::{Serialize, Serializer};

use crate::plan::{Action, Found, From, Plan};
use crate::source::ContentId;
use crate::state::{Digest, ManifestEntry};

/// One line an action that changes something, then the counts.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for action in &self.actions {
            write!(f, "{:9} {} ({}", action.kind.as_str(), action.path, action.reason)?;
            for more in [self.mapping_of(action), action.rule.as_deref()].into_iter().flatten() {
                if !more.is_empty() {
                    write!(f, "; {more}")?;
                }
            }
            writeln!(f, ")")?;
        }
        let counts = self.counts;
        writeln!(f, "{} added, {} modified, {} deleted", counts.added, counts.modified, counts.deleted)
    }
}

/// One JSON object: `digest`, `from`, `to`, `counts`, `warnings`, and `actions` with the reason of each: the mapping,
/// the rule, and what was found as base, desired and live. The same inputs give the same bytes.
impl Serialize for Plan {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut plan = serializer.serialize_struct("Plan", 6)?;
        plan.serialize_field("digest", &self.digest)?;
        plan.serialize_field("from", &self.from)?;
        plan.serialize_field("to", &self.to)?;
        plan.serialize_field("counts", &self.counts)?;
        let warnings: Vec<String> = self.warnings.iter().map(ToString::to_string).collect();
        plan.serialize_field("warnings", &warnings)?;
        plan.serialize_field("actions", &Actions(self))?;
        plan.end()
    }
}

struct Actions<'p>(&'p Plan);

impl Serialize for Actions<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut actions = serializer.serialize_seq(Some(self.0.actions.len()))?;
        for action in &self.0.actions {
            actions.serialize_element(&printed(self.0, action))?;
        }
        actions.end()
    }
}

#[derive(Serialize)]
struct Printed<'p> {
    path: &'p str,
    action: &'static str,
    reason: &'static str,
    mapping: Option<&'p str>,
    rule: Option<&'p str>,
    base: Option<Base>,
    desired: Option<Desired>,
    live: Live,
}

#[derive(Serialize)]
struct Base {
    id: ContentId,
    digest: String,
    executable: bool,
}

#[derive(Serialize)]
struct Desired {
    id: ContentId,
    source: Option<String>,
    size: Option<u64>,
    executable: bool,
    transform: Option<String>,
}

#[derive(Serialize)]
struct Live {
    found: Found,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<u32>,
}

fn printed<'p>(plan: &'p Plan, action: &'p Action) -> Printed<'p> {
    Printed {
        path: action.path.as_str(),
        action: action.kind.as_str(),
        reason: action.reason,
        mapping: plan.mapping_of(action),
        rule: action.rule.as_deref(),
        base: action.base.as_deref().map(base),
        desired: action.write.as_ref().map(|write| Desired {
            id: write.id,
            source: match plan.from(action) {
                Some(From::Source(path)) => Some(path.as_str().to_owned()),
                _ => None,
            },
            size: write.size,
            executable: write.executable,
            transform: Some(plan.key(write)).filter(|key| *key != [0; 16]).map(|key| hex(&key)),
        }),
        live: Live {
            found: action.found,
            size: action.live.as_ref().map(|l| l.id.size),
            mode: action.live.as_ref().map(|l| l.mode),
        },
    }
}

fn base(entry: &ManifestEntry) -> Base {
    let digest: &Digest = &entry.digest;
    Base { id: entry.id, digest: hex(digest), executable: entry.executable }
}

fn hex(bytes: &[u8]) -> String {
    ContentId::new(bytes).map_or_else(String::new, |id| id.to_string())
}
