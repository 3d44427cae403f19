//! Smart HTTP.
//!
//! One host, one credential: redirects are followed by hand, only to the same host and never from https to http. Bodies
//! of error answers are not read: they are anybody's words.

pub(super) mod app_token;
mod client;

use std::io::{self, BufReader, Read};
use std::time::Duration;

use reqwest::header::{ACCEPT, CONTENT_TYPE, DATE, HeaderMap, LOCATION, RETRY_AFTER, USER_AGENT};
use reqwest::{Client, Response, StatusCode};
use tokio::runtime::Runtime;

use super::Destination;
use crate::credentials::Credentials;
use crate::error::GitError;
use crate::limits::Limits;
use crate::proxy::InForce;
use crate::secret::Secret;
use crate::text::printable;
use crate::url::redact;
use crate::wire::{self, Connection, Service, Version};

/// Redirects that are followed, all on one host: a forge's "moved to .git", a proxy's "add a slash".
const MAX_REDIRECTS: usize = 3;
/// Bytes a second. An upload slower than this counts as stalled.
const SLOWEST_UPLOAD: u64 = 16 << 10;

/// A git service behind a web server.
pub(super) struct HttpConnection {
    // Before the runtime: what it holds runs on it.
    body: Option<BufReader<Body>>,
    client: Client,
    runtime: std::sync::Arc<Runtime>,
    base: url::Url,
    auth: Option<Auth>,
    service: Service,
    url: String,
    address: String,
    proxy: Option<InForce>,
    limits: Limits,
}

/// What is sent with every request.
enum Auth {
    Basic(String, Secret),
    Bearer(Secret),
}

struct Body {
    response: Response,
    chunk: Vec<u8>,
    at: usize,
    runtime: std::sync::Arc<Runtime>,
    address: String,
    proxy: Option<InForce>,
    limits: Limits,
}

pub(super) fn open(to: &Destination<'_>, service: Service) -> Result<HttpConnection, GitError> {
    if let Some(error) = to.wrong_credential() {
        return Err(error);
    }
    let auth = match &to.access.credentials {
        Credentials::Token { username, secret } => Some(Auth::Basic(username.clone(), secret.clone())),
        Credentials::Bearer { secret } => Some(Auth::Bearer(secret.clone())),
        _ => None,
    };
    let base = url::Url::parse(&to.url.to_string())
        .map_err(|e| GitError::Protocol { url: to.url.to_string(), detail: e.to_string() })?;
    let mut connection = HttpConnection {
        body: None,
        client: client::build(to)?,
        runtime: std::sync::Arc::new(to.runtime()?),
        base,
        auth,
        service,
        url: to.url.to_string(),
        address: to.address(),
        proxy: to.proxy()?,
        limits: to.limits.clone(),
    };
    connection.greet()?;
    Ok(connection)
}

impl HttpConnection {
    /// Asks for the references, which says everything about access.
    fn greet(&mut self) -> Result<(), GitError> {
        for _ in 0..=MAX_REDIRECTS {
            let program = self.service.program();
            let target = format!("{}/info/refs?service={program}", self.base.as_str().trim_end_matches('/'));
            let response = self.send(self.client.get(target), self.limits.stall_timeout)?;
            if response.status().is_redirection() {
                self.base = self.redirected(&response)?;
                continue;
            }
            let body = self.accept(response, &format!("application/x-{program}-advertisement"))?;
            self.body = Some(body);
            return Ok(());
        }
        Err(GitError::Protocol { url: self.url.clone(), detail: "it redirects in circles".to_owned() })
    }

