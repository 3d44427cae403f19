//! One request to one child.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use crate::child::ChildCommand;
use crate::child::message::{Answer, Request};
use crate::error::GitError;
use crate::text::printable;

/// A million references take about this much.
const MAX_ANSWER_BYTES: u64 = 256 << 20;
/// What is kept of a child's last words.
const MAX_STDERR_BYTES: u64 = 16 << 10;
/// The environment that a child gets: how to get out of this network, and whom to trust there.
const ENVIRONMENT: &[&str] = &[
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "LD_LIBRARY_PATH",
    "TZ",
];

/// Starts a child, asks it and waits for its answer, at most for `deadline`. The child is gone afterwards. `contents`
/// follow the request.
pub(super) async fn exchange(
    command: &ChildCommand,
    request: Request,
    contents: &[&[u8]],
    operation: &str,
    deadline: Duration,
) -> Result<Answer, GitError> {
    let timeout = || GitError::Timeout { operation: operation.to_owned(), limit: deadline };
    let Some((program, arguments)) = command.command() else {
        let contents = contents.iter().map(|content| content.to_vec()).collect();
        let work = tokio::task::spawn_blocking(move || crate::child::answer(&request, contents));
        return match tokio::time::timeout(deadline, work).await {
            Ok(answer) => answer.map_err(|e| failed(format!("its thread ended: {e}"))),
            Err(_) => Err(timeout()),
        };
    };
    let mut child = Command::new(&program)
        .arg0("stoker-git-child")
        .args(arguments)
        .env_clear()
        .envs(ENVIRONMENT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Ctrl-C on a terminal is for the parent, which then decides.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| failed(format!("cannot start {}: {e}", program.display())))?;
    let answer = match tokio::time::timeout(deadline, converse(&mut child, &request, contents)).await {
        Ok(answer) => answer,
        Err(_) => Err(timeout()),
    };
    if answer.is_err() {
        // Waits for its end as well: what it held (locks, sockets) is free when this returns.
        let _ = child.kill().await;
    }
    answer
}

async fn converse(child: &mut Child, request: &Request, contents: &[&[u8]]) -> Result<Answer, GitError> {
    let missing = || failed("it has no pipes".to_owned());
    let mut stdin = child.stdin.take().ok_or_else(missing)?;
    let stdout = child.stdout.take().ok_or_else(missing)?;
    let stderr = child.stderr.take().ok_or_else(missing)?;
    let mut line = zeroize::Zeroizing::new(
        serde_json::to_vec(request).map_err(|e| failed(format!("cannot write to it: {e}")))?,
    );
    line.push(b'\n');
    // The pipe stays open: its end would tell the child that its parent is gone.
    let send = async {
        for part in std::iter::once(&line[..]).chain(contents.iter().copied()) {
            if stdin.write_all(part).await.is_err() {
                break;
            }
        }
        stdin
    };
    let (_stdin, answer, last_words) =
        tokio::join!(send, read(stdout, MAX_ANSWER_BYTES), read(stderr, MAX_STDERR_BYTES));
    let status = child.wait().await.map_err(|e| failed(format!("cannot wait for it: {e}")))?;
    let answer = answer.map_err(|e| failed(format!("cannot read its answer: {e}")))?;
    if status.success()
        && let Ok(answer) = serde_json::from_slice(&answer)
    {
        return Ok(answer);
    }
    Err(failed(ending(status, &last_words.unwrap_or_default())))
}

async fn read(from: impl AsyncRead + Unpin, limit: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut from = from.take(limit);
    from.read_to_end(&mut bytes).await?;
    // The rest is thrown away, so that a chatty child does not wait for us.
    tokio::io::copy(&mut from.into_inner(), &mut tokio::io::sink()).await?;
    Ok(bytes)
}

fn ending(status: ExitStatus, last_words: &[u8]) -> String {
    use std::os::unix::process::ExitStatusExt;
    let how = match (status.signal(), status.code()) {
        (Some(signal), _) => {
            let meaning = match signal {
                6 => " (aborted, perhaps for want of memory)",
                7 => " (the disk of its cache is probably full)",
                9 => " (killed, perhaps for want of memory)",
                11 => " (crashed)",
                _ => "",
            };
            format!("signal {signal}{meaning}")
        }
        (None, Some(code)) => format!("exit code {code} and no answer"),
        (None, None) => "an unknown status".to_owned(),
    };
    let words = String::from_utf8_lossy(last_words);
    match words.lines().map(str::trim).rfind(|line| !line.is_empty()) {
        Some(line) => format!("it ended with {how}: {}", printable(line, 200)),
        None => format!("it ended with {how}"),
    }
}

fn failed(detail: String) -> GitError {
    GitError::ChildFailed { detail }
}
