//! GitHub's API, as far as an app needs it to get a token. GitHub itself runs nowhere else.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, Result, bail};
use axum::extract::{Path as Segment, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};

/// The number of the app.
pub const APP: u64 = 123_456;
/// The number of its only installation.
pub const INSTALLATION: u64 = 98_765;

/// An API that hands out tokens for proofs by the app's key (RS256, dates and issuer are checked), in a thread of its own.
pub struct GithubApi {
    url: String,
    state: Arc<ApiState>,
}

type OnToken = Box<dyn Fn(&str) + Send + Sync>;
/// A status, and header fields.
type Instead = (u16, Vec<(&'static str, String)>);

struct ApiState {
    /// The public keys of the app, as DER.
    keys: Vec<Vec<u8>>,
    on_token: OnToken,
    lasts: Mutex<i64>,
    given: Mutex<usize>,
    instead: Mutex<Option<Instead>>,
    ahead: Mutex<i64>,
}

impl std::fmt::Debug for GithubApi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GithubApi").field("url", &self.url).finish_non_exhaustive()
    }
}

impl GithubApi {
    /// An API that knows the app by these private keys. `on_token` is told of each token before it is handed out: for a git
    /// server that demands it.
    ///
    /// # Errors
    ///
    /// A key cannot be read, or no port be bound.
    pub fn start(keys: &[&Path], on_token: impl Fn(&str) + Send + Sync + 'static) -> Result<Self> {
        let keys = keys.iter().map(|key| public_der(key)).collect::<Result<_>>()?;
        let state = Arc::new(ApiState {
            keys,
            on_token: Box::new(on_token),
            lasts: Mutex::new(3600),
            given: Mutex::default(),
            instead: Mutex::default(),
            ahead: Mutex::default(),
        });
        let app = Router::new()
            .route("/api/v3/app/installations/{id}/access_tokens", post(give))
            .with_state(Arc::clone(&state));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").context("binding the port of an API")?;
        listener.set_nonblocking(true)?;
        let url = format!("http://{}/api/v3", listener.local_addr()?);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::spawn(move || {
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                axum::serve(listener, app).await
            })
        });
        Ok(Self { url, state })
    }

    /// What `apiBaseURL` has to be.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// How many tokens it has handed out.
    pub fn given(&self) -> usize {
        *locked(&self.state.given)
    }

    /// How long the tokens last that it hands out from now on, in seconds.
    pub fn set_lifetime(&self, seconds: i64) {
        *locked(&self.state.lasts) = seconds;
    }

    /// How far its clock is ahead of this machine's, in seconds.
    pub fn set_ahead(&self, seconds: i64) {
        *locked(&self.state.ahead) = seconds;
    }

    /// Answers with this from now on, and repeats the proof in the body.
    pub fn answer(&self, status: u16, headers: &[(&'static str, &str)]) {
        let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        *locked(&self.state.instead) = Some((status, headers));
    }
}

/// A private key of an app in the file `name` of `dir`, in the form `PEM` (PKCS#1) or `PKCS8`.
///
/// # Errors
///
/// ssh-keygen cannot make it.
pub fn app_key(dir: &Path, name: &str, form: &str) -> Result<PathBuf> {
    let file = dir.join(name);
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "rsa", "-b", "2048", "-N", "", "-m", form, "-f"])
        .arg(&file)
        .status()?;
    if !made.success() {
        bail!("ssh-keygen made no key of form {form}");
    }
    Ok(file)
}

fn public_der(private: &Path) -> Result<Vec<u8>> {
    let output = Command::new("ssh-keygen").args(["-e", "-m", "PEM", "-f"]).arg(private).output()?;
    let text = String::from_utf8(output.stdout)?;
    let body: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
    Ok(STANDARD.decode(body)?)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn give(State(api): State<Arc<ApiState>>, Segment(id): Segment<u64>, headers: HeaderMap) -> Response {
    let now = jiff::Timestamp::now().as_second() + *locked(&api.ahead);
    let date = |seconds| jiff::Timestamp::from_second(seconds).unwrap_or_default();
    let clock = jiff::fmt::rfc2822::DateTimePrinter::new()
        .timestamp_to_rfc9110_string(&date(now))
        .unwrap_or_default();
    let proof =
        headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    if let Some((status, more)) = locked(&api.instead).clone() {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::IM_A_TEAPOT);
        let mut response = (status, proof).into_response();
        for (name, value) in more {
            if let Ok(value) = value.parse() {
                response.headers_mut().insert(name, value);
            }
        }
        return response;
    }
    let refuse = |status: StatusCode| (status, [("date", clock.clone())], proof.clone()).into_response();
    if !proves(&api.keys, &proof, now) {
        return refuse(StatusCode::UNAUTHORIZED);
    }
    if id != INSTALLATION {
        return refuse(StatusCode::NOT_FOUND);
    }
    let mut given = locked(&api.given);
    *given += 1;
    let token = format!("ghs_token{given}");
    (api.on_token)(&token);
    let until = date(now + *locked(&api.lasts)).to_string();
    let body = Json(serde_json::json!({"token": token, "expires_at": until}));
    (StatusCode::CREATED, [("date", clock)], body).into_response()
}

/// Whether it is a JWT of the app, by one of the keys, that holds now and not for longer than GitHub allows.
fn proves(keys: &[Vec<u8>], proof: &str, now: i64) -> bool {
    let parsed = || {
        let (message, signature) = proof.strip_prefix("Bearer ")?.rsplit_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        let (header, claims) = message.split_once('.')?;
        let read = |part: &str| -> Option<serde_json::Value> {
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
        };
        Some((message, signature, read(header)?, read(claims)?))
    };
    let Some((message, signature, header, claims)) = parsed() else { return false };
    let signed = keys.iter().any(|key| {
        let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key);
        key.verify(message.as_bytes(), &signature).is_ok()
    });
    let (issued, expires) = (claims["iat"].as_i64(), claims["exp"].as_i64());
    let dated = issued.is_some_and(|issued| issued <= now)
        && expires.is_some_and(|expires| expires > now && expires <= now + 600);
    signed && dated && header["alg"] == "RS256" && claims["iss"].as_str() == Some(&APP.to_string())
}
