//! What a fake gateway answers.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, Query, Request, State as Shared};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::behaviour::{LockBusy, Permission, PlainHttpRefusal};
use super::control;
use super::core::{Core, GatewayPhase, KeySource, Lock, State, index, now_ms, pause};
use super::events::{Event, LockEvent, LockOutcome, RequestEvent};
use super::lists;
use crate::rules::ScanKind;

/// The largest request body that is read, in bytes.
const MAX_BODY: usize = 1024 * 1024;

/// A failure that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Requests whose path starts with this fail.
    pub path: String,
    /// How.
    pub how: FailureKind,
    /// How many times; `None` = until further notice.
    pub times: Option<u32>,
}

/// How a request fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// With this status and Jetty's HTML page.
    Status(u16),
    /// With 200 and HTML.
    Html,
    /// With 200, the content type of JSON, and half a document.
    BrokenJson,
    /// Never answers.
    Hang,
}

pub(super) type Injected = Failure;

/// One request, taken apart.
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) segments: Vec<String>,
    pub(super) query: Vec<(String, String)>,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    pub(super) https: bool,
    pub(super) peer: String,
}

/// What to answer.
pub(super) enum Reply {
    Json(StatusCode, Value),
    Html(StatusCode),
    Text(String),
    Redirect(&'static str),
    Empty,
    Raw(&'static str, &'static str),
}

#[derive(Clone)]
pub(super) struct Server {
    pub(super) core: Arc<Core>,
    pub(super) https: bool,
}

pub(super) async fn handle(
    Shared(server): Shared<Server>,
    ConnectInfo(peer): ConnectInfo<std::net::SocketAddr>,
    request: Request<Body>,
) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MAX_BODY).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let call = Call {
        segments: segments(&parts.uri),
        path: parts.uri.path().to_owned(),
        query: Query::<Vec<(String, String)>>::try_from_uri(&parts.uri).map(|q| q.0).unwrap_or_default(),
        method: parts.method,
        headers: parts.headers,
        body: body.to_vec(),
        https: server.https,
        peer: peer.ip().to_string(),
    };
    let core = &server.core;
    let reply = core.answer(&call).await;
    let response = reply.into_response(&call.path);
    if !call.path.starts_with("/fake") {
        let event = RequestEvent {
            at_ms: now_ms(),
            method: call.method.to_string(),
            path: call.path,
            status: response.status().as_u16(),
        };
        core.change(|s| s.journal.push(Event::Request(event)));
    }
    response
}

fn segments(uri: &Uri) -> Vec<String> {
    uri.path().split('/').filter(|s| !s.is_empty()).map(percent_decode).collect()
}

fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let decoded = (byte == b'%')
            .then(|| {
                after
                    .get(..2)
                    .and_then(|h| std::str::from_utf8(h).ok())
                    .and_then(|h| u8::from_str_radix(h, 16).ok())
            })
            .flatten();
        match decoded {
            Some(decoded) => {
                bytes.push(decoded);
                rest = &after[2..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Reply {
    fn into_response(self, path: &str) -> Response {
        match self {
            Self::Json(status, value) => (status, Json(value)).into_response(),
            Self::Html(status) => {
                let reason = status.canonical_reason().unwrap_or("Error");
                let page = format!(
                    "<html>\n<head>\n<meta http-equiv=\"Content-Type\" content=\"text/html;charset=ISO-8859-1\"/>\n\
                     <title>Error {code} {reason}</title>\n</head>\n<body><h2>HTTP ERROR {code} {reason}</h2>\n<table>\n\
                     <tr><th>URI:</th><td>{path}</td></tr>\n<tr><th>STATUS:</th><td>{code}</td></tr>\n</table>\n</body>\n</html>\n",
                    code = status.as_u16(),
                );
                (status, [(header::CONTENT_TYPE, "text/html;charset=iso-8859-1")], page).into_response()
            }
            Self::Text(text) => ([(header::CONTENT_TYPE, "text/plain;charset=utf-8")], text).into_response(),
            Self::Redirect(to) => (StatusCode::FOUND, [(header::LOCATION, to)]).into_response(),
            Self::Empty => StatusCode::NO_CONTENT.into_response(),
            Self::Raw(kind, text) => ([(header::CONTENT_TYPE, kind)], text).into_response(),
        }
    }
}

pub(super) fn json_ok(value: Value) -> Reply {
    Reply::Json(StatusCode::OK, value)
}

impl Core {
    async fn answer(self: &Arc<Self>, call: &Call) -> Reply {
        if let Some(how) = self.read(|s| take_failure(&mut s.injected, &call.path)) {
            return match how {
                FailureKind::Status(code) => {
                    Reply::Html(StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR))
                }
                FailureKind::Html => Reply::Raw("text/html", "<html><body>Welcome</body></html>"),
                FailureKind::BrokenJson => Reply::Raw("application/json", "{\"items\":[{\"na"),
                FailureKind::Hang => std::future::pending().await,
            };
        }
        let segments: Vec<&str> = call.segments.iter().map(String::as_str).collect();
        match segments.as_slice() {
            ["StatusPing"] => self.read(|s| status_ping(s)),
            ["system", "gwinfo"] => self.read(|s| gwinfo(s)),
            ["welcome"] => {
                Reply::Raw("text/html;charset=utf-8", "<html><body>Welcome to Ignition</body></html>")
            }
            ["fake", route @ ..] if self.read(|s| s.behaviour.control) => control::answer(self, route, call),
            ["data", "api", "v1", route @ ..] => self.data(route, call).await,
            ["data", ..] => self.data(&[], call).await,
            _ => Reply::Html(StatusCode::NOT_FOUND),
        }
    }

    async fn data(self: &Arc<Self>, route: &[&str], call: &Call) -> Reply {
        let (phase, commissioned) = self.read(|s| (s.phase.clone(), s.behaviour.commissioned));
        if phase != GatewayPhase::Running {
            return Reply::Html(StatusCode::SERVICE_UNAVAILABLE);
        }
        if !commissioned {
            return Reply::Redirect("/welcome");
        }
        let get = call.method == Method::GET;
        let post = call.method == Method::POST;
        let known = match route {
            ["scan", "config" | "projects"] => post || (get && self.read(|s| s.behaviour.scan_status)),
            ["scan-lock", "config" | "projects"] => (get || post) && self.read(|s| s.behaviour.scan_lock),
            ["restart-tasks", "restart"] => post,
            _ => get && lists::is_known(route),
        };
        if !known {
            return no_route(call);
        }
        let actor = match self.admit(call).await {
            Ok(name) => format!("api-token:{name}:{}", call.peer),
            Err(status) => return Reply::Html(status),
        };
        match route {
            ["scan", half] if post => self.change(|s| request_scan(s, kind(half))),
            ["scan", half] => self.read(|s| scan_status(s, kind(half))),
            ["scan-lock", half] if post => self.take_lock(kind(half), actor, &call.body).await,
            ["scan-lock", half] => self.read(|s| lock_status(s, kind(half), self.started)),
            ["restart-tasks", "restart"] => {
                self.restart(false);
                json_ok(json!(true))
            }
            _ => self.read(|s| lists::answer(s, route, &call.query)).unwrap_or_else(|| no_route(call)),
        }
    }

    /// Who calls, if that may do so.
    async fn admit(&self, call: &Call) -> Result<String, StatusCode> {
        let shown =
            call.headers.get("x-ignition-api-token").and_then(|v| v.to_str().ok()).unwrap_or_default();
        let (name, secret) = shown.split_once(':').ok_or(StatusCode::UNAUTHORIZED)?;
        let source = self.read(|s| s.key.clone());
        let configured = match source {
            KeySource::Fixed(key) => key,
            KeySource::File(path) => tokio::fs::read_to_string(path).await.ok().map(|k| k.trim().to_owned()),
        };
        self.read(|s| {
            let token = s.tokens.iter().find(|t| t.fits(name, secret)).map(|t| t.secure_channel_required);
            let needs_https = match (configured, token) {
                (Some(key), _) if key == shown => s.behaviour.secure_channel_required,
                (_, Some(token)) => token,
                _ => return Err(StatusCode::UNAUTHORIZED),
            };
            if needs_https && !call.https {
                return Err(match s.behaviour.plain_http_refusal {
                    PlainHttpRefusal::Forbidden => StatusCode::FORBIDDEN,
                    PlainHttpRefusal::Unauthorized => StatusCode::UNAUTHORIZED,
                });
            }
            let needed = if call.method == Method::GET { Permission::Read } else { Permission::Write };
            if s.behaviour.permission < needed { Err(StatusCode::FORBIDDEN) } else { Ok(name.to_owned()) }
        })
    }

    async fn take_lock(&self, kind: ScanKind, actor: String, body: &[u8]) -> Reply {
        let Some((acquire, hold)) = lock_times(body) else { return Reply::Html(StatusCode::BAD_REQUEST) };
        let deadline = Instant::now() + acquire;
        loop {
            let mut version = self.version.subscribe();
            let outcome = self.change(|s| {
                let held = s.lock(kind).is_some();
                let scan = s.scans[index(kind)];
                let conflict = held && s.behaviour.lock_busy == LockBusy::Conflict;
                let outcome = if conflict {
                    Some(Err(StatusCode::CONFLICT))
                } else if held || scan.running || scan.requested {
                    (Instant::now() >= deadline).then_some(Err(StatusCode::REQUEST_TIMEOUT))
                } else {
                    let now = Instant::now();
                    s.locks[index(kind)] = Some(Lock { actor: actor.clone(), since: now, until: now + hold });
                    Some(Ok(lock_status(s, kind, self.started)))
                };
                if let Some(result) = &outcome {
                    let what = if result.is_ok() { LockOutcome::Taken } else { LockOutcome::Refused };
                    let event = LockEvent { kind, actor: actor.clone(), outcome: what, at_ms: now_ms() };
                    s.journal.push(Event::Lock(event));
                }
                outcome
            });
            match outcome {
                Some(Ok(reply)) => return reply,
                Some(Err(status)) => return Reply::Html(status),
                None => {
                    // A lock that expires tells nobody.
                    version.borrow_and_update();
                    let soon = deadline.min(Instant::now() + Duration::from_millis(50));
                    pause(&mut version, Some(soon)).await;
                    sleep(Duration::from_millis(1)).await;
                }
            }
        }
    }
}

fn take_failure(injected: &mut Vec<Failure>, path: &str) -> Option<FailureKind> {
    let place = injected.iter().position(|f| path.starts_with(&f.path))?;
    let failure = &mut injected[place];
    let how = failure.how;
    if let Some(times) = &mut failure.times {
        *times = times.saturating_sub(1);
        if *times == 0 {
            injected.remove(place);
        }
    }
    Some(how)
}

fn no_route(call: &Call) -> Reply {
    Reply::Json(StatusCode::NOT_FOUND, json!({"message": format!("No route match for path: {}", call.path)}))
}

fn kind(half: &str) -> ScanKind {
    if half == "config" { ScanKind::Config } else { ScanKind::Projects }
}

fn status_ping(s: &State) -> Reply {
    json_ok(match (&s.phase, s.behaviour.commissioned) {
        (GatewayPhase::Starting, _) => json!({"state": "STARTING"}),
        (GatewayPhase::Faulted(_), _) => json!({"state": "FAULTED"}),
        (GatewayPhase::Running, true) => json!({"state": "RUNNING"}),
        (GatewayPhase::Running, false) => json!({"state": "RUNNING", "details": "COMMISSIONING"}),
    })
}

fn gwinfo(s: &State) -> Reply {
    let status = match (&s.phase, s.behaviour.commissioned) {
        (GatewayPhase::Starting, _) => "STARTING",
        (GatewayPhase::Faulted(_), _) => "FAULTED",
        (GatewayPhase::Running, true) => "RUNNING",
        (GatewayPhase::Running, false) => "NEEDS_COMMISSIONING",
    };
    let b = &s.behaviour;
    let active = if b.role == "Backup" { "Warm" } else { "Active" };
    Reply::Text(format!(
        "ContextStatus={status};PlatformName=Ignition;Version={};PlatformEdition=standard;RedundancyStatus={};\
         RedundantState=Good;RedundantNodeActiveStatus={active};",
        b.version, b.role
    ))
}

fn scan_status(s: &State, kind: ScanKind) -> Reply {
    let scan = s.scans[index(kind)];
    json_ok(json!({
        "scanActive": scan.running || scan.requested,
        "lastScanTimestamp": scan.timestamp,
        "lastScanDuration": scan.duration,
    }))
}

/// The answer is a snapshot of this moment: active, with the old timestamp.
fn request_scan(s: &mut State, kind: ScanKind) -> Reply {
    s.release(kind);
    s.scans[index(kind)].requested = true;
    scan_status(s, kind)
}

fn lock_status(s: &mut State, kind: ScanKind, started: Instant) -> Reply {
    match s.lock(kind) {
        None => Reply::Empty,
        Some(lock) => json_ok(json!({
            "actor": lock.actor,
            "remaining": lock.until.saturating_duration_since(Instant::now()).as_secs(),
            // Opaque on real gateways, and no epoch time.
            "timestamp": lock.since.saturating_duration_since(started).as_nanos() as u64,
        })),
    }
}

/// Acquire and hold time; gateways default to 10 and 60 seconds.
fn lock_times(body: &[u8]) -> Option<(Duration, Duration)> {
    let body: Value = if body.is_empty() {
        json!({})
    } else {
        serde_json::from_slice(body).ok().filter(Value::is_object)?
    };
    let seconds = |name: &str, default: u64| match &body[name] {
        Value::Null => Some(default),
        value => value.as_u64().filter(|s| *s <= 3600),
    };
    let acquire = seconds("acquireTimeout", 10)?;
    let hold = seconds("holdTimeout", 60).filter(|s| *s > 0)?;
    Some((Duration::from_secs(acquire), Duration::from_secs(hold)))
}
