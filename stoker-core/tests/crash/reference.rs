//! What the engine must do, as plainly as it can be written: maps of whole contents, no files, no crashes.

use std::collections::{BTreeMap, BTreeSet};

use stoker_core::{Policy, Prune};

pub(crate) type Files = BTreeMap<String, String>;

/// One destination, seen by somebody who knows everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    /// Every file that is there.
    pub(crate) live: Files,
    /// What the engine wrote last, by path.
    pub(crate) owned: Files,
    /// Directories that are there, empty ones included. Read off the disk: the engine need not say when they go.
    pub(crate) directories: BTreeSet<String>,
    pub(crate) policy: Policy,
    pub(crate) prune: Prune,
}

/// A transaction.
#[derive(Clone, Debug)]
pub(crate) struct Done {
    pub(crate) number: u64,
    pub(crate) before: Reference,
    pub(crate) after: Reference,
}

impl Done {
    /// The paths whose file is another one after than before.
    fn moved(&self) -> impl Iterator<Item = &String> {
        differing(&self.before.live, &self.after.live)
    }

    /// The paths of which the engine knows something else after than before.
    fn touched(&self) -> impl Iterator<Item = &String> {
        self.moved().chain(differing(&self.before.owned, &self.after.owned))
    }
}

fn differing<'a>(one: &'a Files, other: &'a Files) -> impl Iterator<Item = &'a String> {
    one.keys().chain(other.keys()).filter(|path| one.get(*path) != other.get(*path))
}

fn set(files: &mut Files, path: &str, content: Option<&String>) {
    match content {
        Some(content) => files.insert(path.to_owned(), content.clone()),
        None => files.remove(path),
    };
}

fn above(path: &str) -> impl Iterator<Item = &str> {
    path.char_indices().filter(|(_, c)| *c == '/').map(|(at, _)| &path[..at])
}

fn is_below(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
}

pub(crate) fn is_excluded(path: &str) -> bool {
    path.starts_with("logs/")
}

impl Reference {
    fn is_directory(&self, path: &str) -> bool {
        self.directories.contains(path)
    }

    /// Whether a change that somebody else made to an owned file gives way.
    fn gives_way(&self) -> bool {
        self.policy == Policy::SourceWins
    }

    /// The destination after a sync, or `None` when something of somebody else is in the way and nothing happens.
    pub(crate) fn synced(&self, desired: &Files) -> Option<Self> {
        let mut next = self.clone();
        let (mut created, mut deleted) = (Vec::new(), BTreeSet::new());
        let wanted = desired.iter().filter(|(path, _)| !is_excluded(path));
        for (path, content) in wanted.clone() {
            match (self.owned.get(path), self.live.get(path)) {
                (_, Some(live)) if live == content => {
                    next.owned.insert(path.clone(), content.clone());
                }
                (Some(base), Some(live)) if live != base && !self.gives_way() => {}
                (_, Some(_)) => {
                    next.owned.insert(path.clone(), content.clone());
                    next.live.insert(path.clone(), content.clone());
                }
                (Some(_), None) if !self.is_directory(path) && !self.gives_way() => {}
                (_, None) => {
                    created.push(path);
                    next.owned.insert(path.clone(), content.clone());
                    next.live.insert(path.clone(), content.clone());
                }
            }
        }
        for (path, base) in self.owned.iter().filter(|(path, _)| !desired.contains_key(*path)) {
            match self.live.get(path) {
                Some(_) if self.prune == Prune::Never => {}
                None if self.is_directory(path) && self.prune == Prune::Never => {}
                None => {
                    next.owned.remove(path);
                }
                Some(live) if live != base && !self.gives_way() => {}
                Some(_) => {
                    deleted.insert(path.clone());
                    next.owned.remove(path);
                }
            }
        }
        if self.prune == Prune::Mirror {
            let foreign = self.live.keys().filter(|path| {
                !self.owned.contains_key(*path) && !desired.contains_key(*path) && !is_excluded(path)
            });
            deleted.extend(foreign.cloned());
        }
        if created.iter().any(|path| self.blocks(path, &deleted)) {
            return None;
        }
        next.live.retain(|path, _| !deleted.contains(path));
        Some(next)
    }

    /// Whether what is there keeps a file from being made at `path`, also when some files are deleted first.
    fn blocks(&self, path: &str, deleted: &BTreeSet<String>) -> bool {
        let stays = |live: &String| !deleted.contains(live);
        self.live.keys().any(|live| is_below(live, path) && stays(live))
            || above(path).any(|at| self.live.keys().any(|live| live == at && stays(live)))
    }

    /// The destination after the way back over some transactions, oldest first; `None` when something of somebody else
    /// is in the way and nothing happens.
    pub(crate) fn rolled_back(&self, undone: &[Done]) -> Option<Self> {
        let mut next = self.clone();
        let is_undone = |path: &&String| !self.is_let_go(path, undone);
        for done in undone.iter().rev() {
            done.moved()
                .filter(is_undone)
                .for_each(|path| set(&mut next.live, path, done.before.live.get(path)));
            done.touched()
                .filter(is_undone)
                .for_each(|path| set(&mut next.owned, path, done.before.owned.get(path)));
        }
        let deleted = self.live.keys().filter(|path| !next.live.contains_key(*path)).cloned().collect();
        let mut made = next.live.keys().filter(|path| !self.live.contains_key(*path));
        let has_place =
            |path: &String| !self.blocks(path, &deleted) && above(path).all(|at| !next.live.contains_key(at));
        if made.all(has_place) { Some(next) } else { None }
    }

    /// Whether the file at `path` is not the engine's, nor what the newest transaction left there.
    fn is_let_go(&self, path: &str, undone: &[Done]) -> bool {
        let newest = undone.iter().rev().find(|done| done.touched().any(|touched| touched == path));
        let is_left =
            |done: &Done| done.moved().any(|moved| moved == path) && !done.after.owned.contains_key(path);
        self.live.contains_key(path) && !self.owned.contains_key(path) && !newest.is_some_and(is_left)
    }

    /// The contents that are there now and would not be there any more.
    pub(crate) fn lost(&self, next: &Self) -> Vec<String> {
        let replaced = self.live.iter().filter(|(path, content)| next.live.get(*path) != Some(content));
        replaced.map(|(_, content)| content.clone()).collect()
    }

    /// Whether somebody else could write a file here.
    pub(crate) fn has_room_for(&self, path: &str) -> bool {
        !self.is_directory(path) && above(path).all(|at| !self.live.contains_key(at))
    }
}