    fn send(&self, request: reqwest::RequestBuilder, patience: Duration) -> Result<Response, GitError> {
        let mut request = request.header(USER_AGENT, wire::USER_AGENT).header(ACCEPT, "*/*");
        if self.service.version() == Version::V2 {
            request = request.header("Git-Protocol", "version=2");
        }
        request = match &self.auth {
            Some(Auth::Basic(user, secret)) => request.basic_auth(user, Some(secret.expose())),
            Some(Auth::Bearer(secret)) => request.bearer_auth(secret.expose()),
            None => request,
        };
        let waited = async { tokio::time::timeout(patience, request.send()).await };
        match self.runtime.block_on(waited) {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(client::meaning(&error, &self.address, self.proxy.as_ref(), &self.limits)),
            Err(_) => Err(GitError::Timeout {
                operation: format!("waiting for an answer of {}", self.address),
                limit: patience,
            }),
        }
    }

    /// Where the repository is instead, on the same host.
    fn redirected(&self, response: &Response) -> Result<url::Url, GitError> {
        let location = response.headers().get(LOCATION).and_then(|l| l.to_str().ok()).unwrap_or_default();
        let refuse =
            |target: &str| GitError::RedirectRefused { url: self.url.clone(), target: redact(target) };
        let target = response.url().join(location).map_err(|_| refuse(location))?;
        let upgrade = self.base.scheme() == "http" && target.scheme() == "https";
        let same_port = target.port_or_known_default() == self.base.port_or_known_default();
        let same_host = target.host_str() == self.base.host_str();
        if !(same_host && (upgrade || (same_port && target.scheme() == self.base.scheme()))) {
            return Err(refuse(target.as_str()));
        }
        let mut base = target.clone();
        base.set_query(None);
        base.set_fragment(None);
        match base.path().strip_suffix("/info/refs").map(str::to_owned) {
            // A web page to log in, for example.
            None => Err(refuse(target.as_str())),
            Some(path) => {
                base.set_path(&path);
                Ok(base)
            }
        }
    }

    /// The body of an answer that is what it should be.
    fn accept(&self, response: Response, content_type: &str) -> Result<BufReader<Body>, GitError> {
        if !response.status().is_success() {
            return Err(self.refusal(response.status(), response.headers()));
        }
        let found = response.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        if found.split(';').next().map(str::trim) != Some(content_type) {
            let found = printable(found, 80);
            let detail =
                format!("it answers with content of type {found:?}, as web pages and \"dumb\" servers do");
            return Err(GitError::Protocol { url: self.url.clone(), detail });
        }
        let body = Body {
            response,
            chunk: Vec::new(),
            at: 0,
            runtime: self.runtime.clone(),
            address: self.address.clone(),
            proxy: self.proxy.clone(),
            limits: self.limits.clone(),
        };
        Ok(BufReader::with_capacity(1 << 16, body))
    }

    fn refusal(&self, status: StatusCode, headers: &HeaderMap) -> GitError {
        let url = self.url.clone();
        let retry_after = retry_after(headers, std::time::SystemTime::now());
        if let Some(proxy) = self.proxy.as_ref().filter(|_| status.as_u16() == 407) {
            return proxy.wants_login();
        }
        match status.as_u16() {
            401 => {
                let detail = match &self.auth {
                    Some(Auth::Bearer(_)) => {
                        "status 401 for the bearer token; is it right and still valid?".to_owned()
                    }
                    Some(Auth::Basic(user, _)) => {
                        format!("status 401 for the user {user:?}; is the token right and still valid?")
                    }
                    None => "status 401; it wants a credential and none is configured".to_owned(),
                };
                GitError::AuthenticationFailed { url, detail }
            }
            // Forges use 403 for exhausted rate limits too, and then say when to come back.
            403 if retry_after.is_some() => GitError::RateLimited { url, retry_after },
            403 if self.service == Service::ReceivePack => {
                GitError::PushDenied { url, detail: "status 403".to_owned() }
            }
            403 => GitError::AccessDenied { url, detail: "status 403".to_owned() },
            404 | 410 => GitError::RepositoryNotFound { url },
            429 => GitError::RateLimited { url, retry_after },
            500..=599 => GitError::ServerError { url, status: status.as_u16(), retry_after },
            other => GitError::Protocol { url, detail: format!("status {other}") },
        }
    }
}

/// What nobody means seriously.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(24 * 3600);

