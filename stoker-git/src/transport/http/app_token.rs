//! Asking GitHub's API for a token of an installation.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::header::{ACCEPT, DATE, HeaderMap, USER_AGENT};
use tokio::time::timeout;

use super::{client, retry_after};
use crate::error::GitError;
use crate::github_app::GithubApp;
use crate::secret::Secret;
use crate::transport::Destination;
use crate::wire;

/// A token and how long it lasts.
pub(crate) type Given = (Secret, Duration);

/// More than any answer about a token has, in bytes.
const MAX_ANSWER: usize = 64 << 10;
/// Clocks that differ by more than this make a token request fail, in seconds: GitHub takes no JWT from the future, and
/// ours are dated a minute back.
const MAX_SKEW: i64 = 60;
/// When the answer does not say how long the token lasts. GitHub's last an hour.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(600);

#[derive(serde::Deserialize)]
struct Answer {
    token: zeroize::Zeroizing<String>,
    expires_at: Option<String>,
}

/// Exchanges the app's key for a token. No redirect is followed, and nothing of an answer's body is repeated.
pub(crate) fn exchange(to: &Destination<'_>, app: &GithubApp) -> Result<Given, GitError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    let jwt = app.jwt(now)?;
    let (runtime, proxy) = (to.runtime()?, to.proxy()?);
    let client = client::build(to)?;
    let url = to.url.to_string();
    let patience = to.limits.stall_timeout;
    let late = |_| GitError::Timeout {
        operation: format!("waiting for an answer of {}", to.address()),
        limit: patience,
    };
    runtime.block_on(async {
        let request = client
            .post(&url)
            .header(USER_AGENT, wire::USER_AGENT)
            .header(ACCEPT, "application/vnd.github+json")
            .header("X-GitHub-Api-Version", "2022-11-28")
            .bearer_auth(jwt.expose());
        let mut response = timeout(patience, request.send())
            .await
            .map_err(late)?
            .map_err(|e| client::meaning(&e, &to.address(), proxy.as_ref(), to.limits))?;
        let status = response.status();
        let clock = date(response.headers());
        if status.is_redirection() {
            let target = response.headers().get("location").and_then(|l| l.to_str().ok()).unwrap_or_default();
            return Err(GitError::RedirectRefused { url, target: crate::url::redact(target) });
        }
        if let Some(proxy) = proxy.as_ref().filter(|_| status.as_u16() == 407) {
            return Err(proxy.wants_login());
        }
        if !status.is_success() {
            return Err(refusal(status.as_u16(), response.headers(), app, &url, clock.map(|c| now - c)));
        }
        let odd = |detail: &str| GitError::Protocol { url: url.clone(), detail: detail.to_owned() };
        let mut body = zeroize::Zeroizing::new(Vec::new());
        while let Some(chunk) = timeout(patience, response.chunk())
            .await
            .map_err(late)?
            .map_err(|_| odd("its answer was cut off"))?
        {
            if body.len() + chunk.len() > MAX_ANSWER {
                return Err(odd("its answer about a token has no end"));
            }
            body.extend_from_slice(&chunk);
        }
        let answer: Answer = serde_json::from_slice(&body)
            .map_err(|_| odd("its answer has no token; is apiBaseURL that of GitHub's API?"))?;
        if answer.token.is_empty() || answer.token.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(odd("its answer has no usable token"));
        }
        // By the server's clock, where it tells it: ours may be wrong.
        let until = answer.expires_at.as_deref().and_then(|at| at.parse::<jiff::Timestamp>().ok());
        let lasts = until.map(|until| until.as_second() - clock.unwrap_or(now));
        let lasts =
            lasts.map_or(DEFAULT_LIFETIME, |s| Duration::from_secs(u64::try_from(s).unwrap_or_default()));
        Ok((Secret::new(answer.token.as_str()), lasts))
    })
}

/// The server's clock, in seconds since 1970.
fn date(headers: &HeaderMap) -> Option<i64> {
    let text = headers.get(DATE)?.to_str().ok()?;
    Some(jiff::fmt::rfc2822::parse(text).ok()?.timestamp().as_second())
}

fn refusal(status: u16, headers: &HeaderMap, app: &GithubApp, url: &str, ahead: Option<i64>) -> GitError {
    let (id, installation, url) = (app.app_id, app.installation_id, url.to_owned());
    let retry_after = retry_after(headers, SystemTime::now());
    let exhausted = headers.get("x-ratelimit-remaining").is_some_and(|left| left == "0");
    match status {
        401 => match ahead.filter(|ahead| ahead.abs() > MAX_SKEW) {
            Some(ahead) => GitError::ClockWrong { url, ahead_seconds: ahead },
            None => {
                let detail = format!("status 401 for GitHub App {id}; is the private key one of this app?");
                GitError::AuthenticationFailed { url, detail }
            }
        },
        403 | 429 if retry_after.is_some() || exhausted || status == 429 => {
            GitError::RateLimited { url, retry_after }
        }
        403 => {
            let detail = format!(
                "status 403 for installation {installation} of GitHub App {id}; is it suspended, or this address not allowed?"
            );
            GitError::AccessDenied { url, detail }
        }
        404 => GitError::CredentialInvalid {
            detail: format!(
                "GitHub App {id} has no installation {installation} at {url}; check installationId and apiBaseURL, and \
                 that the app is still installed"
            ),
        },
        500..=599 => GitError::ServerError { url, status, retry_after },
        other => GitError::Protocol { url, detail: format!("status {other} to a request for a token") },
    }
}
