//! Waiting for a condition, with a deadline instead of a guess.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::leash::Process;

const PAUSE: Duration = Duration::from_millis(25);

/// Asks again and again until there is an answer; `what` completes the sentence "waited 10 s for …".
///
/// An error is not the end: servers refuse connections while they start. The last one is part of what is
/// returned when the time is up.
///
/// # Errors
///
/// No answer within `limit`.
pub async fn until<T, F, Fut>(what: &str, limit: Duration, mut ask: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Option<T>>>,
{
    let start = Instant::now();
    loop {
        let left = limit.saturating_sub(start.elapsed()).max(PAUSE);
        let last = match tokio::time::timeout(left, ask()).await {
            Ok(Ok(Some(answer))) => return Ok(answer),
            Ok(Ok(None)) => None,
            Ok(Err(error)) => Some(error),
            Err(_) => Some(anyhow::anyhow!("the last attempt did not return")),
        };
        if start.elapsed() >= limit {
            let waited = format!("waited {} s for {what}", limit.as_secs_f64());
            match last {
                Some(error) => return Err(error).context(waited),
                None => bail!(waited),
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// As [`until`], for a plain question.
///
/// # Errors
///
/// Not true within `limit`.
pub async fn until_true<F, Fut>(what: &str, limit: Duration, mut ask: F) -> Result<()>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<bool>>,
{
    until(what, limit, || {
        let answer = ask();
        async move { Ok(answer.await?.then_some(())) }
    })
    .await
}

/// Waits until a server accepts connections at `address`, or has ended.
///
/// # Errors
///
/// It ended, or does not accept within `limit`.
pub async fn until_accepting(
    process: &mut Process,
    address: std::net::SocketAddr,
    limit: Duration,
) -> Result<()> {
    until(&format!("{address} to accept"), limit, || {
        let alive = process.check();
        async move {
            if let Err(dead) = alive {
                return Ok(Some(Err(dead)));
            }
            tokio::net::TcpStream::connect(address).await?;
            Ok(Some(Ok(())))
        }
    })
    .await?
}
