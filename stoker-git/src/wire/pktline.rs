//! Packets: four hexadecimal digits of length, then the content.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use crate::error::GitError;

/// The longest packet that git sends, its length included.
const MAX_PACKET: usize = 65_520;
/// What must come of a packet within the patience for one: less is no connection that somebody could use. A whole packet,
/// however short, is always enough: servers send five bytes now and then to say that they are at work.
const LEAST_BYTES: usize = 1024;

/// One packet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Packet<'a> {
    /// Content.
    Data(&'a [u8]),
    /// The end of a message.
    Flush,
    /// The end of a section (version 2).
    Delimiter,
    /// The end of a stateless answer (version 2).
    ResponseEnd,
}

/// Reads packets, one at a time, into one buffer.
pub(crate) struct Packets<R> {
    from: R,
    buffer: Vec<u8>,
    patience: Duration,
}

impl<R: Read> Packets<R> {
    /// One packet may take as long as `patience`, longer only while at least a kilobyte comes in that time.
    pub(crate) fn new(from: R, patience: Duration) -> Self {
        Self { from, buffer: Vec::new(), patience }
    }

    /// The next packet.
    ///
    /// # Errors
    /// `UnexpectedEof` at the end of the stream, `InvalidData` when this is not a packet, a [`GitError::Timeout`] when it
    /// comes too slowly.
    pub(crate) fn next(&mut self) -> io::Result<Packet<'_>> {
        let mut header = [0; 4];
        let mut pace = Pace { since: Instant::now(), bytes: 0, patience: self.patience };
        pace.read_exact(&mut self.from, &mut header)?;
        let invalid = || {
            let shown = String::from_utf8_lossy(&header).into_owned();
            io::Error::new(io::ErrorKind::InvalidData, format!("a packet starts with {shown:?}"))
        };
        if !header.iter().all(u8::is_ascii_hexdigit) {
            return Err(invalid());
        }
        let text = std::str::from_utf8(&header).map_err(|_| invalid())?;
        let length = usize::from_str_radix(text, 16).map_err(|_| invalid())?;
        match length {
            0 => Ok(Packet::Flush),
            1 => Ok(Packet::Delimiter),
            2 => Ok(Packet::ResponseEnd),
            4..=MAX_PACKET => {
                self.buffer.resize(length - 4, 0);
                pace.read_exact(&mut self.from, &mut self.buffer)?;
                Ok(Packet::Data(&self.buffer))
            }
            _ => Err(invalid()),
        }
    }

    /// What follows the packets that were read.
    pub(crate) fn into_inner(self) -> R {
        self.from
    }
}

/// How fast one packet comes.
struct Pace {
    since: Instant,
    bytes: usize,
    patience: Duration,
}

impl Pace {
    fn read_exact(&mut self, from: &mut impl Read, mut buffer: &mut [u8]) -> io::Result<()> {
        while !buffer.is_empty() {
            match from.read(buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => {
                    buffer = &mut buffer[length..];
                    self.bytes += length;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
            if !buffer.is_empty() && self.since.elapsed() > self.patience {
                if self.bytes < LEAST_BYTES {
                    return Err(self.too_slow());
                }
                (self.since, self.bytes) = (Instant::now(), 0);
            }
        }
        Ok(())
    }

    fn too_slow(&self) -> io::Error {
        let operation = format!("a packet of the git server, of which only {} bytes came,", self.bytes);
        io::Error::other(GitError::Timeout { operation, limit: self.patience })
    }
}

/// Appends a packet with this content.
pub(crate) fn push(out: &mut Vec<u8>, content: &str) {
    debug_assert!(content.len() <= MAX_PACKET - 4);
    out.extend_from_slice(format!("{:04x}", content.len() + 4).as_bytes());
    out.extend_from_slice(content.as_bytes());
}

/// Ends a message.
pub(crate) fn push_flush(out: &mut Vec<u8>) {
    out.extend_from_slice(b"0000");
}

/// Ends a section.
pub(crate) fn push_delimiter(out: &mut Vec<u8>) {
    out.extend_from_slice(b"0001");
}

/// The content of a text packet, without the line end that is optional.
pub(crate) fn line(content: &[u8]) -> std::borrow::Cow<'_, str> {
    let content = content.strip_suffix(b"\n").unwrap_or(content);
    String::from_utf8_lossy(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn packets_are_told_apart() {
        let mut bytes = Vec::new();
        push(&mut bytes, "hello\n");
        push_delimiter(&mut bytes);
        push(&mut bytes, "");
        push_flush(&mut bytes);
        bytes.extend_from_slice(b"0002PACK");
        let mut packets = Packets::new(&bytes[..], Duration::MAX);
        assert_eq!(packets.next().unwrap(), Packet::Data(b"hello\n"));
        assert_eq!(packets.next().unwrap(), Packet::Delimiter);
        assert_eq!(packets.next().unwrap(), Packet::Data(b""));
        assert_eq!(packets.next().unwrap(), Packet::Flush);
        assert_eq!(packets.next().unwrap(), Packet::ResponseEnd);
        assert_eq!(packets.into_inner(), b"PACK");
    }

    #[test]
    fn what_is_no_packet_is_an_error() {
        for (bytes, kind) in [
            (&b""[..], io::ErrorKind::UnexpectedEof),
            (b"00", io::ErrorKind::UnexpectedEof),
            (b"0008ab", io::ErrorKind::UnexpectedEof),
            (b"0003", io::ErrorKind::InvalidData),
            (b"<htm", io::ErrorKind::InvalidData),
            (b"+123", io::ErrorKind::InvalidData),
            (b"ffff", io::ErrorKind::InvalidData),
        ] {
            assert_eq!(Packets::new(bytes, Duration::MAX).next().unwrap_err().kind(), kind, "{bytes:?}");
        }
    }

    /// Gives one byte at a time.
    struct Drip<'a>(&'a [u8], Duration);

    impl Read for Drip<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            std::thread::sleep(self.1);
            let length = buffer.len().min(1);
            self.0.read(&mut buffer[..length])
        }
    }

    #[test]
    fn a_packet_that_drips_is_given_up_and_short_ones_are_not() {
        let (mut long, mut short) = (Vec::new(), Vec::new());
        push(&mut long, &"x".repeat(500));
        (0..20).for_each(|_| push(&mut short, "x"));
        let patience = Duration::from_millis(400);
        // All the short ones together take longer than is allowed for one.
        let drip = |bytes| Packets::new(Drip(bytes, Duration::from_millis(5)), patience);
        let error = drip(&long).next().unwrap_err().downcast::<GitError>().unwrap();
        assert!(matches!(error, GitError::Timeout { .. }), "{error}");
        let mut alive = drip(&short);
        (0..20).for_each(|_| assert_eq!(alive.next().unwrap(), Packet::Data(b"x")));
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut packets = Packets::new(&bytes[..], Duration::MAX);
            while packets.next().is_ok() {}
        }
    }
}
