//! Packets: four hexadecimal digits of length, then the content.

use std::io::{self, Read};

/// The longest packet that git sends, its length included.
const MAX_PACKET: usize = 65_520;

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
}

impl<R: Read> Packets<R> {
    pub(crate) fn new(from: R) -> Self {
        Self { from, buffer: Vec::new() }
    }

    /// The next packet.
    ///
    /// # Errors
    /// `UnexpectedEof` at the end of the stream, `InvalidData` when this is not a packet.
    pub(crate) fn next(&mut self) -> io::Result<Packet<'_>> {
        let mut header = [0; 4];
        self.from.read_exact(&mut header)?;
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
                self.from.read_exact(&mut self.buffer)?;
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
        let mut packets = Packets::new(&bytes[..]);
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
            assert_eq!(Packets::new(bytes).next().unwrap_err().kind(), kind, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut packets = Packets::new(&bytes[..]);
            while packets.next().is_ok() {}
        }
    }
}
