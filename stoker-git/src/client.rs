//! Asking repositories, from the parent's side.

mod exchange;
mod push;
#[cfg(feature = "signatures")]
mod verify;

use std::collections::HashSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::advertisement::Advertisement;
use crate::cache::{Cache, layout};
use crate::child::ChildCommand;
use crate::child::message::{Answer, FetchReport, Request, Task};
use crate::credentials::{Access, CredentialProvider, Credentials, DEFAULT_TOKEN_USERNAME};
use crate::error::GitError;
use crate::github_app::AppTokens;
use crate::hostkeys::remembered;
use crate::limits::Limits;
use crate::object_id::CommitId;
use crate::policy::HostPolicy;
use crate::refspec::RefSpec;
use crate::resolve::{self, Resolution};
use crate::secret::Secret;
use crate::tree::CommitSource;
use crate::url::{Protocol, RemoteUrl};

#[cfg(feature = "signatures")]
pub use verify::{Verification, Verified, VerifyMode};

/// With more names than this, all are asked for.
const MAX_PREFIXES: usize = 1000;
/// How many repositories with many references are remembered.
const MAX_REMEMBERED: usize = 10_000;

/// A repository and what it takes to read it.
#[derive(Clone)]
pub struct Remote {
    /// Where it is.
    pub url: RemoteUrl,
    /// What proves to it who we are; asked at each use.
    pub credentials: Arc<dyn CredentialProvider>,
}

/// A commit that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Wanted {
    /// The commit.
    pub commit: CommitId,
    /// The reference that led to it. Only servers that give out no commit by its id need it.
    pub reference: Option<String>,
}

/// A commit that is here.
#[derive(Debug)]
#[non_exhaustive]
pub struct Fetched {
    /// Its files.
    pub source: CommitSource,
    /// What it took.
    pub report: FetchReport,
}

/// Asks repositories and fetches commits, each time in a child process.
///
/// Cheap to clone; clones share the tokens of GitHub Apps. Dropping a future that a method returned ends its child at once.
#[derive(Debug, Clone)]
pub struct Git {
    child: ChildCommand,
    limits: Limits,
    policy: HostPolicy,
    app_tokens: Arc<AppTokens>,
    accept_new: Option<PathBuf>,
    /// The URLs of repositories that were found to have many references. Shared by clones.
    many: Arc<Mutex<HashSet<String>>>,
}

impl Git {
    /// With default limits and the default host policy.
    #[must_use]
    pub fn new(child: ChildCommand) -> Self {
        Self {
            child,
            limits: Limits::default(),
            policy: HostPolicy::default(),
            app_tokens: Arc::default(),
            accept_new: None,
            many: Arc::default(),
        }
    }

