//! The `git://` protocol: a TCP stream and one line that says what is wanted.

use std::io::{self, BufReader, Read, Write};
use std::net::TcpStream;

use super::{Destination, dial};
use crate::error::GitError;
use crate::limits::Limits;
use crate::wire::{Connection, Service, Version, connection_error, pktline};

/// A connection to `git daemon`.
pub(super) struct GitConnection {
    reader: BufReader<Stalling>,
    writer: TcpStream,
    url: String,
}

/// A socket whose silence is an error with a name.
struct Stalling {
    stream: TcpStream,
    limits: Limits,
}

pub(super) fn open(to: &Destination<'_>, service: Service) -> Result<GitConnection, GitError> {
    if let Some(error) = to.wrong_credential() {
        return Err(error);
    }
    let stream = dial::connect(to)?;
    let url = to.url.to_string();
    let failed = |e: io::Error| connection_error(&url, e);
    let mut writer = stream.try_clone().map_err(failed)?;
    let path = to.url.path();
    let slash = if path.starts_with('/') { "" } else { "/" };
    let extra = if service.version() == Version::V2 { "\0version=2\0" } else { "" };
    let mut line = Vec::new();
    let (program, host) = (service.program(), to.url.authority());
    pktline::push(&mut line, &format!("{program} {slash}{path}\0host={host}\0{extra}"));
    writer.write_all(&line).map_err(failed)?;
    let reader = BufReader::with_capacity(1 << 16, Stalling { stream, limits: to.limits.clone() });
    Ok(GitConnection { reader, writer, url })
}

impl Connection for GitConnection {
    fn greeting(&mut self) -> Result<&mut dyn Read, GitError> {
        Ok(&mut self.reader)
    }

    fn request(&mut self, body: Vec<u8>) -> Result<&mut dyn Read, GitError> {
        self.writer.write_all(&body).map_err(|e| connection_error(&self.url, e))?;
        Ok(&mut self.reader)
    }

    fn goodbye(&mut self) {
        let _ = self.writer.write_all(b"0000");
    }
}

impl Read for Stalling {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buffer).map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => stalled(&self.limits),
            _ => e,
        })
    }
}

/// The other side is silent for too long.
pub(super) fn stalled(limits: &Limits) -> io::Error {
    io::Error::other(GitError::Timeout {
        operation: "waiting for the git server to say something".to_owned(),
        limit: limits.stall_timeout,
    })
}
