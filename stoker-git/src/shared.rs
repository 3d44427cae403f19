//! One request for all who want to know.
//!
//! Many resources may follow one repository, each with a reference and a rhythm of its own. Their questions meet here:
//!
//! ```text
//!  resolve(main,  seen since t1) ─┐                       ┌ answer of a moment ago, if new enough
//!  resolve(v1.2,  seen since t2) ─┼─▶ repository+credential ┤
//!  resolve(trunk, seen now)      ─┘   one request at a time └ host slot ▶ slot ▶ AskRefs ▶ git server
//! ```
//!
//! - One request at a time for a repository and credential. Whoever waits for it shares its answer.
//! - An answer serves everybody for whom it is new enough. So a thousand that ask once a minute cost one request a minute.
//! - A server that asks for patience (`Retry-After`) gets it, whoever is in a hurry. Hurries that follow each other closely
//!   share a request: the first goes out at once.
//! - A host that does not answer holds only the few slots of its own, also when it is a proxy or the API of an app.
//! - Different credentials never share an answer, nor do different proxies.

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use crate::advertisement::Advertisement;
use crate::client::{Git, Remote};
use crate::credentials::{Access, Credentials};
use crate::error::GitError;
use crate::refspec::RefSpec;
use crate::resolve::{self, Resolution};
use crate::url::RemoteUrl;

/// What [`AskRefs`] returns.
pub type Asking<'a> = Pin<Box<dyn Future<Output = Result<Advertisement, GitError>> + Send + 'a>>;

/// Asks a git server for its references.
pub trait AskRefs: Send + Sync + 'static {
    /// What the repository advertises of what `wanted` may mean, or more; everything when `wanted` is empty. Bounded in
    /// time by the implementation.
    fn ask<'a>(&'a self, url: &'a RemoteUrl, access: &'a Access, wanted: &'a [RefSpec]) -> Asking<'a>;
}

impl AskRefs for Git {
    fn ask<'a>(&'a self, url: &'a RemoteUrl, access: &'a Access, wanted: &'a [RefSpec]) -> Asking<'a> {
        let remote = Remote { url: url.clone(), credentials: Arc::new(access.clone()) };
        Box::pin(async move { self.advertisement_for(&remote, wanted).await })
    }
}

impl<A: AskRefs + ?Sized> AskRefs for Arc<A> {
    fn ask<'a>(&'a self, url: &'a RemoteUrl, access: &'a Access, wanted: &'a [RefSpec]) -> Asking<'a> {
        (**self).ask(url, access, wanted)
    }
}

/// How old an answer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// What a name means is taken from what was advertised at this moment or later.
    pub seen_since: Instant,
    /// That there is no such name, too. For whoever has just pushed a branch and now names it for the first time, this is
    /// later than `seen_since`.
    pub denied_since: Instant,
}

impl Freshness {
    /// The same for both.
    #[must_use]
    pub fn since(moment: Instant) -> Self {
        Self { seen_since: moment, denied_since: moment }
    }
}

/// Which repository, seen by whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Viewpoint([u8; 32]);

/// What became of a question.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Seen {
    /// The commit, or why there is none.
    pub result: Result<Resolution, GitError>,
    /// Who else sees the same.
    pub viewpoint: Viewpoint,
    /// This question led to a request, and the repository is not what it was at the last one: others may want to look.
    pub is_news: bool,
}

/// Shares the requests of everything that asks in this process.
pub struct SharedRefs {
    ask: Box<dyn AskRefs>,
    entries: Mutex<HashMap<Viewpoint, Arc<Entry>>>,
    hosts: Mutex<HashMap<String, Arc<Semaphore>>>,
    slots: Semaphore,
    spacing: Duration,
}

/// Requests at the same time, over all hosts.
const SLOTS: usize = 32;
/// Requests at the same time to one host.
const SLOTS_OF_A_HOST: usize = 4;
/// The shortest time between the beginnings of two requests for the same.
const SPACING: Duration = Duration::from_millis(500);
/// What a server may ask for at most.
const LONGEST_PATIENCE: Duration = Duration::from_secs(3600);
/// A repository or a name that nobody has asked for in this time is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3600);
/// More repositories than this are looked through for forgotten ones.
const MANY_ENTRIES: usize = 1000;

struct Entry {
    wishes: Mutex<Wishes>,
    /// Held while a request is under way.
    answer: tokio::sync::Mutex<Option<Answer>>,
}

/// Who wants what; with many references these names are all that a server is asked for.
struct Wishes {
    names: HashMap<RefSpec, Instant>,
    last: Instant,
}

