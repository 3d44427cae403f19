//! A man in the middle, who counts, breaks and rewrites what passes between a client and a real server.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// What happens to the bytes that the server sends.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) enum Fate {
    /// Nothing.
    #[default]
    Pass,
    /// The connection is cut after so many.
    Cut(usize),
    /// Nothing comes after so many, and the connection stays.
    Stall(usize),
    /// One at a time, from this one on.
    Drip(usize, Duration),
    /// One of them is another.
    Flip(usize),
}

/// Another text of the same length.
pub(crate) type Rewrite = (&'static str, &'static str);

/// No more than version 0 of the protocol is asked for.
pub(crate) const VERSION_0: Rewrite = ("version=2", "version=0");

/// How it treats a connection.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Habits {
    pub(crate) fate: Fate,
    /// What the client says.
    pub(crate) client: Option<Rewrite>,
    /// What the server says.
    pub(crate) server: Option<Rewrite>,
}

/// A man in the middle.
pub(crate) struct Breaking {
    pub(crate) port: u16,
    /// Bytes that passed towards the client.
    pub(crate) passed: Arc<AtomicUsize>,
    /// Connections that the client has not closed.
    pub(crate) open: Arc<AtomicUsize>,
}

impl Breaking {
    pub(crate) fn before(upstream: u16, fate: Fate) -> Self {
        Self::with(upstream, Habits { fate, ..Habits::default() })
    }

    pub(crate) fn with(upstream: u16, habits: Habits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let counters: [Arc<AtomicUsize>; 2] = std::array::from_fn(|_| Arc::default());
        let [passed, open] = counters.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let [passed, open] = counters.clone();
                let (client, server) =
                    (client.unwrap(), TcpStream::connect(("127.0.0.1", upstream)).unwrap());
                let (from_client, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                open.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || {
                    forward(from_client, &mut to_server, habits.client);
                    let _ = to_server.shutdown(Shutdown::Both);
                    open.fetch_sub(1, Ordering::SeqCst);
                });
                std::thread::spawn(move || pump(server, client, habits, &passed));
            }
        });
        Self { port, passed, open }
    }
}

fn rewritten(bytes: &mut [u8], rewrite: Option<Rewrite>) {
    let Some((from, to)) = rewrite else { return };
    assert_eq!(from.len(), to.len());
    for at in 0..bytes.len().saturating_sub(from.len() - 1) {
        if bytes[at..].starts_with(from.as_bytes()) {
            bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        }
    }
}

fn forward(mut from: TcpStream, to: &mut TcpStream, rewrite: Option<Rewrite>) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        rewritten(&mut buffer[..length], rewrite);
        if to.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

fn pump(mut server: TcpStream, mut client: TcpStream, habits: Habits, passed: &AtomicUsize) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(length @ 1..) = server.read(&mut buffer) {
        rewritten(&mut buffer[..length], habits.server);
        let begin = passed.fetch_add(length, Ordering::SeqCst);
        // How much of this passes before the fate strikes.
        let within = |at: usize| at.saturating_sub(begin).min(length);
        match habits.fate {
            Fate::Pass => {}
            Fate::Cut(after) if begin + length > after => {
                let _ = client.write_all(&buffer[..within(after)]);
                let _ = client.shutdown(Shutdown::Both);
                return;
            }
            Fate::Stall(after) if begin + length > after => {
                let _ = client.write_all(&buffer[..within(after)]);
                // Until the client has had enough.
                let _ = client.read(&mut [0]);
                std::thread::park_timeout(Duration::from_secs(20));
                return;
            }
            Fate::Drip(after, pause) if begin + length > after => {
                if client.write_all(&buffer[..within(after)]).is_err() {
                    return;
                }
                for byte in &buffer[within(after)..length] {
                    std::thread::sleep(pause);
                    if client.write_all(&[*byte]).is_err() {
                        return;
                    }
                }
                continue;
            }
            Fate::Flip(which) if (begin..begin + length).contains(&which) => buffer[which - begin] ^= 0x10,
            _ => {}
        }
        if client.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
    let _ = client.shutdown(Shutdown::Write);
}
