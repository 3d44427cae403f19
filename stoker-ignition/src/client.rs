//! The REST client of one gateway.
//!
//! - The API key is read from its file for every request; it is in no error and no log.
//! - Redirects are never followed: an uncommissioned gateway redirects, and following would turn a POST into a GET.
//! - Proxies are never used, not even when the environment names one.
//! - Status and content type are looked at before a body is parsed: gateways answer errors with HTML.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use stoker_ignition::client::{ApiKeySource, GatewayClient, GatewayOptions};
//!
//! let options = GatewayOptions::new("https://127.0.0.1:8043".parse()?)
//!     .api_key(ApiKeySource::file("/etc/stoker/key"));
//! let gateway = GatewayClient::new(options)?;
//! println!("{}", gateway.gateway_info().await?.ignition_version);
//! # Ok(()) }
//! ```

mod answer;
mod error;
mod key;
mod tls;
mod url;

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use reqwest::header::{CONTENT_TYPE, DATE, HeaderMap, LOCATION};
use reqwest::{Method, StatusCode, redirect};
use serde::de::DeserializeOwned;
use serde_json::json;

pub use answer::{
    Designers, GatewayInfo, GwInfo, LockAnswer, LogLevel, LogLine, Phase, ProjectInfo, Redundancy,
    ResourceName, ScanLock, ScanStatus, StatusPing,
};
pub use error::{GatewayError, SetupError};
pub use key::{ApiKeySource, KeyError};
pub use url::GatewayUrl;

use crate::rules::{Designer, ResourceType, ScanKind};
use answer::{List, NameItem, ScanLockBody};

/// The header that carries the key.
const KEY_HEADER: &str = "x-ignition-api-token";
/// The largest body that is read. The longest list seen is far below; anything longer is not a gateway.
const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;
/// How much of a gateway's own message is passed on, in characters.
const MAX_MESSAGE_CHARS: usize = 300;

/// How to reach a gateway.
#[derive(Debug, Clone)]
pub struct GatewayOptions {
    url: GatewayUrl,
    api_key: ApiKeySource,
    ca_file: Option<PathBuf>,
    request_timeout: Duration,
}

impl GatewayOptions {
    /// A gateway at `url`, without a key, with 10 seconds for each request.
    #[must_use]
    pub fn new(url: GatewayUrl) -> Self {
        Self { url, api_key: ApiKeySource::None, ca_file: None, request_timeout: Duration::from_secs(10) }
    }

    /// Where the API key comes from.
    #[must_use]
    pub fn api_key(mut self, source: ApiKeySource) -> Self {
        self.api_key = source;
        self
    }

    /// A PEM file with the CA, or the certificate itself, that the gateway must show. Read once, here.
    #[must_use]
    pub fn ca_file(mut self, path: Option<PathBuf>) -> Self {
        self.ca_file = path;
        self
    }

    /// The limit for each request, from connecting to the end of the answer.
    #[must_use]
    pub const fn request_timeout(mut self, limit: Duration) -> Self {
        self.request_timeout = limit;
        self
    }
}

/// A client of one gateway. Cheap to clone; clones share their connections.
#[derive(Debug, Clone)]
pub struct GatewayClient {
    http: reqwest::Client,
    url: GatewayUrl,
    api_key: ApiKeySource,
    request_timeout: Duration,
}

/// What came back, before anybody has judged it.
struct Answer {
    request: String,
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

/// How one request differs from a plain GET.
#[derive(Default)]
struct Extra<'a> {
    query: &'a [(&'a str, String)],
    body: Option<serde_json::Value>,
    /// On top of the usual limit, for calls that wait at the gateway.
    patience: Duration,
}

impl GatewayClient {
    /// Makes a client; nothing is sent yet.
    ///
    /// # Errors
    /// When the CA file cannot be used or TLS cannot be set up.
    pub fn new(options: GatewayOptions) -> Result<Self, SetupError> {
        let GatewayOptions { url, api_key, ca_file, request_timeout } = options;
        let mut builder = reqwest::Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .connect_timeout(request_timeout)
            .pool_max_idle_per_host(1)
            .user_agent(concat!("stoker/", env!("CARGO_PKG_VERSION")))
            .tls_backend_preconfigured(tls::config(url.as_url(), ca_file.as_deref())?);
        if tls::is_loopback(url.as_url()) {
            // The name must mean this machine, or the trust in its certificate would follow a hosts file.
            let port = url.as_url().port_or_known_default().unwrap_or(0);
            let here = [([127, 0, 0, 1], port).into(), (std::net::Ipv6Addr::LOCALHOST, port).into()];
            builder = builder.resolve_to_addrs("localhost", &here);
        }
        let http = builder.build().map_err(|e| SetupError::Tls(Box::new(e.without_url())))?;
        Ok(Self { http, url, api_key, request_timeout })
    }