struct Answer {
    started: Instant,
    result: Result<Advertisement, GitError>,
    /// What took asking for all references.
    looked_through: HashMap<RefSpec, Result<Resolution, GitError>>,
    not_again_before: Option<Instant>,
}

impl std::fmt::Debug for SharedRefs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedRefs").finish_non_exhaustive()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SharedRefs {
    /// Asks through `ask`.
    pub fn new(ask: impl AskRefs) -> Arc<Self> {
        Arc::new(Self {
            ask: Box::new(ask),
            entries: Mutex::default(),
            hosts: Mutex::default(),
            slots: Semaphore::new(SLOTS),
            spacing: SPACING,
        })
    }

    /// The commit that `wanted` means in what the server advertised lately enough.
    ///
    /// A full commit id is taken as it is, without asking anybody.
    pub async fn resolve(
        &self,
        url: &RemoteUrl,
        access: &Access,
        wanted: &RefSpec,
        freshness: Freshness,
    ) -> Seen {
        let viewpoint = Viewpoint::of(url, access);
        let seen = |result, is_news| Seen { result, viewpoint, is_news };
        let text = url.to_string();
        if let RefSpec::Commit(_) = wanted {
            return seen(resolve::resolve(&Advertisement::none(), wanted, &text), false);
        }
        let entry = self.entry(viewpoint);
        entry.wish(wanted, Instant::now());
        let mut answer = entry.answer.lock().await;
        if let Some(known) = answer.as_ref() {
            let must_wait = known.not_again_before.is_some_and(|until| Instant::now() < until);
            if must_wait || (known.started >= freshness.seen_since && known.tells(wanted)) {
                let result = known.meaning(wanted, &text);
                let denied = matches!(result, Err(GitError::RefNotFound { .. }));
                if must_wait || !denied || known.started >= freshness.denied_since {
                    return seen(result, false);
                }
            }
            // Held for everybody who comes meanwhile.
            tokio::time::sleep(self.spacing.saturating_sub(known.started.elapsed())).await;
        }
        let _slots = self.slots_for(&way(url, access)).await;
        let mut new = self.request(url, access, &entry.names(), &text).await;
        new.look_through(wanted, &text, self.ask.as_ref(), url, access).await;
        let is_news = match (answer.as_ref().map(|known| &known.result), &new.result) {
            (Some(Ok(old)), Ok(new)) => differ(old, new),
            (Some(Err(_)), Ok(_)) => true,
            _ => false,
        };
        let result = new.meaning(wanted, &text);
        *answer = Some(new);
        seen(result, is_news)
    }

    async fn request(&self, url: &RemoteUrl, access: &Access, names: &[RefSpec], text: &str) -> Answer {
        let started = Instant::now();
        let result = self.ask.ask(url, access, names).await;
        tracing::debug!(url = text, names = names.len(), ok = result.is_ok(), "asked for references");
        let patience = result.as_ref().err().and_then(GitError::retry_after);
        let not_again_before = patience.map(|patience| Instant::now() + patience.min(LONGEST_PATIENCE));
        Answer { started, result, looked_through: HashMap::new(), not_again_before }
    }

    fn entry(&self, viewpoint: Viewpoint) -> Arc<Entry> {
        let mut entries = locked(&self.entries);
        if entries.len() > MANY_ENTRIES && !entries.contains_key(&viewpoint) {
            entries.retain(|_, entry| {
                Arc::strong_count(entry) > 1 || locked(&entry.wishes).last.elapsed() < FORGOTTEN_AFTER
            });
        }
        let new = || {
            let wishes = Wishes { names: HashMap::new(), last: Instant::now() };
            Arc::new(Entry { wishes: Mutex::new(wishes), answer: tokio::sync::Mutex::new(None) })
        };
        Arc::clone(entries.entry(viewpoint).or_insert_with(new))
    }

    async fn slots_for(&self, way: &str) -> Slots<'_> {
        let of_host = {
            let mut hosts = locked(&self.hosts);
            if hosts.len() > MANY_ENTRIES {
                hosts.retain(|_, slots| Arc::strong_count(slots) > 1);
            }
            let new = || Arc::new(Semaphore::new(SLOTS_OF_A_HOST));
            Arc::clone(hosts.entry(way.to_ascii_lowercase()).or_insert_with(new))
        };
        // That of the host first: whoever waits for a host that does not answer must not hold a slot of all. Neither is
        // ever closed.
        let of_host = of_host.acquire_owned().await.ok();
        let of_all = self.slots.acquire().await.ok();
        Slots { _of_host: of_host, _of_all: of_all }
    }
}

