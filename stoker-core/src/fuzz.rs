//! A door for the fuzz targets: what is read from the disk, without its checksum. Only there under `cfg(fuzzing)`.
//!
//! The checksum stops damage, not a body that an older or a later version wrote in another shape.
#![allow(missing_docs)]

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::journal::Journal;
use crate::sealed::{seal, unseal};
use crate::state::Manifest;

/// Reads the body of a manifest; what is read is written and read again.
pub fn manifest(body: &[u8]) -> Option<usize> {
    round::<Manifest>(body).map(|manifest| manifest.files.len())
}

/// The same for a journal.
pub fn journal(body: &[u8]) -> Option<usize> {
    round::<Journal>(body).map(|journal| journal.steps.len())
}

/// Bytes as they lie on the disk, whatever they are.
pub fn sealed(bytes: &[u8]) -> bool {
    read::<Manifest>(bytes).is_some() || read::<Journal>(bytes).is_some()
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    unseal(bytes, bytes.len() as u64).ok()?
}

fn written<T: Serialize>(value: &T) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    seal(value, &mut bytes).ok().map(|()| bytes)
}

fn round<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(body: &[u8]) -> Option<T> {
    let mut bytes = written(&())?;
    bytes.truncate(bytes.len() - blake3::OUT_LEN);
    bytes.extend_from_slice(body);
    let checksum = blake3::hash(&bytes);
    bytes.extend_from_slice(checksum.as_bytes());
    let value: T = read(&bytes)?;
    let again: Option<T> = written(&value).and_then(|bytes| read(&bytes));
    assert_eq!(again.as_ref(), Some(&value), "what was read is not what is written");
    Some(value)
}
