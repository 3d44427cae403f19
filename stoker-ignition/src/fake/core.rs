//! The state of a fake gateway, and what happens in it by itself: start, scans, locks that expire.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::behaviour::Behaviour;
use super::data::{self, Half, LoadedCollection, LoadedProject, Strictness};
use super::events::{BootEvent, Event, Journal, LockEvent, LockOutcome};
use super::own_files;
use super::routes::Injected;
use crate::rules::{Designer, ScanKind};

/// How far the gateway is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GatewayPhase {
    /// Not yet up.
    Starting,
    /// Up.
    Running,
    /// It could not start, for these reasons.
    Faulted(Vec<String>),
}

/// Where the key comes from that callers must show.
#[derive(Debug, Clone)]
pub(super) enum KeySource {
    /// This one; `None` = the gateway knows no key.
    Fixed(Option<String>),
    /// A file that is read at every request.
    File(PathBuf),
}

/// A key that lies in the data directory as a resource.
#[derive(Debug)]
pub(super) struct Token {
    pub(super) name: String,
    /// base64url of SHA-256 of the raw key, without padding.
    hash: String,
    pub(super) secure_channel_required: bool,
}

impl Token {
    pub(super) fn fits(&self, name: &str, secret: &str) -> bool {
        let raw = URL_SAFE_NO_PAD.decode(secret.trim_end_matches('='));
        name == self.name && raw.is_ok_and(|raw| URL_SAFE_NO_PAD.encode(Sha256::digest(raw)) == self.hash)
    }
}

#[derive(Debug)]
pub(super) struct Lock {
    pub(super) actor: String,
    pub(super) until: Instant,
    pub(super) since: Instant,
}

#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Scan {
    pub(super) running: bool,
    pub(super) requested: bool,
    pub(super) timestamp: i64,
    pub(super) duration: i64,
}

#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) timestamp: i64,
    pub(super) level: &'static str,
    pub(super) logger: &'static str,
    pub(super) message: String,
}

pub(super) struct State {
    pub(super) behaviour: Behaviour,
    pub(super) phase: GatewayPhase,
    /// Counts starts: what belongs to an earlier one is dropped.
    pub(super) generation: u64,
    pub(super) key: KeySource,
    pub(super) tokens: Vec<Token>,
    pub(super) projects: Arc<Half<LoadedProject>>,
    pub(super) config: Arc<Half<LoadedCollection>>,
    pub(super) scans: [Scan; 2],
    pub(super) locks: [Option<Lock>; 2],
    pub(super) designers: Vec<Designer>,
    pub(super) logs: Vec<Line>,
    pub(super) journal: Journal,
    pub(super) injected: Vec<Injected>,
    pub(super) last_sync_ms: i64,
    last_ms: i64,
}

pub(super) struct Core {
    pub(super) data_dir: PathBuf,
    pub(super) started: Instant,
    state: Mutex<State>,
    pub(super) version: watch::Sender<u64>,
}

pub(super) const fn index(kind: ScanKind) -> usize {
    match kind {
        ScanKind::Config => 0,
        ScanKind::Projects => 1,
    }
}

impl State {
    /// Epoch milliseconds, each one greater than the last: scans that follow fast still move the timestamp.
    pub(super) fn tick(&mut self) -> i64 {
        self.last_ms = now_ms().max(self.last_ms + 1);
        self.last_ms
    }

    pub(super) fn log(&mut self, level: &'static str, logger: &'static str, message: String) {
        const MAX_LINES: usize = 10_000;
        tracing::info!(level, logger, %message, "fake gateway");
        if self.logs.len() == MAX_LINES {
            self.logs.remove(0);
        }
        let line = Line { timestamp: now_ms(), level, logger, message };
        self.logs.push(line);
    }

    /// The lock of one half, unless its time is over.
    pub(super) fn lock(&mut self, kind: ScanKind) -> Option<&Lock> {
        let slot = &mut self.locks[index(kind)];
        if slot.as_ref().is_some_and(|l| l.until <= Instant::now()) {
            *slot = None;
        }
        slot.as_ref()
    }

    pub(super) fn release(&mut self, kind: ScanKind) {
        if let Some(lock) = self.locks[index(kind)].take() {
            let event =
                LockEvent { kind, actor: lock.actor, outcome: LockOutcome::Released, at_ms: now_ms() };
            self.journal.push(Event::Lock(event));
        }
    }

    fn install(&mut self, projects: Half<LoadedProject>, config: Half<LoadedCollection>, data_dir: &Path) {
        self.projects = Arc::new(projects);
        self.install_config(config, data_dir);
    }

    pub(super) fn install_config(&mut self, config: Half<LoadedCollection>, data_dir: &Path) {
        self.tokens = tokens(&config, data_dir);
        self.config = Arc::new(config);
    }
}

pub(super) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn tokens(config: &Half<LoadedCollection>, data_dir: &Path) -> Vec<Token> {
    let mut found = Vec::new();
    for (collection, loaded) in &config.loaded {
        for name in loaded.resources.keys().filter_map(|r| r.strip_prefix("ignition/api-token/")) {
            let path =
                data_dir.join(format!("config/resources/{collection}/ignition/api-token/{name}/config.json"));
            let Ok(content) = std::fs::read(path) else { continue };
            let Ok(json) = serde_json::from_slice::<serde_json::Value>(&content) else { continue };
            if let Some(hash) = json["settings"]["tokenHash"].as_str() {
                found.push(Token {
                    name: name.to_owned(),
                    hash: hash.trim_end_matches('=').to_owned(),
                    secure_channel_required: json["profile"]["secureChannelRequired"]
                        .as_bool()
                        .unwrap_or(true),
                });
            }
        }
    }
    found
}

