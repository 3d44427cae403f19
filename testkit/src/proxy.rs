//! An HTTP proxy that forwards: tunnels (`CONNECT`) for https, whole requests for http.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// A proxy on loopback, in threads of its own. Whatever host it is asked for, it goes to one server: so a test that names
/// a host which does not exist knows that an answer came this way.
#[derive(Debug)]
pub struct ForwardProxy {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    server: SocketAddr,
    login: Mutex<Option<String>>,
    seen: Mutex<Vec<Seen>>,
}

/// A request that a proxy was asked to forward.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// `CONNECT host:port HTTP/1.1`, or a method with a whole URL.
    pub request: String,
    /// Whether it had the login that is demanded, if one is.
    pub admitted: bool,
    /// The whole head, with all header fields.
    pub head: String,
}

impl ForwardProxy {
    /// Forwards everything to `server`, for whoever has the login (user name, password), if one is given.
    ///
    /// # Errors
    ///
    /// No port can be bound.
    pub fn start(server: SocketAddr, login: Option<(&str, &str)>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("binding the port of a proxy")?;
        let address = listener.local_addr()?;
        let state = Arc::new(State { server, login: Mutex::default(), seen: Mutex::default() });
        let proxy = Self { address, state: Arc::clone(&state) };
        proxy.set_login(login);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let state = Arc::clone(&state);
                // What a client does to its connection is what the test is about.
                thread::spawn(move || drop(serve(&state, client)));
            }
        });
        Ok(proxy)
    }

    /// `http://HOST:PORT`, without the login.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Changes the login, as when a password is rotated.
    pub fn set_login(&self, login: Option<(&str, &str)>) {
        let basic =
            login.map(|(user, password)| format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))));
        *self.state.login.lock().unwrap_or_else(PoisonError::into_inner) = basic;
    }

    /// Every request so far, oldest first, those refused too.
    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn serve(state: &State, mut client: TcpStream) -> std::io::Result<()> {
    let (mut bytes, mut byte) = (Vec::new(), [0]);
    while !bytes.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte)?;
        bytes.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&bytes).into_owned();
    let request = head.lines().next().unwrap_or_default().to_owned();
    let field = |line: &str| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("proxy-authorization").then(|| value.trim().to_owned())
    };
    let given = head.lines().find_map(field);
    let login = state.login.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let admitted = login.is_none() || given == login;
    let seen = Seen { request: request.clone(), admitted, head: head.clone() };
    state.seen.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
    if !admitted {
        let refusal = "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"proxy\"\r\n\
                       Content-Length: 0\r\nConnection: close\r\n\r\n";
        return client.write_all(refusal.as_bytes());
    }
    let mut server = TcpStream::connect(state.server)?;
    if request.starts_with("CONNECT ") {
        client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    } else {
        // One request for each connection, so that each is seen. What is for the proxy goes no further.
        for (number, line) in head.trim_end().lines().enumerate() {
            let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
            if number == 0 || !matches!(&*name, "proxy-authorization" | "connection" | "proxy-connection") {
                server.write_all(format!("{line}\r\n").as_bytes())?;
            }
        }
        server.write_all(b"Connection: close\r\n\r\n")?;
    }
    let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    std::io::copy(&mut server, &mut client)?;
    client.shutdown(Shutdown::Both)
}