    /// Sets the limits.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets which addresses may be connected to.
    #[must_use]
    pub fn with_policy(mut self, policy: HostPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Trusts the key of an ssh host of which none is known, and remembers it in this file.
    ///
    /// Not the default, and no setting of any resource: whoever stands between us and the host at that moment is trusted as
    /// well. A key that was remembered, or is listed in known_hosts, is held to as ever: another one is
    /// [`GitError::HostKeyChanged`]. The lines of known_hosts of the [`Access`] come first.
    #[must_use]
    pub fn with_accept_new(mut self, file: impl Into<PathBuf>) -> Self {
        self.accept_new = Some(file.into());
        self
    }

    /// Asks a repository for all its references: one round trip.
    ///
    /// # Errors
    /// When the repository cannot be read, within [`Limits::resolve_deadline`].
    pub async fn advertisement(&self, remote: &Remote) -> Result<Advertisement, GitError> {
        self.advertise(remote, Vec::new()).await
    }

    /// Asks a repository for the references that `wanted` may mean, and for all of them where that costs no more.
    ///
    /// One round trip to a repository with few references; two to one with more than some thousand, whose server then
    /// sends only what was asked for (`ref-prefix` in version 2 of the protocol), if it can.
    ///
    /// # Errors
    /// As [`advertisement`](Self::advertisement).
    pub async fn advertisement_for(
        &self,
        remote: &Remote,
        wanted: &[RefSpec],
    ) -> Result<Advertisement, GitError> {
        let mut prefixes: Vec<String> = wanted.iter().flat_map(RefSpec::candidates).collect();
        prefixes.sort_unstable();
        prefixes.dedup();
        if prefixes.len() > MAX_PREFIXES {
            prefixes.clear();
        }
        self.advertise(remote, prefixes).await
    }

    async fn advertise(&self, remote: &Remote, prefixes: Vec<String>) -> Result<Advertisement, GitError> {
        let deadline = self.limits.resolve_deadline;
        let url = remote.url.to_string();
        let many = self.many.lock().unwrap_or_else(PoisonError::into_inner).contains(&url);
        let task = || Task::Advertise { prefixes: prefixes.clone(), many };
        match self.run(remote, task, &[], "asking for references from", deadline).await? {
            Answer::Advertisement(advertisement) => {
                if !advertisement.is_complete() && !many {
                    let mut all = self.many.lock().unwrap_or_else(PoisonError::into_inner);
                    if all.len() >= MAX_REMEMBERED {
                        all.clear();
                    }
                    all.insert(url);
                }
                Ok(advertisement)
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Finds the commit that `wanted` means now. A full commit id is taken as it is, without asking anybody.
    ///
    /// # Errors
    /// [`GitError::RefNotFound`] with near names, or why the repository cannot be read.
    pub async fn resolve(&self, remote: &Remote, wanted: &RefSpec) -> Result<Resolution, GitError> {
        let advertisement = match wanted {
            RefSpec::Commit(_) => Advertisement::none(),
            _ => self.advertisement_for(remote, std::slice::from_ref(wanted)).await?,
        };
        let url = remote.url.to_string();
        let result = resolve::resolve(&advertisement, wanted, &url);
        if resolve::is_final(&advertisement, &result) {
            return result;
        }
        // A short commit id, or a mistake: names that are near it are worth a second question.
        resolve::resolve(&self.advertisement(remote).await?, wanted, &url)
    }

    /// Fetches exactly one commit into `cache`, unless it is there.
    ///
    /// # Errors
    /// [`GitError::CommitNotFound`] when the server does not have it (any more), or what went wrong. Whatever the error,
    /// commits that were in the cache can still be read from it.
    pub async fn fetch(&self, remote: &Remote, cache: &Cache, wanted: &Wanted) -> Result<Fetched, GitError> {
        if let Some(source) = self.cached(remote, cache, &wanted.commit)? {
            let report = FetchReport { already_present: true, ..FetchReport::default() };
            return Ok(Fetched { source, report });
        }
        let dir = std::path::absolute(cache.dir()).map_err(|e| crate::cache::io_error(cache.dir(), &e))?;
        let task =
            || Task::Fetch { commit: wanted.commit, hint: wanted.reference.clone(), cache: dir.clone() };
        let deadline = self.limits.fetch_deadline;
        let report = match self.run(remote, task, &[], "fetching from", deadline).await {
            Ok(Answer::Fetched(report)) => report,
            Ok(other) => return Err(unexpected(&other)),
            Err(error) => {
                // Full disks do not always end in an error: writing to a mapped file then ends in a signal.
                let error = match error {
                    GitError::ChildFailed { .. } if is_full(&dir) => {
                        GitError::CacheFull { path: dir.display().to_string() }
                    }
                    error => error,
                };
                // A child that was ended left half a pack behind.
                if let Ok(lock) = layout::lock(&dir, Duration::ZERO)
                    && let Ok(current) = layout::current(&dir)
                {
                    lock.sweep(current.as_ref());
                }
                return Err(error);
            }
        };
        let source = cache.commit(&wanted.commit)?.ok_or_else(|| GitError::CacheCorrupt {
            path: dir.display().to_string(),
            detail: format!("commit {} was fetched and is not there", wanted.commit),
        })?;
        Ok(Fetched { source: source.with_max_blob_bytes(self.limits.max_blob_bytes), report })
    }

    fn cached(
        &self,
        remote: &Remote,
        cache: &Cache,
        commit: &CommitId,
    ) -> Result<Option<CommitSource>, GitError> {
        if !layout::is_from(cache.dir(), &remote.url.to_string()) {
            return Ok(None);
        }
        match cache.commit(commit) {
            Ok(source) => Ok(source.map(|s| s.with_max_blob_bytes(self.limits.max_blob_bytes))),
            // The fetch that follows makes it anew.
            Err(GitError::CacheCorrupt { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// [`advertisement`](Self::advertisement) for callers without a runtime.
    ///
    /// # Errors
    /// As there.
    pub fn advertisement_blocking(&self, remote: &Remote) -> Result<Advertisement, GitError> {
        block_on(self.advertisement(remote))
    }

    /// [`resolve`](Self::resolve) for callers without a runtime.
    ///
    /// # Errors
    /// As there.
    pub fn resolve_blocking(&self, remote: &Remote, wanted: &RefSpec) -> Result<Resolution, GitError> {
        block_on(self.resolve(remote, wanted))
    }

    /// [`fetch`](Self::fetch) for callers without a runtime.
    ///
    /// # Errors
    /// As there.
    pub fn fetch_blocking(
        &self,
        remote: &Remote,
        cache: &Cache,
        wanted: &Wanted,
    ) -> Result<Fetched, GitError> {
        block_on(self.fetch(remote, cache, wanted))
    }

    /// Runs a task in a child. A credential that is refused is loaded once more: it may have been rotated meanwhile.
    async fn run(
        &self,
        remote: &Remote,
        task: impl Fn() -> Task,
        contents: &[&[u8]],
        what: &str,
        deadline: Duration,
    ) -> Result<Answer, GitError> {
        let access = remote.credentials.load()?;
        let used = self.admission(&remote.url, &access, None).await;
        let mut first = match &used {
            Ok(used) => self.attempt(&remote.url, used, task(), contents, what, deadline).await,
            Err(error) => Err(error.clone()),
        };
        if let (Ok(used), Some(file), Err(GitError::HostKeyUnknown { line, .. })) =
            (&used, &self.accept_new, &first)
        {
            let (host, port) = (remote.url.host().unwrap_or_default(), remote.url.port().unwrap_or_default());
            remembered::add(file, host, port, line)?;
            tracing::warn!(url = %remote.url, line, "trusting an ssh host key on first use");
            first = self.attempt(&remote.url, used, task(), contents, what, deadline).await;
        }
        let Err(error) = first else { return first };
        if !may_be_rotation(&error) {
            return Err(error);
        }
        let Ok(newer) = remote.credentials.load() else { return Err(error) };
        // The token of an app may have been withdrawn before its time; of everything else there is nothing newer.
        let refused = match (&used, &error) {
            (
                Ok(Access { credentials: Credentials::Token { secret, .. }, .. }),
                GitError::AuthenticationFailed { .. },
            ) if matches!(access.credentials, Credentials::GithubApp(_)) => Some(secret),
            _ => None,
        };
        if newer == access && refused.is_none() {
            return Err(error);
        }
        let newer = self.admission(&remote.url, &newer, refused).await?;
        self.attempt(&remote.url, &newer, task(), contents, what, deadline).await
    }

    /// What a server is shown: the token of an app in place of its key, everything else as it is.
    async fn admission(
        &self,
        url: &RemoteUrl,
        access: &Access,
        refused: Option<&Secret>,
    ) -> Result<Access, GitError> {
        let (scheme, web) =
            (url.protocol().scheme(), matches!(url.protocol(), Protocol::Https | Protocol::Http));
        if let Some(proxy) = access.proxy.as_ref().filter(|_| !web) {
            let detail = format!("{proxy} does not work with {scheme}://; write an https URL, or no proxy");
            return Err(GitError::ProxyInvalid { detail });
        }
        let Credentials::GithubApp(app) = &access.credentials else { return Ok(access.clone()) };
        if !web {
            let detail = format!("a GitHub App does not work with {scheme}://; write an https URL");
            return Err(GitError::CredentialInvalid { detail });
        }
        let api = app.token_url(url.is_insecure())?;
        let exchange = async {
            let deadline = self.limits.resolve_deadline;
            match self.attempt(&api, access, Task::AppToken, &[], "asking for a token at", deadline).await? {
                Answer::AppToken { token, lasts } => Ok((token.secret(), lasts)),
                other => Err(unexpected(&other)),
            }
        };
        let secret = self.app_tokens.token(app, access, refused, exchange).await?;
        let username = DEFAULT_TOKEN_USERNAME.to_owned();
        Ok(Access { credentials: Credentials::Token { username, secret }, ..access.clone() })
    }

    async fn attempt(
        &self,
        url: &RemoteUrl,
        access: &Access,
        task: Task,
        contents: &[&[u8]],
        what: &str,
        deadline: Duration,
    ) -> Result<Answer, GitError> {
        let url = url.to_string();
        let operation = format!("{what} {url}");
        let (policy, limits) = (self.policy.clone(), self.limits.clone());
        let remembering;
        let access = match &self.accept_new {
            None => access,
            Some(file) => {
                let own = access.known_hosts.as_deref().unwrap_or_default();
                let known_hosts = Some(format!("{own}\n{}", remembered::read(file)?));
                remembering = Access { known_hosts, ..access.clone() };
                &remembering
            }
        };
        let request = Request::new(url, access, policy, limits, deadline, task);
        tracing::debug!(operation, "asking a git server");
        let answer = exchange::exchange(&self.child, request, contents, &operation, deadline).await;
        match answer {
            Ok(Answer::Failed(error)) | Err(error) => {
                let error = error.scrubbed(&access.secrets());
                tracing::debug!(operation, %error, "the git server did not deliver");
                Err(error)
            }
            Ok(answer) => Ok(answer),
        }
    }
}

impl Remote {
    /// A repository with access that does not change.
    #[must_use]
    pub fn new(url: RemoteUrl, access: Access) -> Self {
        Self { url, credentials: Arc::new(access) }
    }

    /// A repository with access that is asked for at each use.
    #[must_use]
    pub fn with_provider(url: RemoteUrl, credentials: Arc<dyn CredentialProvider>) -> Self {
        Self { url, credentials }
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("url", &self.url.to_string()).finish_non_exhaustive()
    }
}

impl Wanted {
    /// A commit of which nothing else is known.
    #[must_use]
    pub fn commit(commit: CommitId) -> Self {
        Self { commit, reference: None }
    }

    /// A commit and the reference that leads to it.
    #[must_use]
    pub fn through(commit: CommitId, reference: Option<String>) -> Self {
        Self { commit, reference }
    }
}

impl From<&Resolution> for Wanted {
    fn from(resolution: &Resolution) -> Self {
        Self { commit: resolution.commit, reference: resolution.reference.clone() }
    }
}

/// Whether not even a small file fits on the disk of `dir`.
fn is_full(dir: &std::path::Path) -> bool {
    rustix::fs::statvfs(dir).is_ok_and(|disk| disk.f_bavail.saturating_mul(disk.f_frsize) < 64 << 10)
}

/// Errors that a newer credential, known_hosts or CA file may cure.
fn may_be_rotation(error: &GitError) -> bool {
    matches!(
        error,
        GitError::AuthenticationFailed { .. }
            | GitError::AccessDenied { .. }
            | GitError::PushDenied { .. }
            | GitError::CredentialInvalid { .. }
            | GitError::ProxyInvalid { .. }
            | GitError::ProxyRefused { .. }
            | GitError::HostKeyUnknown { .. }
            | GitError::HostCertificateRefused { .. }
            | GitError::HostKeyChanged { .. }
            | GitError::TlsUntrusted { .. }
            | GitError::RepositoryNotFound { .. }
    )
}

fn unexpected(answer: &Answer) -> GitError {
    let kind = match answer {
        Answer::Advertisement(_) => "references",
        Answer::Fetched(_) => "a fetch",
        Answer::Pushed(_) => "a push",
        Answer::AppToken { .. } => "a token",
        Answer::Failed(_) => "an error",
    };
    GitError::ChildFailed { detail: format!("it answered with {kind}, which was not asked for") }
}

/// On a thread of its own, so that it also works where a runtime is running.
fn block_on<T: Send>(future: impl Future<Output = Result<T, GitError>> + Send) -> Result<T, GitError> {
    let failed = |detail: String| GitError::ChildFailed { detail };
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map_err(|e| failed(format!("no runtime for it: {e}")))?.block_on(future)
        });
        worker.join().unwrap_or_else(|_| Err(failed("its supervisor panicked".to_owned())))
    })
}