impl Core {
    pub(super) fn new(data_dir: PathBuf, behaviour: Behaviour, key: KeySource) -> Arc<Self> {
        let state = State {
            behaviour,
            phase: GatewayPhase::Starting,
            generation: 0,
            key,
            tokens: Vec::new(),
            projects: Arc::default(),
            config: Arc::default(),
            scans: [Scan::default(); 2],
            locks: [None, None],
            designers: Vec::new(),
            logs: Vec::new(),
            journal: Journal::default(),
            injected: Vec::new(),
            last_sync_ms: -1,
            last_ms: 0,
        };
        Arc::new(Self {
            data_dir,
            started: Instant::now(),
            state: Mutex::new(state),
            version: watch::Sender::new(0),
        })
    }

    /// Looks at the state, or changes it without anybody waiting for that.
    pub(super) fn read<R>(&self, look: impl FnOnce(&mut State) -> R) -> R {
        look(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the state and tells everybody who waits.
    pub(super) fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let result = self.read(change);
        self.version.send_modify(|v| *v += 1);
        result
    }

    /// Goes down and comes up again, with everything read anew.
    pub(super) fn restart(self: &Arc<Self>, wait_for_data_dir: bool) {
        let generation = self.change(|s| {
            s.generation += 1;
            s.phase = GatewayPhase::Starting;
            s.scans = [Scan::default(); 2];
            s.locks = [None, None];
            s.generation
        });
        tokio::spawn(Arc::clone(self).boot(generation, wait_for_data_dir));
    }

    async fn boot(self: Arc<Self>, generation: u64, wait_for_data_dir: bool) {
        while wait_for_data_dir && !self.data_dir.is_dir() {
            sleep(Duration::from_millis(100)).await;
        }
        let behaviour = self.read(|s| s.behaviour.clone());
        sleep(behaviour.boot_time).await;
        let data_dir = self.data_dir.clone();
        let loaded = tokio::task::spawn_blocking(move || cold_start(&data_dir, &behaviour)).await;
        let Ok((projects, config, faults)) = loaded else { return };
        self.change(|s| {
            if s.generation != generation {
                return;
            }
            let event = BootEvent {
                at_ms: now_ms(),
                faults: faults.clone(),
                projects: projects.loaded.keys().cloned().collect(),
                collections: config.loaded.keys().cloned().collect(),
            };
            report(s, &projects.skipped, "gateway.ProjectManager");
            report(s, &config.skipped, "gateway.ResourceCollections");
            s.install(projects, config, &self.data_dir);
            if s.behaviour.timestamp_at_boot {
                for kind in ScanKind::ALL {
                    s.scans[index(kind)].timestamp = s.tick();
                }
            }
            s.journal.push(Event::Boot(event));
            if faults.is_empty() {
                s.log("INFO", "gateway.Context", "Gateway is RUNNING".to_owned());
                s.phase = GatewayPhase::Running;
            } else {
                for fault in &faults {
                    s.log("ERROR", "gateway.Context", format!("Gateway faulted: {fault}"));
                }
                s.phase = GatewayPhase::Faulted(faults);
            }
        });
    }

    /// Touches the files that a gateway keeps open, for as long as it lives.
    pub(super) async fn churn(self: Arc<Self>) {
        let mut round = 0_u64;
        let mut version = self.version.subscribe();
        loop {
            version.borrow_and_update();
            match self.read(|s| (s.behaviour.churn, s.phase == GatewayPhase::Running)) {
                (Some(every), true) => {
                    let dir = self.data_dir.clone();
                    let _ = tokio::task::spawn_blocking(move || own_files::churn(&dir, round)).await;
                    round += 1;
                    sleep(every).await;
                }
                _ => pause(&mut version, None).await,
            }
        }
    }
}

/// Waits until `until`, or until something changes after `version` was last looked at.
pub(super) async fn pause(version: &mut watch::Receiver<u64>, until: Option<Instant>) {
    let changed = version.changed();
    match until {
        Some(until) => tokio::select! { _ = changed => {}, () = sleep_until(until) => {} },
        None => {
            let _ = changed.await;
        }
    }
}

pub(super) fn report(state: &mut State, skipped: &[data::Skipped], logger: &'static str) {
    for skip in skipped.iter().filter(|s| !s.silent) {
        state.log("WARN", logger, format!("Unable to load '{}': {}", skip.path, skip.reason));
    }
}

type ColdStart = (Half<LoadedProject>, Half<LoadedCollection>, Vec<String>);

fn cold_start(data_dir: &Path, behaviour: &Behaviour) -> ColdStart {
    let mut faults = Vec::new();
    if let Some(path) = behaviour.owner.and_then(|uid| own_files::wrong_owner(data_dir, uid)) {
        faults.push(format!("unable to create resource dir: {path} belongs to another user"));
    }
    // Judged before the gateway's own files could complete a collection.
    faults.extend(data::config(data_dir, strictness(behaviour)).faults);
    if faults.is_empty()
        && behaviour.own_files
        && let Err(fault) = own_files::at_boot(data_dir, &behaviour.deployment_mode, &behaviour.name)
    {
        faults.push(fault);
    }
    (data::projects(data_dir), data::config(data_dir, strictness(behaviour)), faults)
}

pub(super) const fn strictness(behaviour: &Behaviour) -> Strictness {
    Strictness {
        enforce_signature: behaviour.enforce_config_signature,
        fault_on_missing_attributes: behaviour.fault_on_missing_attributes,
    }
}
