//! The channel to the program on the other side.

use std::collections::VecDeque;
use std::io::{self, BufReader, Read};
use std::time::Duration;

use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Disconnect, client};
use tokio::runtime::Runtime;
use tokio::time::{Instant, timeout, timeout_at};

use super::{Destination, Gate, Stop, within};
use crate::error::GitError;
use crate::limits::Limits;
use crate::transport::git::stalled;
use crate::wire::{Connection, Service, Version, connection_error, remote_error};

/// How long taking leave may take. Nothing depends on it.
const LEAVE: Duration = Duration::from_secs(1);
/// What is sent at once; silence while it goes is what the patience is for.
const CHUNK: usize = 32 << 10;
/// What a server may say before what it is asked has reached it: the progress of unpacking, an early refusal.
const MAX_AHEAD: usize = 1 << 20;
/// What a server may say on standard error.
const MAX_COMPLAINT: usize = 4096;

/// A git service behind ssh.
pub(in crate::transport) struct SshConnection {
    reader: BufReader<Reader>,
    url: String,
}

/// What runs only while something is waited for.
struct Reader {
    line: Line,
    // After what runs on it.
    runtime: Runtime,
    limits: Limits,
}

pub(super) struct Line {
    ear: Ear,
    mouth: ChannelWriteHalf<client::Msg>,
    session: client::Handle<Gate>,
    address: String,
    /// The session has ended, and why was asked for: it is not told twice.
    ended: bool,
}

/// What comes in.
struct Ear {
    half: ChannelReadHalf,
    /// Heard and not read yet; of the first, `at` bytes are read.
    heard: VecDeque<Vec<u8>>,
    at: usize,
    complaint: Vec<u8>,
    /// The program has said all that it had to say on standard output.
    over: bool,
    /// It has ended.
    closed: bool,
}

enum Heard {
    /// What was asked for is granted, or not.
    Reply(bool),
    Other,
    /// The connection is gone.
    Nothing,
}

/// Starts the program on the other side.
pub(super) async fn start(
    to: &Destination<'_>,
    service: Service,
    session: client::Handle<Gate>,
) -> Result<Line, GitError> {
    let program = service.program();
    let channel = within(to, "cannot open an ssh channel", session.channel_open_session()).await?;
    let (half, mouth) = channel.split();
    let heard = VecDeque::new();
    let mut ear = Ear { half, heard, at: 0, complaint: Vec::new(), over: false, closed: false };
    let starting = async {
        if service.version() == Version::V2 {
            // Most servers refuse foreign variables; then they speak version 0.
            mouth.set_env(false, "GIT_PROTOCOL", "version=2").await?;
        }
        mouth.exec(true, format!("{program} {}", quoted(to.url.path()))).await?;
        // Some servers let the program speak before they say that it runs.
        while ear.heard.is_empty() {
            match ear.hear().await {
                Heard::Reply(true) => break,
                Heard::Reply(false) => return Err(russh::Error::RequestDenied),
                Heard::Nothing => return Err(russh::Error::Disconnect),
                Heard::Other if ear.closed => break,
                Heard::Other => {}
            }
        }
        Ok(())
    };
    let started = within(to, &format!("the server does not run {program}"), starting).await;
    started.map_err(|error| ear.complaint(&to.url.to_string()).unwrap_or(error))?;
    Ok(Line { ear, mouth, session, address: to.address(), ended: false })
}

/// One word for the server's shell, whatever is in it.
fn quoted(path: &str) -> String {
    format!("'{}'", path.replace('\'', r"'\''"))
}

impl Ear {
    /// Takes in one message. May be given up at any time without losing one.
    async fn hear(&mut self) -> Heard {
        match self.half.wait().await {
            // Nothing to read would be read as the end.
            Some(ChannelMsg::Data { data }) if data.is_empty() => {}
            Some(ChannelMsg::Data { data }) => self.heard.push_back(data.into()),
            Some(ChannelMsg::ExtendedData { data, .. }) => {
                let room = MAX_COMPLAINT - self.complaint.len();
                self.complaint.extend_from_slice(&data[..data.len().min(room)]);
            }
            Some(ChannelMsg::Success) => return Heard::Reply(true),
            Some(ChannelMsg::Failure) => return Heard::Reply(false),
            Some(ChannelMsg::Eof) => self.over = true,
            Some(ChannelMsg::Close) => (self.over, self.closed) = (true, true),
            Some(_) => {}
            None if self.closed => {}
            None => return Heard::Nothing,
        }
        Heard::Other
    }

    fn take(&mut self, buffer: &mut [u8]) -> usize {
        let Some(first) = self.heard.front() else { return 0 };
        let rest = &first[self.at..];
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        self.at += length;
        if self.at == first.len() {
            self.heard.pop_front();
            self.at = 0;
        }
        length
    }

