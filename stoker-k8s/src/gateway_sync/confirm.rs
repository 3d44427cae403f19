//! Has the gateway load what went live, and writes down what it says.

use std::collections::BTreeSet;

use jiff::Timestamp;
use stoker_core::Engine;
use stoker_ignition::client::GatewayClient;
use stoker_ignition::confirm::{ConfirmOptions, ScanOutcome, Unconfirmed, Verdict, Work, confirm};
use stoker_ignition::rules::Touched;

use super::designers::project_of;
use super::record::Record;
use super::role::{BACKUP_NOTE, Role};
use super::{Failure, GatewaySync, Scan, millis};

/// Where the gateway stands with the files of its data directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// Something went live that it has not confirmed.
    pub pending: bool,
    /// It was asked to load that, and cannot tell whether it did; why.
    pub unverified: Option<String>,
    /// When it last confirmed something.
    pub confirmed: Option<Timestamp>,
    /// What is to be said whatever else is said: that it is a backup.
    pub note: Option<&'static str>,
}

/// What the gateway says about the files that went live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Confirmation {
    /// It loaded them.
    Confirmed {
        /// When it said so, by this machine's clock.
        at: Timestamp,
        /// What it was asked to load.
        scans: Vec<Scan>,
        /// The synced projects that it runs.
        projects: Vec<String>,
        /// What a person should know; mostly empty.
        note: String,
    },
    /// It was asked to load them, and cannot tell whether it did: an old version, or a key that may not ask. It is
    /// asked again, about all of it, together with the next change or when somebody wants to know.
    Unverified {
        /// What it was asked to load.
        scans: Vec<Scan>,
        /// Why.
        note: String,
    },
    /// It loaded them and found something wrong, or says that something is missing.
    Rejected {
        /// What it was asked to load.
        scans: Vec<Scan>,
        /// What is wrong.
        failure: Failure,
    },
    /// It is starting, not commissioned, does not know the key yet or is busy: ask again.
    Waiting(Failure),
}

impl Confirmation {
    /// What the gateway was asked to load, as far as it answered.
    #[must_use]
    pub fn scans(&self) -> &[Scan] {
        match self {
            Self::Confirmed { scans, .. } | Self::Unverified { scans, .. } | Self::Rejected { scans, .. } => {
                scans
            }
            Self::Waiting(_) => &[],
        }
    }
}

impl GatewaySync {
    /// Where the gateway stands with what is live. In doubt it has not confirmed it.
    #[must_use]
    pub fn standing(&self) -> Standing {
        match Record::load(&self.data_dir) {
            Ok(Record { pending, unverified, confirmed, role }) => Standing {
                pending: pending.is_some(),
                unverified,
                confirmed,
                note: (self.role(role) == Role::Backup).then_some(BACKUP_NOTE),
            },
            Err(_) => Standing { pending: true, ..Standing::default() },
        }
    }

