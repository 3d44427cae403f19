//! The end of a transaction: after its last step, or after a crash.

use std::io;
use std::os::fd::AsFd;

use rustix::io::Errno;

use crate::apply::Transaction;
use crate::giving_back::GivingBack;
use crate::journal::{Journal, Step, Workshop, remembered};
use crate::path_map::PathMap;
use crate::state::{Head, Manifest, names, remove_tree};

impl Transaction<'_> {
    /// Completes a transaction that a crash has left behind. Says whether there was one.
    ///
    /// It was committed, so it comes before old history where there is no space for both.
    pub(crate) fn recover(&self) -> io::Result<Option<u64>> {
        loop {
            match self.recover_once() {
                Err(error) if is_full(&error) && crate::history::drop_oldest(self.state)? => {}
                result => return result,
            }
        }
    }

    fn recover_once(&self) -> io::Result<Option<u64>> {
        let Some(journal) = self.state.read_sealed::<Journal>("journal")? else {
            self.sweep()?;
            return Ok(None);
        };
        let Some(journal) = journal else {
            // It was made durable before it got its name, so the disk itself has lost it. What is live stays; the
            // next plan compares every file.
            rustix::fs::renameat(self.state.fd(), "journal", self.state.fd(), "journal.damaged")?;
            self.state.remove("manifest")?;
            self.sweep()?;
            return Ok(None);
        };
        self.state.make_directory(&format!("history/{}", journal.transaction))?;
        let mut workshop = self.workshop(journal.transaction)?;
        for (done, step) in journal.steps.iter().enumerate() {
            match workshop.redo(step) {
                Ok(()) => {}
                Err(error) if is_in_the_way(&error) => {
                    tracing::warn!(%error, path = %step.path(), "the interrupted transaction is taken back");
                    self.take_back(&journal, &mut workshop, done)?;
                    self.abandon(journal.transaction);
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
        let mut manifest = self.state.manifest()?.unwrap_or_default();
        // They tell of the revision before.
        manifest.trees = PathMap::default();
        let transaction = journal.transaction;
        self.finish(journal, manifest, true)?;
        self.sweep()?;
        Ok(Some(transaction))
    }

    /// Takes the steps up to `last` back, and drops the journal.
    pub(super) fn take_back(
        &self,
        journal: &Journal,
        workshop: &mut Workshop<'_>,
        last: usize,
    ) -> io::Result<()> {
        for step in journal.steps[..=last].iter().rev() {
            workshop.undo(step)?;
        }
        // The way back must be as durable as the journal that is dropped for it.
        rustix::fs::syncfs(self.root.fd())?;
        self.state.remove("journal")?;
        Ok(rustix::fs::fsync(self.state.fd())?)
    }

    /// Writes down what is live now, and turns the journal into history.
    pub(super) fn finish(&self, journal: Journal, mut manifest: Manifest, writes: bool) -> io::Result<()> {
        if writes {
            crate::history::write_down(self.state, &journal)?;
        }
        let Journal { transaction, mut head, steps, .. } = journal;
        let (mut files, mut directories) = (Vec::with_capacity(steps.len()), Vec::new());
        let mut cursor = self.root.cursor();
        for step in GivingBack::new(steps).flat_map(Step::into_plain) {
            match step {
                Step::Put { path, mut entry, .. } => {
                    entry.stat = remembered(cursor.live(path.as_path())?, entry.stat);
                    files.push((path, Some(entry)));
                }
                Step::SetMode { path, mut entry, .. } => {
                    entry.stat = remembered(cursor.live(path.as_path())?, entry.stat);
                    files.push((path, Some(entry)));
                }
                Step::Record { path, entry, .. } => files.push((path, Some(entry))),
                Step::Delete { path, .. } | Step::Forget { path, .. } => files.push((path, None)),
                Step::MakeDirectory { path } => directories.push((path, Some(()))),
                Step::RemoveDirectory { path } => directories.push((path, None)),
                Step::DirectoryForFile { .. } | Step::FileForDirectory { .. } => {}
            }
        }
        manifest.files.change(files);
        manifest.directories.change(directories);
        head.files = manifest.files.len() as u64;
        let manifest = self.state.write_sealed("manifest", &manifest)?;
        let head = self.state.write_new("head", &serde_json::to_vec_pretty(&head)?)?;
        if writes {
            // One sync for the renames in the destination and for what was just written.
            rustix::fs::syncfs(self.root.fd())?;
        } else {
            manifest.sync_data()?;
            head.sync_data()?;
        }
        self.state.publish("manifest")?;
        self.state.publish("head")?;
        self.state.remove("seen")?;
        if writes {
            // Without the journal nothing would tell that the manifest is not the new one yet.
            rustix::fs::fsync(self.state.fd())?;
            let kept = format!("history/{transaction}/journal");
            match rustix::fs::renameat(self.state.fd(), "journal", self.state.fd(), &kept) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(e) => return Err(e.into()),
            }
            crate::history::prune(self.state, self.retention)?;
            self.state.renew("stage");
        }
        Ok(())
    }

    /// Moves the head alone: another revision with the same content.
    ///
    /// Not made durable: all that a power cut can take is the name of a revision whose content is live anyway.
    pub(super) fn move_head(&self, head: &Head) -> io::Result<()> {
        self.state.write_new("seen", &serde_json::to_vec(head)?)?;
        // Some file systems write a file out at once when it replaces another one.
        self.state.remove("seen")?;
        self.state.publish("seen")
    }

    pub(super) fn sweep(&self) -> io::Result<()> {
        let stage = self.state.directory("stage")?;
        for name in names(&stage)? {
            remove_tree(stage.as_fd(), &name)?;
        }
        self.state.renew("stage");
        for name in ["journal.new", "manifest.new", "head.new", "seen.new"] {
            self.state.remove(name)?;
        }
        Ok(())
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOSPC | Errno::DQUOT))
}

/// Whether somebody else has put something where the transaction wanted to write.
fn is_in_the_way(error: &io::Error) -> bool {
    use io::ErrorKind::{AlreadyExists, DirectoryNotEmpty, IsADirectory, NotADirectory};
    matches!(error.kind(), AlreadyExists | DirectoryNotEmpty | IsADirectory | NotADirectory)
}
