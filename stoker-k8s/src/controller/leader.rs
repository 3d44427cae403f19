//! Which replica leads: by a Lease.
//!
//! Expiry is judged by this process's own monotonic clock, since the record was last *seen* to change. The times that
//! other nodes write into it are never compared with ours.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::sync::watch;

/// The Lease, and how it is used.
#[derive(Debug, Clone)]
pub struct LeaseSettings {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub name: String,
    /// Name of this replica: unique.
    pub identity: String,
    /// After this time without a sign of life a leader is replaced. Default 15 s.
    pub duration: Duration,
    /// A leader that could not renew for this long stops leading by itself; shorter than `duration`. Default 10 s.
    pub deadline: Duration,
    /// Time between two tries. Default 2 s.
    pub period: Duration,
}

impl LeaseSettings {
    /// The defaults for one replica.
    #[must_use]
    pub fn new(namespace: impl Into<String>, name: impl Into<String>, identity: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
            identity: identity.into(),
            duration: Duration::from_secs(15),
            deadline: Duration::from_secs(10),
            period: Duration::from_secs(2),
        }
    }
}

/// Takes part in the election.
#[derive(Debug)]
pub struct Election {
    settings: LeaseSettings,
    api: Api<Lease>,
    seen: Option<Seen>,
    renewed: Option<Instant>,
}

/// A record, and since when it has not changed.
#[derive(Debug, Clone)]
struct Seen {
    lease: Lease,
    since: Instant,
}

/// What to do about a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Move {
    /// There is none: make it.
    Create,
    /// It is ours: renew it.
    Renew,
    /// Its holder is gone: take it.
    Take,
    /// Somebody else leads.
    Wait,
}

impl Election {
    /// Takes part with `client`.
    #[must_use]
    pub fn new(client: Client, settings: LeaseSettings) -> Self {
        let api = Api::namespaced(client, &settings.namespace);
        Self { settings, api, seen: None, renewed: None }
    }

    /// Runs until `stop` is true; `leading` says at any time whether this replica leads. Gives the Lease back at the
    /// end, so that the next one need not wait.
    pub async fn run(mut self, leading: watch::Sender<bool>, mut stop: watch::Receiver<bool>) {
        loop {
            let turn = tokio::time::timeout(self.settings.deadline / 2, self.turn());
            match turn.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(error = %stoker_core::chain(&error), "lease not renewed"),
                Err(_) => tracing::warn!("lease not renewed: the api server did not answer in time"),
            }
            let leads = self.renewed.is_some_and(|at| at.elapsed() < self.settings.deadline);
            // A renewal is no news: whoever waits for a change would take each for a take-over.
            if leading.send_if_modified(|before| std::mem::replace(before, leads) != leads) {
                tracing::info!(identity = self.settings.identity, leads, "leadership changed");
                metrics::gauge!("stoker_leader").set(f64::from(u8::from(leads)));
            }
            let left = self.renewed.map(|at| self.settings.deadline.saturating_sub(at.elapsed()));
            // A leader checks in time whether it still is one.
            let pause =
                left.filter(|_| leads).map_or(self.settings.period, |left| left.min(self.settings.period));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = stop.wait_for(|stop| *stop) => break,
            }
        }
        let led = leading.send_replace(false);
        if led {
            self.release().await;
        }
    }

    async fn turn(&mut self) -> kube::Result<()> {
        let found = self.api.get_opt(&self.settings.name).await?;
        self.observe(found.as_ref());
        let next = self.decide();
        let written = match (next, found) {
            (Move::Wait, _) => {
                self.renewed = None;
                return Ok(());
            }
            (Move::Create, _) | (_, None) => {
                self.api.create(&PostParams::default(), &self.record(None)).await
            }
            (Move::Renew | Move::Take, Some(found)) => {
                let record = self.record(Some(&found));
                self.api.replace(&self.settings.name, &PostParams::default(), &record).await
            }
        };
        match written {
            Ok(lease) => {
                self.renewed = Some(Instant::now());
                self.seen = Some(Seen { lease, since: Instant::now() });
                Ok(())
            }
            // Somebody was quicker: look again next time.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn observe(&mut self, found: Option<&Lease>) {
        self.seen = match (found, self.seen.take()) {
            (None, _) => None,
            (Some(lease), Some(seen))
                if seen.lease.metadata.resource_version == lease.metadata.resource_version =>
            {
                Some(seen)
            }
            (Some(lease), _) => Some(Seen { lease: lease.clone(), since: Instant::now() }),
        };
    }

    fn decide(&self) -> Move {
        let Some(seen) = &self.seen else { return Move::Create };
        let spec = seen.lease.spec.clone().unwrap_or_default();
        match spec.holder_identity.as_deref() {
            None | Some("") => Move::Take,
            Some(holder) if holder == self.settings.identity => Move::Renew,
            Some(_) => {
                let seconds = spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok());
                // A broken record must not keep everybody out for ever.
                let duration =
                    seconds.map_or(self.settings.duration, Duration::from_secs).min(Duration::from_secs(300));
                if seen.since.elapsed() > duration { Move::Take } else { Move::Wait }
            }
        }
    }

    fn record(&self, before: Option<&Lease>) -> Lease {
        let old = before.and_then(|lease| lease.spec.clone()).unwrap_or_default();
        let mine = old.holder_identity.as_deref() == Some(&self.settings.identity);
        let now = MicroTime(Timestamp::now());
        Lease {
            metadata: before.map_or_else(
                || ObjectMeta {
                    name: Some(self.settings.name.clone()),
                    namespace: Some(self.settings.namespace.clone()),
                    ..ObjectMeta::default()
                },
                |lease| lease.metadata.clone(),
            ),
            spec: Some(LeaseSpec {
                holder_identity: Some(self.settings.identity.clone()),
                lease_duration_seconds: i32::try_from(self.settings.duration.as_secs()).ok(),
                acquire_time: if mine { old.acquire_time } else { Some(now.clone()) },
                renew_time: Some(now),
                lease_transitions: Some(old.lease_transitions.unwrap_or_default() + i32::from(!mine)),
                ..LeaseSpec::default()
            }),
        }
    }

    async fn release(&mut self) {
        let Some(seen) = &self.seen else { return };
        let mut lease = seen.lease.clone();
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = None;
        }
        let params = PostParams::default();
        let given_back = self.api.replace(&self.settings.name, &params, &lease);
        match tokio::time::timeout(Duration::from_secs(3), given_back).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(error = %stoker_core::chain(&error), "lease not given back"),
            Err(_) => tracing::debug!("lease not given back in time"),
        }
    }
}
