//! Values on disk with a format mark in front and a checksum behind, written and read piece by piece: a manifest or a
//! journal of a large tree is never in memory as bytes, too.

use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};

use serde::{Serialize, de::DeserializeOwned};

const MARK: &[u8; 8] = b"STOKER\x00\x04";

/// How much is written, read and hashed at a time.
const PIECE_BYTES: usize = 64 << 10;

/// The longest text in a value. Memory that is reserved but never touched costs nothing.
const TEXT_BYTES: usize = 1 << 20;

/// Writes a value.
pub(crate) fn seal<T: Serialize>(value: &T, to: impl Write) -> io::Result<()> {
    let mut to = BufWriter::with_capacity(PIECE_BYTES, Checked::new(to));
    to.write_all(MARK)?;
    if let Err(error) = postcard::to_io(value, &mut to) {
        return Err(to.get_mut().failed.take().unwrap_or_else(|| io::Error::other(error)));
    }
    let Checked { mut inner, hasher, .. } = to.into_inner().map_err(io::IntoInnerError::into_error)?;
    inner.write_all(hasher.finalize().as_bytes())
}

/// Reads a value of `length` bytes; `None` when it is damaged or of another format.
pub(crate) fn unseal<T: DeserializeOwned>(from: impl Read, length: u64) -> io::Result<Option<T>> {
    let Some(body) = length.checked_sub(blake3::OUT_LEN as u64) else { return Ok(None) };
    let mut from = BufReader::with_capacity(PIECE_BYTES, Checked::new(from.take(body)));
    let value = value(&mut from);
    if let Some(error) = from.get_mut().failed.take() {
        return Err(error);
    }
    if value.is_none() {
        return Ok(None);
    }
    // What a later version may have added counts for the checksum, too.
    loop {
        match from.fill_buf()?.len() {
            0 => break,
            n => from.consume(n),
        }
    }
    let Checked { inner, hasher, .. } = from.into_inner();
    let mut checksum = [0; blake3::OUT_LEN];
    match inner.into_inner().read_exact(&mut checksum) {
        Ok(()) => Ok(value.filter(|_| hasher.finalize() == checksum)),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(e) => Err(e),
    }
}

fn value<T: DeserializeOwned>(from: &mut impl Read) -> Option<T> {
    let mut mark = [0; MARK.len()];
    from.read_exact(&mut mark).ok().filter(|()| mark == *MARK)?;
    let mut text = vec![0; TEXT_BYTES];
    postcard::from_io((from, &mut text)).ok().map(|(value, _)| value)
}

/// Hashes what passes, and keeps the error that the serializer would swallow.
struct Checked<I> {
    inner: I,
    hasher: blake3::Hasher,
    failed: Option<io::Error>,
}

impl<I> Checked<I> {
    fn new(inner: I) -> Self {
        Self { inner, hasher: blake3::Hasher::new(), failed: None }
    }

    fn keep(&mut self, error: io::Error) -> io::Error {
        let kind = error.kind();
        if kind != io::ErrorKind::Interrupted {
            self.failed = Some(error);
        }
        kind.into()
    }
}

impl<W: Write> Write for Checked<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes).map_err(|error| self.keep(error))?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer).map_err(|error| self.keep(error))?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(value: &[String]) -> Vec<u8> {
        let mut bytes = Vec::new();
        seal(&value, &mut bytes).unwrap();
        bytes
    }

    fn unsealed(bytes: &[u8]) -> Option<Vec<String>> {
        unseal(bytes, bytes.len() as u64).unwrap()
    }

    #[test]
    fn every_damaged_byte_and_every_missing_one_is_noticed() {
        let value = ["one".to_owned(), "two".to_owned()];
        let bytes = sealed(&value);
        assert_eq!(unsealed(&bytes), Some(value.to_vec()));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(unsealed(&damaged), None, "byte {at}");
            assert_eq!(unsealed(&bytes[..at]), None, "{at} bytes");
        }
    }

    #[test]
    fn what_is_larger_than_a_piece_comes_back() {
        let value: Vec<String> = (0..20_000).map(|n| format!("{n:020}")).collect();
        assert_eq!(unsealed(&sealed(&value)), Some(value));
    }

    #[test]
    fn the_cause_of_a_failed_write_is_told() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::Error::from_raw_os_error(28))
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let value: Vec<String> = (0..20_000).map(|n| n.to_string()).collect();
        for value in [&value[..], &value[..1]] {
            assert_eq!(seal(&value, Full).unwrap_err().raw_os_error(), Some(28));
        }
    }
}
