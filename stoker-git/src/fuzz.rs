//! A door for the fuzz targets: the wire protocol against a server of bytes, and raw directories. Only there under
//! `cfg(fuzzing)`.
#![allow(missing_docs)]

use std::io::Read;
use std::time::Duration;

use crate::advertisement::Advertisement;
use crate::error::GitError;
use crate::object_id::CommitId;
use crate::wire::fetch::{self, Want};
use crate::wire::greeting::{self, Bounds, Greeting};
use crate::wire::{Connection, PackSink};

/// Reads the references that a server advertises; `None` when it speaks version 2.
///
/// # Errors
/// What the bytes make of it.
pub fn greeting(bytes: &[u8]) -> Result<Option<Advertisement>, GitError> {
    match greeting::read(&mut &*bytes, "https://git.example.com/plant.git", Bounds::none(Duration::MAX))? {
        Some(Greeting::V0(advertisement, _)) => Ok(Some(advertisement)),
        Some(Greeting::V2(_)) | None => Ok(None),
    }
}

/// What a fetch did.
#[derive(Debug)]
pub struct Exchange {
    /// What was asked.
    pub request: Vec<u8>,
    /// The pack that came.
    pub pack: Vec<u8>,
    /// How many bytes were counted.
    pub counted: u64,
}

/// Fetches `commit` from a server that greets and answers with these bytes.
///
/// # Errors
/// What the bytes make of it.
pub fn exchange(greeting: &[u8], answer: &[u8], commit: CommitId) -> Result<Exchange, GitError> {
    let url = "https://git.example.com/plant.git";
    let Some(hello) = greeting::read(&mut &*greeting, url, Bounds::none(Duration::MAX))? else {
        return Err(GitError::Protocol {
            url: url.to_owned(),
            detail: "a greeting without an end".to_owned(),
        });
    };
    let hint = Some("refs/heads/main".to_owned());
    let want = Want { commit, hint, have: Vec::new(), shallow: Vec::new(), patience: Duration::MAX };
    let mut connection = Bytes { answer, request: Vec::new() };
    let mut pack = Pack(Vec::new());
    let fetched = fetch::run(&mut connection, &hello, &want, url, &mut pack)?;
    Ok(Exchange { request: connection.request, pack: pack.0, counted: fetched.bytes })
}

struct Bytes<'a> {
    answer: &'a [u8],
    request: Vec<u8>,
}

impl Connection for Bytes<'_> {
    fn greeting(&mut self) -> Result<&mut dyn Read, GitError> {
        Ok(&mut self.answer)
    }

    fn request(&mut self, body: Vec<u8>) -> Result<&mut dyn Read, GitError> {
        self.request.extend_from_slice(&body);
        Ok(&mut self.answer)
    }
}

struct Pack(Vec<u8>);

impl PackSink for Pack {
    fn write(&mut self, bytes: &[u8]) -> Result<(), GitError> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

/// The entries of a directory: name, mode, id.
pub type Entries = Vec<(Vec<u8>, i32, String)>;

/// Reads a raw directory, and adds a file to it as a push does; `None` when it is no directory at all.
///
/// # Errors
/// When it can be read and nothing can be added to it.
pub fn tree(raw: &[u8], name: &str) -> Option<Result<(Entries, Entries), String>> {
    crate::libgit2::set_up();
    let odb = git2::Odb::new().ok()?;
    odb.add_new_mempack_backend(1).ok()?;
    let repository = git2::Repository::from_odb(odb).ok()?;
    let odb = repository.odb().ok()?;
    let id = odb.write(git2::ObjectType::Tree, raw).ok()?;
    let before = repository.find_tree(id).ok()?;
    let entries = |tree: &git2::Tree<'_>| -> Entries {
        tree.iter().map(|e| (e.name_bytes().to_vec(), e.filemode_raw(), e.id().to_string())).collect()
    };
    let blob = odb.write(git2::ObjectType::Blob, b"new").ok()?;
    let mut builder = repository.treebuilder(Some(&before)).ok()?;
    let added = builder.insert(name, blob, 0o100_644).map(|_| ()).and_then(|()| builder.write());
    Some(match added.and_then(|id| repository.find_tree(id)) {
        Ok(after) => Ok((entries(&before), entries(&after))),
        Err(error) => Err(crate::text::printable(error.message(), 200)),
    })
}