    /// The address of the gateway.
    #[must_use]
    pub const fn url(&self) -> &GatewayUrl {
        &self.url
    }

    /// `GET /StatusPing`: is it up? Needs no key.
    ///
    /// # Errors
    /// When there is no gateway that answers.
    pub async fn status_ping(&self) -> Result<StatusPing, GatewayError> {
        json_body(&ok(self.send(Method::GET, &["StatusPing"], false, Extra::default()).await?, &self.url)?)
    }

    /// `GET /system/gwinfo`: version, redundancy and commissioning in one line. Needs no key.
    ///
    /// # Errors
    /// When there is no gateway that answers.
    pub async fn gwinfo(&self) -> Result<GwInfo, GatewayError> {
        let answer =
            ok(self.send(Method::GET, &["system", "gwinfo"], false, Extra::default()).await?, &self.url)?;
        GwInfo::parse(&String::from_utf8_lossy(&answer.body))
            .ok_or_else(|| unexpected(&answer, "no line of key=value pairs with ContextStatus"))
    }

    /// `GET gateway-info`: name, version, deployment mode.
    ///
    /// # Errors
    /// When the gateway does not answer it.
    pub async fn gateway_info(&self) -> Result<GatewayInfo, GatewayError> {
        self.get(&["gateway-info"], &[]).await
    }

    /// `GET scan/{config,projects}`; `None` when this gateway has no such route.
    ///
    /// # Errors
    /// When the gateway does not answer it.
    pub async fn scan_status(&self, kind: ScanKind) -> Result<Option<ScanStatus>, GatewayError> {
        match self.get(&["scan", kind.as_str()], &[]).await {
            Ok(status) => Ok(Some(status)),
            Err(GatewayError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// `POST scan/{config,projects}`: asks for a scan and releases the scan lock, whoever holds it.
    ///
    /// The answer is a receipt with the state *before* the scan. It confirms nothing.
    ///
    /// # Errors
    /// When the gateway does not take it.
    pub async fn scan(&self, kind: ScanKind) -> Result<ScanStatus, GatewayError> {
        let path = ["scan", kind.as_str()];
        json_body(&ok(self.send_api(Method::POST, &path, Extra::default()).await?, &self.url)?)
    }

    /// `POST scan-lock/{config,projects}`: waits up to `acquire` for the lock and holds it for `hold`.
    ///
    /// Both are sent as whole seconds, rounded up. There is no way to give the lock back but a scan.
    ///
    /// # Errors
    /// When the gateway does not answer, or refuses for another reason than that somebody else holds it.
    pub async fn scan_lock(
        &self,
        kind: ScanKind,
        acquire: Duration,
        hold: Duration,
    ) -> Result<LockAnswer, GatewayError> {
        let body =
            json!({"acquireTimeout": whole_seconds(acquire), "holdTimeout": whole_seconds(hold).max(1)});
        let extra = Extra {
            body: Some(body),
            patience: Duration::from_secs(whole_seconds(acquire)),
            ..Extra::default()
        };
        let answer = self.send_api(Method::POST, &["scan-lock", kind.as_str()], extra).await?;
        match answer.status {
            StatusCode::CONFLICT | StatusCode::REQUEST_TIMEOUT => Ok(LockAnswer::Busy),
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => Ok(LockAnswer::NoRoute),
            _ => Ok(LockAnswer::Held(json_body::<ScanLockBody>(&ok(answer, &self.url)?)?.into())),
        }
    }

    /// `GET scan-lock/{config,projects}`: who holds the lock; `None` when nobody does or there is no such route.
    ///
    /// # Errors
    /// When the gateway does not answer it.
    pub async fn scan_lock_status(&self, kind: ScanKind) -> Result<Option<ScanLock>, GatewayError> {
        let answer = self.send_api(Method::GET, &["scan-lock", kind.as_str()], Extra::default()).await?;
        match answer.status {
            StatusCode::NO_CONTENT | StatusCode::NOT_FOUND => Ok(None),
            _ => Ok(Some(json_body::<ScanLockBody>(&ok(answer, &self.url)?)?.into())),
        }
    }

    /// `GET projects/list`: the projects that the gateway runs.
    ///
    /// # Errors
    /// When the gateway does not answer it.
    pub async fn projects_list(&self) -> Result<Vec<ProjectInfo>, GatewayError> {
        Ok(self.list(&["projects", "list"], &[("limit", "-1".to_owned())]).await?.0)
    }

    /// `GET projects/names`: all projects, also disabled ones and those that only others inherit from.
    ///
    /// # Errors
    /// When the gateway does not answer it.
    pub async fn project_names(&self) -> Result<Vec<String>, GatewayError> {
        let items: Vec<NameItem> = self.list(&["projects", "names"], &[("limit", "-1".to_owned())]).await?.0;
        Ok(items.into_iter().map(NameItem::into_name).collect())
    }

    /// `GET designers`: the open Designers, dormant ones included.
    ///
    /// # Errors
    /// When the gateway does not answer it.
    pub async fn designers(&self) -> Result<Designers, GatewayError> {
        let (sessions, headers) =
            self.list::<Designer>(&["designers"], &[("limit", "-1".to_owned())]).await?;
        Ok(Designers { sessions, gateway_now_ms: clock(&headers) })
    }

    /// `GET logs`: lines of at least `level` since `start_ms` (epoch milliseconds of the gateway's clock).
    ///
    /// At most `limit` lines, the newest first where the gateway sorts.
    ///
    /// # Errors
    /// When the gateway does not answer it.
    pub async fn logs_since(
        &self,
        start_ms: i64,
        level: LogLevel,
        limit: u32,
    ) -> Result<Vec<LogLine>, GatewayError> {
        let query = [
            ("startTime", start_ms.to_string()),
            ("minLevel", level.as_str().to_owned()),
            ("limit", limit.to_string()),
        ];
        Ok(self.list(&["logs"], &query).await?.0)
    }

    /// `GET resources/names/{module}/{type}`: the resources of one type that are loaded.
    ///
    /// # Errors
    /// When the gateway does not answer it; [`GatewayError::NotFound`] for a type that it does not list.
    pub async fn resource_names(&self, of: &ResourceType) -> Result<Vec<ResourceName>, GatewayError> {
        let path = ["resources", "names", of.module.as_str(), of.name.as_str()];
        Ok(self.list(&path, &[("limit", "-1".to_owned())]).await?.0)
    }

    /// `GET redundancy`: the role of this node and its state of synchronisation.
    ///
    /// # Errors
    /// When the gateway does not answer it.
    pub async fn redundancy(&self) -> Result<Redundancy, GatewayError> {
        self.get(&["redundancy"], &[]).await
    }

    async fn get<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, String)],
    ) -> Result<T, GatewayError> {
        let answer = self.send_api(Method::GET, path, Extra { query, ..Extra::default() }).await?;
        json_body(&ok(answer, &self.url)?)
    }

