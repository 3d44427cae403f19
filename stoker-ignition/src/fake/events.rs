//! What a fake gateway saw and did, for those who test against it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::data::{Half, LoadedCollection, LoadedProject, Skipped};
use crate::rules::ScanKind;

/// How many events are kept.
const MAX_EVENTS: usize = 5_000;
/// How many scans keep what they loaded; older ones keep the summary.
const MAX_LOADS: usize = 20;

/// Something that happened, oldest first in a list of events.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "camelCase")]
#[non_exhaustive]
pub enum Event {
    /// A request was answered.
    Request(RequestEvent),
    /// The gateway has read its data directory at start.
    Boot(BootEvent),
    /// A scan has ended.
    Scan(ScanEvent),
    /// A scan lock was taken, refused, or given up by a scan.
    Lock(LockEvent),
}

/// A request that was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestEvent {
    /// When, in epoch milliseconds.
    pub at_ms: i64,
    /// `GET`, `POST`, ...
    pub method: String,
    /// The path without the query.
    pub path: String,
    /// The status of the answer.
    pub status: u16,
}

/// A start that has read its data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BootEvent {
    /// When, in epoch milliseconds.
    pub at_ms: i64,
    /// What keeps it from running; empty when it runs.
    pub faults: Vec<String>,
    /// The names of the projects that loaded.
    pub projects: Vec<String>,
    /// The names of the collections that loaded.
    pub collections: Vec<String>,
}

/// Why a scan ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Trigger {
    /// Somebody asked for it.
    Request,
    /// Its time had come.
    Periodic,
}

/// A scan that has ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ScanEvent {
    /// Which half.
    pub kind: ScanKind,
    /// Why.
    pub trigger: Trigger,
    /// When the files were read, in epoch milliseconds.
    pub at_ms: i64,
    /// How long it took.
    #[serde(rename = "durationMs", serialize_with = "as_millis")]
    pub duration: Duration,
    /// The names of what loaded: projects or collections.
    pub loaded: Vec<String>,
    /// How many resources loaded.
    pub resources: usize,
    /// What did not load.
    pub skipped: Vec<Skipped>,
    /// The manifests that the gateway rewrote, relative to the data directory.
    pub restamped: Vec<String>,
    /// What loaded, file by file; only for the newest scans.
    #[serde(skip)]
    pub load: Option<Load>,
}

fn as_millis<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(duration.as_millis() as u64)
}

/// What a scan loaded.
#[derive(Debug, Clone, PartialEq)]
pub enum Load {
    /// The projects.
    Projects(Arc<Half<LoadedProject>>),
    /// The collections.
    Config(Arc<Half<LoadedCollection>>),
}

/// What happened to a scan lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LockEvent {
    /// Which half.
    pub kind: ScanKind,
    /// Who asked.
    pub actor: String,
    /// What came of it.
    pub outcome: LockOutcome,
    /// When, in epoch milliseconds.
    pub at_ms: i64,
}

/// What came of a request for a scan lock, or of the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum LockOutcome {
    /// It is held.
    Taken,
    /// Somebody else held it.
    Refused,
    /// A scan released it.
    Released,
}

/// The newest events.
#[derive(Debug, Default)]
pub(super) struct Journal(VecDeque<Event>);

impl Journal {
    pub(super) fn push(&mut self, event: Event) {
        if matches!(event, Event::Scan(_)) {
            let scans = self.0.iter_mut().rev().filter_map(|e| match e {
                Event::Scan(scan) => Some(scan),
                _ => None,
            });
            scans.skip(MAX_LOADS - 1).for_each(|old| old.load = None);
        }
        if self.0.len() == MAX_EVENTS {
            self.0.pop_front();
        }
        self.0.push_back(event);
    }

    pub(super) fn list(&self) -> Vec<Event> {
        self.0.iter().cloned().collect()
    }
}