/// `Retry-After` in seconds or as a date (RFC 9110, section 10.2.3). A date is by the server's clock, which `Date` shows;
/// ours, `now`, serves where it does not.
fn retry_after(headers: &HeaderMap, now: std::time::SystemTime) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let date = |text: &str| httpdate::parse_http_date(text).ok();
    let value = text(RETRY_AFTER)?;
    let wait = match value.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let now = text(DATE).and_then(date).unwrap_or(now);
            // A date that has passed: now.
            date(value)?.duration_since(now).unwrap_or_default()
        }
    };
    Some(wait.min(LONGEST_RETRY_AFTER))
}

impl Connection for HttpConnection {
    fn greeting(&mut self) -> Result<&mut dyn Read, GitError> {
        self.current()
    }

    fn request(&mut self, body: Vec<u8>) -> Result<&mut dyn Read, GitError> {
        // The rest of the last answer goes first: it would hold the connection.
        self.body = None;
        let program = self.service.program();
        let target = format!("{}/{program}", self.base.as_str().trim_end_matches('/'));
        // Nothing is heard while a pack goes out: its size is waited for as well, by the byte.
        let uploading = Duration::from_secs(body.len() as u64 / SLOWEST_UPLOAD);
        let request = self
            .client
            .post(target)
            .header(CONTENT_TYPE, format!("application/x-{program}-request"))
            .body(body);
        let response = self.send(request, self.limits.stall_timeout + uploading)?;
        if response.status().is_redirection() {
            let target = response.headers().get(LOCATION).and_then(|l| l.to_str().ok()).unwrap_or_default();
            return Err(GitError::RedirectRefused { url: self.url.clone(), target: redact(target) });
        }
        self.body = Some(self.accept(response, &format!("application/x-{program}-result"))?);
        self.current()
    }
}

impl HttpConnection {
    fn current(&mut self) -> Result<&mut dyn Read, GitError> {
        match &mut self.body {
            Some(body) => Ok(body),
            None => Err(GitError::Protocol { url: self.url.clone(), detail: "no answer is open".to_owned() }),
        }
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.chunk.len() {
            let waited =
                async { tokio::time::timeout(self.limits.stall_timeout, self.response.chunk()).await };
            match self.runtime.block_on(waited) {
                Ok(Ok(Some(chunk))) => {
                    self.chunk = chunk.to_vec();
                    self.at = 0;
                }
                Ok(Ok(None)) => return Ok(0),
                Ok(Err(error)) if error.is_decode() || error.is_body() => {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the answer was cut off"));
                }
                Ok(Err(error)) => {
                    return Err(io::Error::other(client::meaning(
                        &error,
                        &self.address,
                        self.proxy.as_ref(),
                        &self.limits,
                    )));
                }
                Err(_) => return Err(super::git::stalled(&self.limits)),
            }
        }
        let length = buffer.len().min(self.chunk.len() - self.at);
        buffer[..length].copy_from_slice(&self.chunk[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_understood_in_both_forms() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:00:00 GMT").unwrap();
        for (value, date, expected) in [
            ("7", None, Some(7)),
            (" 120 ", None, Some(120)),
            ("99999999999", None, Some(24 * 3600)),
            ("Sun, 06 Nov 1994 08:01:00 GMT", None, Some(60)),
            // The server's clock is an hour ahead of ours.
            ("Sun, 06 Nov 1994 09:01:00 GMT", Some("Sun, 06 Nov 1994 09:00:00 GMT"), Some(60)),
            ("Sunday, 06-Nov-94 08:00:30 GMT", None, Some(30)),
            ("Sun, 06 Nov 1994 07:00:00 GMT", None, Some(0)),
            ("-1", None, None),
            ("soon", None, None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, value.parse().unwrap());
            if let Some(date) = date {
                headers.insert(DATE, date.parse().unwrap());
            }
            assert_eq!(retry_after(&headers, now).map(|d| d.as_secs()), expected, "{value} {date:?}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