    /// Forges explain themselves on standard error (`ERROR: Repository not found.`).
    fn complaint(&self, url: &str) -> Option<GitError> {
        let text = String::from_utf8_lossy(&self.complaint);
        let told: Vec<&str> =
            text.lines().map(str::trim).filter(|l| l.chars().any(char::is_alphanumeric)).collect();
        (!told.is_empty()).then(|| remote_error(url, &told.join(" ")))
    }
}

impl Line {
    /// Waits until there is something to read, or nothing any more.
    async fn listen(&mut self) -> io::Result<()> {
        while self.ear.heard.is_empty() && !self.ear.over {
            if let Heard::Nothing = self.ear.hear().await {
                return Err(self.lost().await);
            }
        }
        Ok(())
    }

    /// Says something, and listens meanwhile: a server whose words nobody takes does not listen either. One that has
    /// closed the channel is told no more; what it said tells why.
    async fn say(&mut self, words: &[u8]) -> io::Result<()> {
        {
            let mut saying = std::pin::pin!(self.mouth.data(words));
            while !self.ear.closed {
                let heard = tokio::select! {
                    said = &mut saying => match said {
                        Ok(()) => return Ok(()),
                        Err(_) => Heard::Nothing,
                    },
                    heard = self.ear.hear() => heard,
                };
                if let Heard::Nothing = heard {
                    break;
                }
                if self.ear.heard.iter().map(Vec::len).sum::<usize>() > MAX_AHEAD {
                    let endless = "it speaks without end before it is asked";
                    return Err(io::Error::new(io::ErrorKind::InvalidData, endless));
                }
            }
        }
        if self.ear.closed { Ok(()) } else { Err(self.lost().await) }
    }

    /// The error for a connection that is gone: an end in the middle where the program has explained itself.
    async fn lost(&mut self) -> io::Error {
        if !self.ear.complaint.is_empty() || std::mem::replace(&mut self.ended, true) {
            return io::ErrorKind::UnexpectedEof.into();
        }
        let stop = match timeout(LEAVE, &mut self.session).await {
            Ok(Err(stop)) => stop,
            Ok(Ok(())) | Err(_) => Stop::Farewell(String::new()),
        };
        io::Error::other(stop.meaning(&self.address, "the ssh connection broke"))
    }

    async fn leave(&mut self) {
        let _ = self.mouth.data(&b"0000"[..]).await;
        let _ = self.session.disconnect(Disconnect::ByApplication, "", "").await;
        if !std::mem::replace(&mut self.ended, true) {
            let _ = (&mut self.session).await;
        }
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let until = Instant::now() + self.limits.stall_timeout;
        let listening = async { timeout_at(until, self.line.listen()).await };
        self.runtime.block_on(listening).map_err(|_| stalled(&self.limits))??;
        Ok(self.line.ear.take(buffer))
    }
}

impl SshConnection {
    pub(super) fn new(to: &Destination<'_>, line: Line, runtime: Runtime) -> Self {
        let reader = Reader { line, runtime, limits: to.limits.clone() };
        Self { reader: BufReader::with_capacity(1 << 16, reader), url: to.url.to_string() }
    }
}

impl Connection for SshConnection {
    fn greeting(&mut self) -> Result<&mut dyn Read, GitError> {
        Ok(&mut self.reader)
    }

    fn request(&mut self, body: Vec<u8>) -> Result<&mut dyn Read, GitError> {
        let Reader { line, runtime, limits } = self.reader.get_mut();
        for chunk in body.chunks(CHUNK) {
            let saying = async { timeout(limits.stall_timeout, line.say(chunk)).await };
            let said = runtime.block_on(saying).map_err(|_| stalled(limits)).flatten();
            said.map_err(|e| connection_error(&self.url, e))?;
        }
        Ok(&mut self.reader)
    }

    fn goodbye(&mut self) {
        let Reader { line, runtime, .. } = self.reader.get_mut();
        let _ = runtime.block_on(async { timeout(LEAVE, line.leave()).await });
    }

    fn complaint(&mut self) -> Option<GitError> {
        let Reader { line, runtime, limits } = self.reader.get_mut();
        let hearing_out = async {
            while !line.ear.closed && !matches!(line.ear.hear().await, Heard::Nothing) {
                line.ear.heard.clear();
                line.ear.at = 0;
            }
        };
        let _ = runtime.block_on(async { timeout(limits.stall_timeout, hearing_out).await });
        line.ear.complaint(&self.url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_word_for_any_shell() {
        let nasty = "a b'; touch /tmp/x; echo '$(id)`id`\"\\";
        let output = std::process::Command::new("sh")
            .args(["-c", &format!("printf %s {}", quoted(nasty))])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), nasty);
    }
}
