//! Has the gateway load what went live, and writes down what it says.

use jiff::Timestamp;
use stoker_ignition::confirm::{ConfirmOptions, ScanOutcome, Verdict, Work, confirm};

use super::record::Record;
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
            Ok(Record { pending, unverified, confirmed }) => {
                Standing { pending: pending.is_some(), unverified, confirmed }
            }
            Err(_) => Standing { pending: true, ..Standing::default() },
        }
    }

    /// Has the gateway load what is pending, and asks whether it did. One attempt.
    pub async fn confirm(&self) -> Confirmation {
        let unusable = |error: std::io::Error| {
            let message = format!("cannot keep what the gateway has to load: {error}");
            Confirmation::Waiting(Failure { category: "StateUnavailable".to_owned(), message, path: None })
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
        let work = Work::of(record.pending.clone().unwrap_or_default());
        let answer = match confirm(client, &work, &ConfirmOptions::default()).await {
            Ok(answer) => answer,
            Err(not_ready) => return Confirmation::Waiting(Failure::of(&not_ready)),
        };
        let (note, scans) = (answer.summary(), scans(&answer));
        let failure =
            |category: &str| Failure { category: category.to_owned(), message: note.clone(), path: None };
        let confirmation = match answer.verdict() {
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
                let at = Timestamp::now();
                record = Record { confirmed: Some(at), ..Record::default() };
                Confirmation::Confirmed { at, scans, projects: work.projects.into_iter().collect(), note }
            }
        };
        match record.save(&self.data_dir) {
            Ok(()) => confirmation,
            Err(error) => unusable(error),
        }
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
