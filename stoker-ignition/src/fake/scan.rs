//! Scans: when they run, what they read, what they rewrite.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::{Instant, sleep};

use super::behaviour::Behaviour;
use super::core::{Core, GatewayPhase, index, now_ms, pause, report, strictness};
use super::data::{self, Half, LoadedCollection, LoadedProject, LoadedResource, digest};
use super::events::{Event, Load, ScanEvent, Trigger};
use crate::rules::{ScanKind, Stamp, restamp};

enum Loaded {
    Projects(Half<LoadedProject>),
    Config(Half<LoadedCollection>),
}

impl Core {
    /// Runs the scans of one half, one after the other, for as long as the gateway lives.
    pub(super) async fn scanner(self: Arc<Self>, kind: ScanKind) {
        let mut last = Instant::now();
        loop {
            let trigger = self.next_scan(kind, last).await;
            self.scan(kind, trigger).await;
            last = Instant::now();
        }
    }

    async fn next_scan(&self, kind: ScanKind, last: Instant) -> Trigger {
        let mut version = self.version.subscribe();
        loop {
            version.borrow_and_update();
            let mut wait = None;
            // Not `change`: the scanners would wake each other for ever.
            let trigger = self.read(|s| {
                if s.phase != GatewayPhase::Running {
                    return None;
                }
                let due = match kind {
                    ScanKind::Projects => s.behaviour.periodic_project_scan.map(|every| last + every),
                    ScanKind::Config => None,
                };
                let locked = s.lock(kind).map(|l| l.until);
                let scan = &mut s.scans[index(kind)];
                if std::mem::take(&mut scan.requested) {
                    scan.running = true;
                    return Some(Trigger::Request);
                }
                match (due, locked) {
                    // While the lock is held, the periodic scan waits its turn.
                    (Some(due), None) if due <= Instant::now() => {
                        scan.running = true;
                        return Some(Trigger::Periodic);
                    }
                    (Some(due), locked) => wait = Some(locked.unwrap_or(due).max(due)),
                    (None, _) => {}
                }
                None
            });
            match trigger {
                Some(trigger) => return trigger,
                None => pause(&mut version, wait).await,
            }
        }
    }

    async fn scan(&self, kind: ScanKind, trigger: Trigger) {
        let (behaviour, generation, known) = self
            .read(|s| (s.behaviour.clone(), s.generation, (Arc::clone(&s.projects), Arc::clone(&s.config))));
        let (started, at_ms) = (Instant::now(), now_ms());
        let dir = self.data_dir.clone();
        let scan_time = behaviour.scan_time;
        let work = move || match kind {
            ScanKind::Projects => {
                let (half, restamped) = read_projects(&dir, &behaviour, &known.0);
                (Loaded::Projects(half), restamped)
            }
            ScanKind::Config => {
                let (half, restamped) = read_config(&dir, &behaviour, &known.1);
                (Loaded::Config(half), restamped)
            }
        };
        let loaded = tokio::task::spawn_blocking(work).await;
        sleep(scan_time.saturating_sub(started.elapsed())).await;
        self.change(|s| {
            // A restart in between has read everything anew.
            if s.generation != generation {
                return;
            }
            let timestamp = s.tick();
            let duration = started.elapsed();
            let scan = &mut s.scans[index(kind)];
            scan.running = false;
            scan.timestamp = timestamp;
            scan.duration = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX).max(1);
            let Ok((loaded, restamped)) = loaded else { return };
            let mut event = ScanEvent {
                kind,
                trigger,
                at_ms,
                duration,
                loaded: Vec::new(),
                resources: 0,
                skipped: Vec::new(),
                restamped,
                load: None,
            };
            match loaded {
                Loaded::Projects(half) => {
                    report(s, &half.skipped, "gateway.ProjectManager");
                    event.loaded = half.loaded.keys().cloned().collect();
                    event.resources = half.loaded.values().map(|p| p.resources.len()).sum();
                    event.skipped.clone_from(&half.skipped);
                    s.projects = Arc::new(half);
                    event.load = Some(Load::Projects(Arc::clone(&s.projects)));
                }
                Loaded::Config(half) => {
                    report(s, &half.skipped, "gateway.ResourceCollections");
                    event.loaded = half.loaded.keys().cloned().collect();
                    event.resources = half.loaded.values().map(|c| c.resources.len()).sum();
                    event.skipped.clone_from(&half.skipped);
                    s.install_config(half, &self.data_dir);
                    event.load = Some(Load::Config(Arc::clone(&s.config)));
                }
            }
            s.journal.push(Event::Scan(event));
        });
    }
}

fn read_projects(
    dir: &Path,
    behaviour: &Behaviour,
    known: &Half<LoadedProject>,
) -> (Half<LoadedProject>, Vec<String>) {
    let mut half = data::projects(dir);
    let mut restamped = Vec::new();
    if behaviour.restamp {
        for (name, project) in &mut half.loaded {
            let before = known.loaded.get(name).map(|p| &p.resources);
            stamp_changed(dir, &mut project.resources, before, &mut restamped);
        }
    }
    (half, restamped)
}

fn read_config(
    dir: &Path,
    behaviour: &Behaviour,
    known: &Half<LoadedCollection>,
) -> (Half<LoadedCollection>, Vec<String>) {
    let mut half = data::config(dir, strictness(behaviour));
    let mut restamped = Vec::new();
    if behaviour.restamp_config {
        for (name, collection) in &mut half.loaded {
            let before = known.loaded.get(name).map(|c| &c.resources);
            stamp_changed(dir, &mut collection.resources, before, &mut restamped);
        }
    }
    (half, restamped)
}

/// Rewrites the manifest of each resource that changed outside and whose signature does not fit any more.
fn stamp_changed(
    data_dir: &Path,
    resources: &mut BTreeMap<String, LoadedResource>,
    before: Option<&BTreeMap<String, LoadedResource>>,
    restamped: &mut Vec<String>,
) {
    let stamp = Stamp::new("external", SystemTime::now());
    for (name, resource) in resources {
        let path = resource.manifest_path.clone();
        let unchanged = before
            .and_then(|b| b.get(name))
            .is_some_and(|b| b.files == resource.files && b.manifest == resource.manifest);
        // Tag folders have no signature at all.
        if unchanged || resource.signature_is_current || path.file_name() != Some("resource.json".as_ref()) {
            continue;
        }
        let (Ok(document), Some(folder)) = (fs::read_to_string(&path), path.parent()) else { continue };
        let Ok(stamped) = restamp(&document, &stamp, |file| fs::File::open(folder.join(file))) else {
            continue;
        };
        if fs::write(&path, &stamped).is_ok() {
            resource.manifest = digest(stamped.as_bytes());
            resource.signature_is_current = true;
            let shown = path.strip_prefix(data_dir).unwrap_or(&path);
            restamped.push(shown.display().to_string());
        }
    }
}
