//! One gateway without Kubernetes: a configuration file, a repository, a data directory, a gateway.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use stoker_core::{RelPathBuf, Rendered};
use stoker_git::signature::TrustedKeys;
use stoker_git::{
    Cache, ChildCommand, CommitSource, CredentialFiles, Git, GitError, GithubAppFile, ProxyFiles, RefSpec,
    Remote, RemoteUrl, Verification, Wanted,
};
use stoker_ignition::client::{ApiKeySource, GatewayClient, GatewayOptions};
use stoker_k8s::api::{AgentConfig, TokenScheme};
use stoker_k8s::compile::{self, CompiledProfile, GatewayFacts};
use stoker_k8s::gateway_sync::{Confirmation, Failure, GatewaySync, Job, Outcome, Preview, SyncReport};

use crate::input;
use crate::output::Misuse;

/// Between two questions to a gateway that has not confirmed yet.
const CONFIRM_PAUSE: Duration = Duration::from_millis(500);
/// The longest time that one request to the gateway may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// A gateway that takes longer is spoken of.
const QUIET: Duration = Duration::from_secs(2);
/// How long the demo waits for a gateway's confirmation; `--confirm-timeout` says otherwise.
pub(crate) const CONFIRM_PATIENCE: Duration = Duration::from_secs(60);

/// One gateway, described by a configuration file.
pub(crate) struct Standalone {
    pub(crate) config: AgentConfig,
    pub(crate) profile: CompiledProfile,
    git: Git,
    remote: Remote,
    cache: Cache,
    pub(crate) gateway: GatewaySync,
    pub(crate) has_gateway: bool,
    confirm_patience: Duration,
    /// It was said that the gateway is waited for.
    told: AtomicBool,
    /// This process has asked the gateway already: what it cannot tell it is not asked again without a change.
    asked: AtomicBool,
}

/// A commit that is here.
struct Arrived {
    job: Job,
    warnings: Vec<String>,
    resolving: Duration,
    fetching: Duration,
}

/// What lets a sync pass that deletes too much.
const HOW_TO_ALLOW: &str = "; if that is meant, raise maxDeletes in the configuration file for one sync";

impl Standalone {
    pub(crate) fn read(path: &Path, confirm_patience: Duration) -> Result<Self> {
        let name = path.display().to_string();
        let text = input::file(path).map_err(Misuse)?;
        Self::of(AgentConfig::parse(&name, &text)?, confirm_patience)
    }

    pub(crate) fn of(config: AgentConfig, confirm_patience: Duration) -> Result<Self> {
        let misuse = |what: &str, error: &dyn std::error::Error| {
            Misuse(format!("{what}: {}", stoker_core::chain(error)))
        };
        let profile = compile::config(&config).map_err(|e| misuse("profile", &e))?;
        let url = if config.git.allow_insecure {
            RemoteUrl::parse_allowing_insecure(&config.git.repo)
        } else {
            RemoteUrl::parse(&config.git.repo)
        };
        let url = url.map_err(|e| misuse("git.repo", &e))?;
        let auth = config.git.auth.clone().unwrap_or_default();
        let files = CredentialFiles {
            token: auth.token.as_ref().map(|t| t.file.clone()),
            username: auth.token.as_ref().map(|t| t.username.clone()),
            bearer: auth.token.as_ref().is_some_and(|t| t.scheme == TokenScheme::Bearer),
            github_app: auth.github_app.as_ref().map(|app| GithubAppFile {
                app_id: app.app_id,
                installation_id: app.installation_id,
                private_key: app.private_key_file.clone(),
                api_base_url: app.api_base_url.clone(),
            }),
            ssh_key: auth.ssh_key.as_ref().map(|k| k.file.clone()),
            passphrase: auth.ssh_key.as_ref().and_then(|k| k.passphrase_file.clone()),
            known_hosts: auth.ssh_key.as_ref().and_then(|k| k.known_hosts_file.clone()),
            ca: config.git.ca_file.clone(),
            proxy: config.git.proxy.as_ref().map(|proxy| ProxyFiles {
                url: proxy.url.clone(),
                login: proxy.username_file.clone().zip(proxy.password_file.clone()),
            }),
        };
        let client = match &config.gateway {
            None => None,
            Some(gateway) => {
                let url = gateway.url.parse().map_err(|e| misuse("gateway.url", &e))?;
                // What is asked before the files go live must not take longer than the confirmation may, either.
                let limit = confirm_patience.clamp(Duration::from_secs(1), REQUEST_LIMIT);
                let key = ApiKeySource::file(&gateway.api_key_file);
                let options = GatewayOptions::new(url).api_key(key).request_timeout(limit);
                Some(GatewayClient::new(options).context("cannot talk to the gateway")?)
            }
        };
        // Beside the engine's state, which no sync touches.
        let cache = config
            .cache_dir
            .clone()
            .unwrap_or_else(|| config.data_dir.join(stoker_core::STATE_DIRECTORY).join("git"));
        Ok(Self {
            git: Git::new(ChildCommand::current_exe()),
            remote: Remote { url, credentials: Arc::new(files) },
            cache: Cache::new(cache),
            has_gateway: client.is_some(),
            told: AtomicBool::new(false),
            asked: AtomicBool::new(false),
            gateway: GatewaySync::new(config.data_dir.clone(), client),
            profile,
            config,
            confirm_patience,
        })
    }