/// Held while a request is under way.
struct Slots<'a> {
    _of_host: Option<tokio::sync::OwnedSemaphorePermit>,
    _of_all: Option<tokio::sync::SemaphorePermit<'a>>,
}

/// The hosts that have to answer before the references are there: a proxy or a GitHub API that one resource names must
/// not hold the slots of all others on the same forge.
fn way(url: &RemoteUrl, access: &Access) -> String {
    let mut way = url.host().unwrap_or_default().to_owned();
    if let Credentials::GithubApp(app) = &access.credentials {
        way = format!("{way} by {}", app.api_base_url);
    }
    if let Some(proxy) = &access.proxy {
        way = format!("{way} through {}", proxy.url());
    }
    way
}

/// Whether what both were asked for is not the same.
fn differ(old: &Advertisement, new: &Advertisement) -> bool {
    if old.is_complete() && new.is_complete() {
        return old.refs != new.refs || old.head != new.head;
    }
    // One of them has more names; what both have decides.
    let known: HashSet<(&str, _)> = old.refs.iter().map(|r| (r.name.as_str(), r.id)).collect();
    let moved = |r: &&crate::AdvertisedRef| !known.contains(&(r.name.as_str(), r.id));
    new.refs.iter().any(|r| moved(&r)) || old.head != new.head
}

impl Entry {
    fn wish(&self, wanted: &RefSpec, now: Instant) {
        let mut wishes = locked(&self.wishes);
        wishes.last = now;
        wishes.names.insert(wanted.clone(), now);
    }

    fn names(&self) -> Vec<RefSpec> {
        let mut wishes = locked(&self.wishes);
        wishes.names.retain(|_, last| last.elapsed() < FORGOTTEN_AFTER);
        wishes.names.keys().cloned().collect()
    }
}

impl Answer {
    fn tells(&self, wanted: &RefSpec) -> bool {
        match &self.result {
            Ok(advertisement) => {
                self.looked_through.contains_key(wanted)
                    || (advertisement.covers(wanted)
                        && resolve::is_final(advertisement, &resolve::resolve(advertisement, wanted, "")))
            }
            Err(_) => true,
        }
    }

    fn meaning(&self, wanted: &RefSpec, url: &str) -> Result<Resolution, GitError> {
        if let Some(known) = self.looked_through.get(wanted) {
            return known.clone();
        }
        resolve::resolve(self.result.as_ref().map_err(Clone::clone)?, wanted, url)
    }

    /// Asks for all references where those that were asked for do not tell: for near names and short commit ids.
    async fn look_through(
        &mut self,
        wanted: &RefSpec,
        text: &str,
        ask: &dyn AskRefs,
        url: &RemoteUrl,
        access: &Access,
    ) {
        let Ok(some) = &self.result else { return };
        if resolve::is_final(some, &resolve::resolve(some, wanted, text)) {
            return;
        }
        let all = ask.ask(url, access, &[]).await;
        let result = all.and_then(|all| resolve::resolve(&all, wanted, text));
        self.looked_through.insert(wanted.clone(), result);
    }
}

impl Viewpoint {
    /// The repository at `url` for whoever has `access`.
    #[must_use]
    pub fn of(url: &RemoteUrl, access: &Access) -> Self {
        let mut context = ring::digest::Context::new(&ring::digest::SHA256);
        let mut add = |text: &str| {
            context.update(&(text.len() as u64).to_le_bytes());
            context.update(text.as_bytes());
        };
        add(&url.to_string());
        match &access.credentials {
            Credentials::None => add("none"),
            Credentials::Token { username, secret } => {
                add("token");
                add(username);
                add(secret.expose());
            }
            Credentials::SshKey { private_key, passphrase } => {
                add("ssh");
                add(private_key.expose());
                add(passphrase.as_ref().map_or("", |p| p.expose()));
            }
            Credentials::GithubApp(app) => {
                add("githubApp");
                add(&app.api_base_url);
                add(&app.app_id.to_string());
                add(&app.installation_id.to_string());
                add(app.private_key.expose());
            }
            Credentials::Bearer { secret } => {
                add("bearer");
                add(secret.expose());
            }
        }
        add(access.known_hosts.as_deref().unwrap_or_default());
        add(access.ca_pem.as_deref().unwrap_or_default());
        if let Some(proxy) = &access.proxy {
            add(proxy.url());
            for secret in proxy.login().iter().flat_map(|login| [&login.username, &login.password]) {
                add(secret.expose());
            }
        }
        let mut id = [0; 32];
        id.copy_from_slice(context.finish().as_ref());
        Self(id)
    }
}