    async fn list<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, String)],
    ) -> Result<(Vec<T>, HeaderMap), GatewayError> {
        let answer = self.send_api(Method::GET, path, Extra { query, ..Extra::default() }).await?;
        let answer = ok(answer, &self.url)?;
        let list: List<T> = json_body(&answer)?;
        if list.query_was_not_understood() {
            return Err(unexpected(
                &answer,
                "an empty list although there are items: it does not know the query",
            ));
        }
        Ok((list.items, answer.headers))
    }

    async fn send_api(
        &self,
        method: Method,
        path: &[&str],
        extra: Extra<'_>,
    ) -> Result<Answer, GatewayError> {
        let whole: Vec<&str> = ["data", "api", "v1"].iter().chain(path).copied().collect();
        let answer = self.send(method, &whole, true, extra).await?;
        match answer.status {
            StatusCode::UNAUTHORIZED => Err(GatewayError::Unauthorized {
                request: answer.request,
                plain_http: !self.url.is_https(),
                sent_key: self.api_key != ApiKeySource::None,
            }),
            StatusCode::FORBIDDEN => {
                Err(GatewayError::Forbidden { request: answer.request, plain_http: !self.url.is_https() })
            }
            _ => Ok(answer),
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &[&str],
        with_key: bool,
        extra: Extra<'_>,
    ) -> Result<Answer, GatewayError> {
        let mut url = self.url.at(path);
        let request = format!("{method} {}", url.path());
        if !extra.query.is_empty() {
            url.query_pairs_mut().extend_pairs(extra.query);
        }
        let limit = self.request_timeout + extra.patience;
        let mut builder = self.http.request(method, url).timeout(limit);
        if with_key && let Some(key) = self.api_key.header().await? {
            builder = builder.header(KEY_HEADER, key);
        }
        if let Some(body) = &extra.body {
            builder = builder.json(body);
        }
        let started = Instant::now();
        let failed = |error: reqwest::Error| transport_error(error, &request, limit);
        let mut response = builder.send().await.map_err(failed)?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > MAX_BODY_BYTES {
                let found = format!("a body of more than {MAX_BODY_BYTES} bytes");
                return Err(GatewayError::UnexpectedAnswer { request, found });
            }
            body.extend_from_slice(&chunk);
        }
        let status = response.status();
        tracing::debug!(%request, status = status.as_u16(), ms = started.elapsed().as_millis() as u64, "gateway answered");
        Ok(Answer { request, status, headers: response.headers().clone(), body })
    }
}

fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

/// The gateway's clock, in epoch milliseconds; ours when the answer has no readable `Date`.
fn clock(headers: &HeaderMap) -> i64 {
    headers
        .get(DATE)
        .and_then(|d| jiff::fmt::rfc2822::parse(d.to_str().ok()?).ok())
        .map(|date| date.timestamp().as_millisecond())
        .or_else(|| jiff::Timestamp::try_from(SystemTime::now()).ok().map(jiff::Timestamp::as_millisecond))
        .unwrap_or_default()
}

fn transport_error(error: reqwest::Error, request: &str, limit: Duration) -> GatewayError {
    // Which of several gateways it was: the URL has no secret in it, the key is a header.
    let method = request.split(' ').next().unwrap_or_default();
    let request = error.url().map_or_else(|| request.to_owned(), |url| format!("{method} {url}"));
    let error = error.without_url();
    if error.is_timeout() {
        return GatewayError::Timeout { request, after: limit };
    }
    if is_certificate_error(&error) {
        return GatewayError::CertificateUntrusted { request, source: Box::new(error) };
    }
    GatewayError::Unreachable { request, source: Box::new(error) }
}

fn is_certificate_error(error: &(dyn std::error::Error + 'static)) -> bool {
    if let Some(rustls::Error::InvalidCertificate(_)) = error.downcast_ref() {
        return true;
    }
    // An I/O error shows the cause of what it wraps as its source, not what it wraps.
    if let Some(wrapped) = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        return is_certificate_error(wrapped);
    }
    error.source().is_some_and(is_certificate_error)
}

/// Passes an answer with status 200 on; says what any other one means.
fn ok(answer: Answer, url: &GatewayUrl) -> Result<Answer, GatewayError> {
    let status = answer.status;
    let request = answer.request.clone();
    if status == StatusCode::OK {
        return Ok(answer);
    }
    if status.is_redirection() {
        let location = answer.headers.get(LOCATION).and_then(|l| l.to_str().ok()).unwrap_or_default();
        return Err(if url.leads_to_welcome(location) {
            GatewayError::NotCommissioned { request }
        } else {
            unexpected(&answer, &format!("a redirect with status {}", status.as_u16()))
        });
    }
    Err(match status {
        StatusCode::SERVICE_UNAVAILABLE => GatewayError::Starting { request },
        StatusCode::NOT_FOUND => GatewayError::NotFound { request },
        _ if status.is_client_error() => {
            GatewayError::Refused { request, status: status.as_u16(), message: message(&answer) }
        }
        _ if status.is_server_error() => GatewayError::ServerFailed { request, status: status.as_u16() },
        _ => unexpected(&answer, &format!("status {}", status.as_u16())),
    })
}

fn json_body<T: DeserializeOwned>(answer: &Answer) -> Result<T, GatewayError> {
    let kind = content_type(answer);
    if !kind.contains("json") {
        let found =
            if kind.is_empty() { "a body without content type".to_owned() } else { format!("{kind:?}") };
        return Err(unexpected(answer, &format!("{found} instead of JSON")));
    }
    serde_json::from_slice(&answer.body)
        .map_err(|e| unexpected(answer, &format!("JSON that does not fit: {e}")))
}

fn content_type(answer: &Answer) -> &str {
    let text = answer.headers.get(CONTENT_TYPE).and_then(|c| c.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim()
}

/// What a JSON error says, shortened. HTML is not passed on.
fn message(answer: &Answer) -> String {
    if !content_type(answer).contains("json") {
        return String::new();
    }
    let Ok(body) = serde_json::from_slice::<serde_json::Value>(&answer.body) else { return String::new() };
    let text = match (body["message"].as_str(), body["messages"].as_array()) {
        (Some(message), _) => message.to_owned(),
        (None, Some(messages)) => messages
            .iter()
            .map(|m| m.as_str().map_or_else(|| m.to_string(), str::to_owned))
            .collect::<Vec<_>>()
            .join("; "),
        _ => String::new(),
    };
    text.chars().take(MAX_MESSAGE_CHARS).collect()
}

fn unexpected(answer: &Answer, found: &str) -> GatewayError {
    GatewayError::UnexpectedAnswer { request: answer.request.clone(), found: found.to_owned() }
}