    /// Brings the gateway to what the ref means now.
    pub(crate) async fn sync(&self, dry_run: bool, check_drift: bool) -> SyncReport {
        let began = Instant::now();
        let dry_run = dry_run || self.profile.dry_run;
        // A pause forbids writing, not looking.
        if self.profile.paused && !dry_run {
            let message = "profile.paused is true in the configuration: nothing is written until it is false"
                .to_owned();
            let failure =
                Failure { category: "Paused".to_owned(), message, path: Some("profile.paused".to_owned()) };
            return SyncReport::new("", &self.config.git.r#ref).ended(Outcome::Held, failure);
        }
        let arrived = match self.fetch(&self.config.git.r#ref).await {
            Ok(arrived) => arrived,
            Err(report) => return *report,
        };
        let mut report = self.gateway.files(Job { dry_run, check_drift, ..arrived.job }).await;
        if let Some(error) = report.error.as_mut().filter(|e| e.category == "MassDeletionBlocked") {
            error.message.push_str(HOW_TO_ALLOW);
        }
        report.warnings.extend(arrived.warnings);
        report.duration_ms.resolve = millis(arrived.resolving);
        report.duration_ms.fetch = millis(arrived.fetching);
        if matches!(report.outcome, Outcome::Applied | Outcome::InSync) && self.has_gateway {
            self.confirm(&mut report).await;
        }
        report.duration_ms.total = millis(began.elapsed());
        report
    }

    /// What a sync to `git_ref` would do, or to the ref of the configuration. Nothing is written outside the cache.
    pub(crate) async fn preview(&self, git_ref: Option<&str>) -> Result<Preview, Box<SyncReport>> {
        let arrived = self.fetch(git_ref.unwrap_or(&self.config.git.r#ref)).await?;
        let mut preview = self.gateway.preview(arrived.job).await?;
        if self.profile.paused {
            let paused = "profile.paused is true: a sync writes nothing until it is false";
            preview.report.warnings.push(paused.to_owned());
        }
        preview.report.warnings.extend(arrived.warnings);
        if let Some(error) = &mut preview.report.error {
            error.message.push_str(HOW_TO_ALLOW);
        }
        Ok(preview)
    }

    /// The file that a sync to `git_ref` would write to `path`.
    pub(crate) async fn render(
        &self,
        git_ref: Option<&str>,
        path: RelPathBuf,
    ) -> Result<Option<Rendered>, Box<SyncReport>> {
        let arrived = self.fetch(git_ref.unwrap_or(&self.config.git.r#ref)).await?;
        self.gateway.render(arrived.job, path).await
    }

    /// Looks a ref up and fetches its commit.
    async fn fetch(&self, git_ref: &str) -> Result<Arrived, Box<SyncReport>> {
        let began = Instant::now();
        let failed = |commit: &str, error: &GitError| {
            Box::new(SyncReport::new(commit, git_ref).ended(Outcome::Failed, Failure::of(error)))
        };
        // The cache may lie inside: it must not bring a directory into being that was named by mistake.
        if !self.config.data_dir.is_dir() {
            let path = self.config.data_dir.display().to_string();
            let message = format!("dataDir {path} is not a directory");
            let category = "DataDirectoryUnavailable".to_owned();
            let failure = Failure { category, message, path: Some("dataDir".to_owned()) };
            return Err(Box::new(SyncReport::new("", git_ref).ended(Outcome::Failed, failure)));
        }
        let wanted: RefSpec = git_ref.parse().map_err(|error: stoker_git::RefError| {
            let message = error.to_string();
            let path = Some("git.ref".to_owned());
            let failure = Failure { category: "RefInvalid".to_owned(), message, path };
            Box::new(SyncReport::new("", git_ref).ended(Outcome::Failed, failure))
        })?;
        let resolution = self.git.resolve(&self.remote, &wanted).await.map_err(|error| failed("", &error))?;
        let resolving = began.elapsed();
        let commit = resolution.commit.to_string();
        let fetched = self.git.fetch(&self.remote, &self.cache, &Wanted::from(&resolution)).await;
        let fetched = fetched.map_err(|error| failed(&commit, &error))?;
        self.verify(&fetched.source, &wanted).await.map_err(|error| failed(&commit, &error))?;
        let job = Job {
            source: Box::new(fetched.source),
            profile: self.profile.clone(),
            facts: self.facts(&commit, git_ref),
            check_drift: true,
            ask_gateway: !self.asked.load(Ordering::Relaxed),
            dry_run: false,
            approved_by: None,
        };
        let warnings = resolution.warnings.iter().map(ToString::to_string).collect();
        Ok(Arrived { job, warnings, resolving, fetching: began.elapsed() - resolving })
    }

    /// Refuses a commit that is not signed as the configuration asks for.
    async fn verify(&self, source: &CommitSource, wanted: &RefSpec) -> Result<(), GitError> {
        let Some(verify) = &self.config.git.verify else { return Ok(()) };
        let keys = TrustedKeys::read_files(&verify.key_files)?;
        let verification = Verification { mode: verify.mode.into(), keys };
        let now = jiff::Timestamp::now().as_second();
        self.git.verify(&self.remote, &self.cache, source, wanted, &verification, now).await.map(|_| ())
    }

    fn facts(&self, commit: &str, git_ref: &str) -> GatewayFacts {
        GatewayFacts {
            gateway_name: self.config.gateway_name.clone(),
            pod_name: self.config.gateway_name.clone(),
            git_ref: git_ref.to_owned(),
            commit: commit.to_owned(),
            labels: self.config.labels.clone(),
            ..GatewayFacts::default()
        }
    }

    async fn confirm(&self, report: &mut SyncReport) {
        let standing = self.gateway.standing();
        let asked = self.asked.swap(true, Ordering::Relaxed);
        match standing.unverified {
            _ if !standing.pending => return,
            Some(note) if asked && report.outcome == Outcome::InSync => {
                return unverified(report, note);
            }
            _ => {}
        }
        let began = Instant::now();
        let confirmation = self.ask().await;
        report.duration_ms.scan = millis(began.elapsed());
        match confirmation {
            Confirmation::Confirmed { scans, note, .. } => {
                report.outcome = Outcome::Applied;
                report.scans = scans;
                report.warnings.extend(Some(note).filter(|n| !n.is_empty()));
            }
            Confirmation::Unverified { scans, note } => {
                report.scans = scans;
                unverified(report, note);
            }
            Confirmation::Rejected { scans, failure } => {
                report.outcome = Outcome::Unconfirmed;
                report.scans = scans;
                report.error = Some(failure);
            }
            Confirmation::Waiting(failure) => {
                report.outcome = Outcome::Unconfirmed;
                report.error = Some(failure);
            }
        }
    }
}

/// Nothing speaks against it, but the gateway did not say that it is so either.
fn unverified(report: &mut SyncReport, note: String) {
    report.outcome = Outcome::Unconfirmed;
    report.error = Some(Failure { category: "Unverified".to_owned(), message: note, path: None });
}

impl Standalone {
    /// Asks until the gateway has answered for good, within the time that there is for all of it.
    async fn ask(&self) -> Confirmation {
        let began = Instant::now();
        // Zero means to ask once, which takes a moment as well.
        let limit = self.confirm_patience.max(Duration::from_secs(1));
        let mut last = None;
        let answer = {
            let mut asking = std::pin::pin!(async {
                loop {
                    match self.gateway.confirm().await {
                        Confirmation::Waiting(failure) if began.elapsed() < self.confirm_patience => {
                            last = Some(failure);
                            tokio::time::sleep(CONFIRM_PAUSE).await;
                        }
                        confirmation => break confirmation,
                    }
                }
            });
            match tokio::time::timeout(QUIET.min(limit), asking.as_mut()).await {
                Ok(answer) => Some(answer),
                Err(_) if limit <= QUIET => None,
                Err(_) => {
                    if !self.told.swap(true, Ordering::Relaxed) {
                        let (address, limit) = (self.address(), limit.as_secs());
                        eprintln!("waiting for the gateway at {address} to confirm, for up to {limit} s");
                    }
                    tokio::time::timeout(limit.saturating_sub(began.elapsed()), asking.as_mut()).await.ok()
                }
            }
        };
        answer.unwrap_or_else(|| {
            let (address, limit) = (self.address(), limit.as_secs());
            let Failure { category, message, .. } = last.unwrap_or_else(|| Failure {
                category: "GatewayTimeout".to_owned(),
                message: "it has taken the connection or the request, and not answered".to_owned(),
                path: None,
            });
            let message = format!("the gateway at {address} has not confirmed within {limit} s: {message}");
            Confirmation::Waiting(Failure { category, message, path: None })
        })
    }

    fn address(&self) -> &str {
        self.config.gateway.as_ref().map_or("", |gateway| &gateway.url)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