    /// Has the gateway load what is pending, and asks whether it did. One attempt.
    pub async fn confirm(&self) -> Confirmation {
        let unusable = |error: std::io::Error| {
            let message = format!("cannot keep what the gateway has to load: {error}");
            Confirmation::Waiting(Failure { category: "StateUnavailable".to_owned(), message, path: None })
        };
        let kept = |record: Record, confirmation| match record.save(&self.data_dir) {
            Ok(()) => confirmation,
            Err(error) => unusable(error),
        };
        let mut record = match Record::load(&self.data_dir) {
            Ok(record) => record,
            Err(error) => return unusable(error),
        };
        let Some(client) = &self.client else {
            return Confirmation::Unverified {
                scans: Vec::new(),
                note: "there is no gateway to ask".to_owned(),
            };
        };
        let mut work = Work::of(record.pending.clone().unwrap_or_default());
        work.projects.extend(self.synced_projects().await);
        let answer = match confirm(client, &work, &ConfirmOptions::default()).await {
            Ok(answer) => answer,
            Err(not_ready) => return Confirmation::Waiting(Failure::of(&not_ready)),
        };
        if let Some(said) = answer.verification.gateway.as_ref().and_then(|g| Role::parse(&g.redundancy_role))
        {
            record.role = Some(said);
        }
        let backup = self.role(record.role) == Role::Backup;
        let (note, scans) = (answer.summary(), scans(&answer));
        let failure =
            |category: &str| Failure { category: category.to_owned(), message: note.clone(), path: None };
        let confirmation = match answer.verdict() {
            // Whether a backup takes requests for scans is not documented; its key may also lack the right.
            Verdict::Unconfirmed if backup && is_refused(&answer) => {
                record.unverified = Some(note.clone());
                Confirmation::Unverified { scans, note }
            }
            Verdict::Unconfirmed => return Confirmation::Waiting(failure("ScanUnconfirmed")),
            // Stays pending: it is asked again at the next look, and must not count as loaded meanwhile.
            Verdict::Rejected => {
                return Confirmation::Rejected { scans, failure: failure("GatewayRejected") };
            }
            Verdict::Unverified => {
                record.unverified = Some(note.clone());
                Confirmation::Unverified { scans, note }
            }
            Verdict::Confirmed => {
                let behind = if backup { behind(client).await } else { Ok(None) };
                match behind {
                    Ok(None) => {}
                    Ok(Some(note)) => {
                        record.unverified = Some(note.clone());
                        return kept(record, Confirmation::Unverified { scans, note });
                    }
                    Err(failure) => {
                        // What is its own it has loaded: that is not asked again.
                        record.pending = Some(Touched::default());
                        return kept(record, Confirmation::Waiting(failure));
                    }
                }
                let at = Timestamp::now();
                record = Record { confirmed: Some(at), role: record.role, ..Record::default() };
                Confirmation::Confirmed { at, scans, projects: work.projects.into_iter().collect(), note }
            }
        };
        kept(record, confirmation)
    }

    /// What is known of the role without asking.
    fn role(&self, said: Option<Role>) -> Role {
        said.or_else(|| Role::configured(&self.data_dir)).unwrap_or(Role::Owner)
    }

    /// All projects that are synced here, changed or not: a change elsewhere can break them, too.
    async fn synced_projects(&self) -> BTreeSet<String> {
        let data_dir = self.data_dir.clone();
        let owned =
            tokio::task::spawn_blocking(move || Engine::open(&data_dir).and_then(|e| e.owned())).await;
        // What cannot be read now is no reason not to ask about what changed.
        let owned = owned.ok().and_then(Result::ok).unwrap_or_default();
        owned.iter().filter_map(|path| project_of(path).map(str::to_owned)).collect()
    }
}

/// Whether the gateway refused to be asked for a scan.
fn is_refused(answer: &stoker_ignition::confirm::Confirmation) -> bool {
    answer.scans.iter().any(|scan| {
        matches!(&scan.outcome, ScanOutcome::Unconfirmed(Unconfirmed::Failed { category, .. })
            if category.as_str() == "GatewayForbidden")
    })
}

/// Why a backup does not have what its master has yet; or why that is not known, when it cannot tell.
async fn behind(client: &GatewayClient) -> Result<Option<String>, Failure> {
    let waits = |category: &str, message: &str| {
        Err(Failure { category: category.to_owned(), message: message.to_owned(), path: None })
    };
    match client.redundancy().await {
        Ok(state) if !state.peer_connected => waits(
            "MasterDisconnected",
            "backup: the master, which projects, core and modes come from, is not connected",
        ),
        Ok(state) if state.sync_pending => waits(
            "BackupBehind",
            "backup: projects, core and modes are still to be taken over from the master",
        ),
        Ok(_) => Ok(None),
        Err(error) if error.lacks_key() || (error.is_not_ready() && !error.lacks_right()) => {
            Err(Failure::of(&error))
        }
        Err(error) => Ok(Some(format!("what came from the master: {}", stoker_core::chain(&error)))),
    }
}

fn scans(answer: &stoker_ignition::confirm::Confirmation) -> Vec<Scan> {
    let done = answer.scans.iter().filter(|s| !matches!(s.outcome, ScanOutcome::Skipped(_)));
    done.map(|scan| Scan {
        kind: scan.kind.to_string(),
        outcome: scan.outcome.as_str().to_owned(),
        duration_ms: millis(scan.duration),
    })
    .collect()
}
