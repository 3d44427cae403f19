//! The work of the child.

mod push;
mod tag;

use std::path::Path;

use git2::Odb;

use super::message::{Answer, FetchReport, Request, Task, WireToken};
use crate::advertisement::Advertisement;
use crate::cache::generation::Generation;
use crate::cache::layout::{self, WriteLock};
use crate::cache::objects::{Objects, PackWriter};
use crate::credentials::{Access, Credentials};
use crate::error::GitError;
use crate::limits::Limits;
use crate::local::LocalRepository;
use crate::object_id::{CommitId, ObjectId};
use crate::transport::{self, AppToken, Destination};
use crate::url::{Protocol, RemoteUrl};
use crate::wire::fetch::{Fetched, Want};
use crate::wire::greeting::{self, Bounds, Greeting};
use crate::wire::{self, Connection, Service, Version, ls_refs};

/// When references are many: below this, having them all in one round trip costs less than a second round trip.
/// About four thousand.
const MANY_REFS_BYTES: usize = 256 << 10;

/// Does what is asked. `contents` came after the request.
pub(super) fn perform(request: &Request, contents: Vec<Vec<u8>>) -> Result<Answer, GitError> {
    let url = RemoteUrl::parse_allowing_insecure(&request.url)
        .map_err(|e| GitError::ChildFailed { detail: format!("it was asked for a bad URL: {e}") })?;
    let access = request.access()?;
    let work = Work { request, url: &url, access: &access };
    match &request.task {
        Task::Advertise { prefixes, many } => work.advertise(prefixes, *many).map(Answer::Advertisement),
        Task::AppToken => {
            let (token, lasts) = work.app_token()?;
            Ok(Answer::AppToken { token: WireToken::new(&token), lasts })
        }
        Task::Fetch { commit, hint, cache } => {
            work.fetch(commit, hint.as_deref(), cache).map(Answer::Fetched)
        }
        Task::FetchTag { tag, cache } => work.fetch_tag(tag, cache).map(Answer::Fetched),
        Task::Push { draft, reference, expected, cache, .. } => {
            work.push(draft, reference, *expected, cache, contents).map(Answer::Pushed)
        }
    }
}

struct Work<'a> {
    request: &'a Request,
    url: &'a RemoteUrl,
    access: &'a Access,
}

impl Work<'_> {
    fn destination(&self) -> Destination<'_> {
        let (limits, policy) = (&self.request.limits, &self.request.policy);
        Destination { url: self.url, access: self.access, limits, policy }
    }

    fn app_token(&self) -> Result<AppToken, GitError> {
        match &self.access.credentials {
            Credentials::GithubApp(app) => transport::app_token(&self.destination(), app),
            _ => Err(GitError::ChildFailed { detail: "it was asked for a token without an app".to_owned() }),
        }
    }

    fn advertise(&self, prefixes: &[String], many: bool) -> Result<Advertisement, GitError> {
        if self.url.protocol() == Protocol::File {
            return LocalRepository::open(self.url)?.advertisement(prefixes);
        }
        let url = self.url.to_string();
        let patience = self.request.limits.stall_timeout;
        if prefixes.is_empty() || !many {
            let most_bytes = if prefixes.is_empty() { usize::MAX } else { MANY_REFS_BYTES };
            let (mut connection, greeting) = self.greet(Version::V0, Bounds { patience, most_bytes })?;
            match greeting {
                Some(Greeting::V0(advertisement, _)) => {
                    connection.goodbye();
                    return Ok(advertisement);
                }
                Some(Greeting::V2(_)) => {
                    let detail = "it speaks version 2 of the protocol without being asked to".to_owned();
                    return Err(GitError::Protocol { url, detail });
                }
                // The rest stays unread: the connection goes.
                None => {}
            }
        }
        let (mut connection, greeting) = self.greet(Version::V2, Bounds::none(patience))?;
        match greeting {
            Some(Greeting::V2(capabilities)) => {
                let advertisement = ls_refs::run(&mut *connection, &capabilities, prefixes, &url, patience)?;
                connection.goodbye();
                Ok(advertisement)
            }
            // It tells everything or nothing.
            Some(Greeting::V0(advertisement, _)) => {
                connection.goodbye();
                Ok(advertisement)
            }
            None => Err(endless(&url)),
        }
    }

    /// Connects and listens.
    fn greet(
        &self,
        version: Version,
        bounds: Bounds,
    ) -> Result<(Box<dyn Connection>, Option<Greeting>), GitError> {
        let mut connection = transport::open(&self.destination(), Service::UploadPack(version))?;
        let greeting = self.listen(&mut *connection, bounds)?;
        Ok((connection, greeting))
    }

    /// Reads what the server says first; `None` when that is more than was asked for.
    fn listen(&self, connection: &mut dyn Connection, bounds: Bounds) -> Result<Option<Greeting>, GitError> {
        match greeting::read(connection.greeting()?, &self.url.to_string(), bounds) {
            Err(error @ GitError::Protocol { .. }) => Err(connection.complaint().unwrap_or(error)),
            read => read,
        }
    }

    fn fetch(&self, commit: &CommitId, hint: Option<&str>, dir: &Path) -> Result<FetchReport, GitError> {
        let lock = layout::lock(dir, self.request.deadline)?;
        let usable = lock.usable(&self.url.to_string())?;
        if usable.as_ref().is_some_and(|generation| generation.holds(commit)) {
            return Ok(FetchReport { already_present: true, ..FetchReport::default() });
        }
        let max_packs = self.request.limits.max_packs;
        let roomy = usable
            .filter(|generation| !generation.is_outgrown())
            .and_then(|g| if g.is_crowded(max_packs) { lock.fold(&g) } else { Some(g) });
        if let Some(generation) = roomy {
            match self.fetch_into(&generation, commit, hint) {
                Ok(fetched) => return Ok(report(&fetched, false)),
                // What is there does not fit what came: start anew, which needs nothing of what is there.
                Err(GitError::CacheCorrupt { .. } | GitError::Protocol { .. }) => {}
                Err(error) => {
                    lock.sweep(Some(&generation));
                    return Err(error);
                }
            }
        }
        let fetched = self.fetch_anew(&lock, commit, hint)?;
        Ok(report(&fetched, true))
    }

    fn fetch_anew(
        &self,
        lock: &WriteLock,
        commit: &CommitId,
        hint: Option<&str>,
    ) -> Result<Fetched, GitError> {
        let generation = lock.create()?;
        let fetched = self.fetch_into(&generation, commit, hint).and_then(|fetched| {
            lock.switch(&generation)?;
            Ok(fetched)
        });
        if fetched.is_err() {
            generation.remove();
        }
        fetched
    }

    fn fetch_into(
        &self,
        generation: &Generation,
        commit: &CommitId,
        hint: Option<&str>,
    ) -> Result<Fetched, GitError> {
        let known = generation.haves().first().copied();
        let fetched = self.receive(generation, commit, hint, |mirror, base, writer| {
            let shallow = mirror.copy(commit, base, writer)?;
            Ok(Fetched { shallow, bytes: writer.written(), ..Fetched::default() })
        })?;
        // A server may send something else than what was asked for, and all is well as far as the pack goes.
        let objects = Objects::open(&generation.objects_dir())?;
        if !objects.has(commit) {
            return Err(GitError::CommitNotFound { url: self.url.to_string(), commit: *commit });
        }
        objects.verify(commit, known.as_ref())?;
        generation
            .hold(commit, &fetched.shallow, &fetched.unshallow)
            .map_err(|e| crate::cache::io_error(generation.path(), &e))?;
        Ok(fetched)
    }

    /// Brings one object, and what belongs to it, into the cache as a pack; `copy` does so from a mirror.
    fn receive(
        &self,
        generation: &Generation,
        wanted: &ObjectId,
        hint: Option<&str>,
        copy: impl FnOnce(&LocalRepository, &Odb<'_>, &mut PackWriter<'_>) -> Result<Fetched, GitError>,
    ) -> Result<Fetched, GitError> {
        let url = self.url.to_string();
        let objects = Objects::open(&generation.objects_dir())?;
        let base = objects
            .repository()
            .odb()
            .map_err(|e| crate::cache::objects::corrupt(&generation.path().display().to_string(), &e))?;
        let Limits { max_transfer_bytes: limit, stall_timeout: patience, .. } = self.request.limits;
        let mut writer = PackWriter::new(generation, &base, &url, *wanted, limit)?;
        let fetched = if self.url.protocol() == Protocol::File {
            copy(&LocalRepository::open(self.url)?, &base, &mut writer)?
        } else {
            let (have, shallow) = (generation.haves(), generation.shallow());
            let want = Want { commit: *wanted, hint: hint.map(str::to_owned), have, shallow, patience };
            self.ask(&want, &url, &mut writer)?
        };
        writer.finish()?;
        Ok(fetched)
    }

    /// Asks a server for one object and what belongs to it.
    fn ask(&self, want: &Want, url: &str, sink: &mut PackWriter<'_>) -> Result<Fetched, GitError> {
        let (mut connection, greeting) = self.greet(Version::V2, Bounds::none(want.patience))?;
        let greeting = greeting.ok_or_else(|| endless(url))?;
        wire::fetch::run(&mut *connection, &greeting, want, url, sink)
    }
}

fn endless(url: &str) -> GitError {
    GitError::Protocol { url: url.to_owned(), detail: "its greeting has no end".to_owned() }
}

fn report(fetched: &Fetched, rebuilt: bool) -> FetchReport {
    FetchReport {
        transferred_bytes: fetched.bytes,
        already_present: false,
        rebuilt,
        whole_history: fetched.whole_history,
        peak_memory_bytes: peak_memory_bytes().unwrap_or_default(),
    }
}

/// `VmHWM` of proc(5).
fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}
