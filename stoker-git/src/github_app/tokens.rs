//! Tokens that are still good.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ring::digest::{SHA256, digest};

use super::GithubApp;
use crate::credentials::Access;
use crate::error::GitError;
use crate::secret::Secret;

/// Tokens by what they were given for. Whoever names the same app with another key gets none of them.
#[derive(Debug, Default)]
pub(crate) struct AppTokens {
    kept: Mutex<HashMap<Key, Arc<Slot>>>,
}

type Slot = tokio::sync::Mutex<Option<Kept>>;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    api_base_url: String,
    app_id: u64,
    installation_id: u64,
    /// SHA-256 of the private key.
    private_key: [u8; 32],
    /// SHA-256 of the authorities that the API's certificate was judged by, and of the proxy on the way there: one
    /// resource's trust is not another's.
    way: [u8; 32],
}

#[derive(Debug, Clone)]
struct Kept {
    token: Secret,
    renew_at: Instant,
}

/// A token is renewed this long before its end, or earlier in the life of a short one: an operation may take minutes.
const MARGIN: Duration = Duration::from_secs(600);
/// How many are kept.
const MAX_KEPT: usize = 1000;

impl AppTokens {
    /// The token for `app`: a kept one, or what `exchange` gets, with how long it lasts. Of several who ask at the same
    /// time one exchanges and the others wait. A kept token that is `refused` is not given out again.
    pub(crate) async fn token(
        &self,
        app: &GithubApp,
        access: &Access,
        refused: Option<&Secret>,
        exchange: impl Future<Output = Result<(Secret, Duration), GitError>>,
    ) -> Result<Secret, GitError> {
        let slot = self.slot(Key::of(app, access));
        let mut kept = slot.lock().await;
        let good = |kept: &&Kept| kept.renew_at > Instant::now() && Some(&kept.token) != refused;
        if let Some(kept) = kept.as_ref().filter(good) {
            return Ok(kept.token.clone());
        }
        *kept = None;
        let (token, lasts) = exchange.await?;
        let renew_at = Instant::now() + lasts.saturating_sub(MARGIN.min(lasts / 4));
        *kept = Some(Kept { token: token.clone(), renew_at });
        Ok(token)
    }

    fn slot(&self, key: Key) -> Arc<Slot> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MAX_KEPT && !kept.contains_key(&key) {
            // Nobody waits for what cannot be locked by others; a token more is asked for then, nothing else.
            kept.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        kept.entry(key).or_default().clone()
    }
}

impl Key {
    fn of(app: &GithubApp, access: &Access) -> Self {
        let hash = |text: &str| digest_of(text.as_bytes());
        let mut way = vec![hash(access.ca_pem.as_deref().unwrap_or_default())];
        if let Some(proxy) = &access.proxy {
            way.push(hash(proxy.url()));
            way.extend(proxy.login().map(|login| hash(login.username.expose())));
            way.extend(proxy.login().map(|login| hash(login.password.expose())));
        }
        Self {
            api_base_url: app.api_base_url.clone(),
            app_id: app.app_id,
            installation_id: app.installation_id,
            private_key: hash(app.private_key.expose()),
            way: digest_of(&way.concat()),
        }
    }
}

fn digest_of(bytes: &[u8]) -> [u8; 32] {
    let mut array = [0; 32];
    array.copy_from_slice(digest(&SHA256, bytes).as_ref());
    array
}

#[cfg(test)]
mod tests {
    use super::super::tests::app;
    use super::*;

    async fn ask(tokens: &AppTokens, app: &GithubApp, fresh: &str, lasts: u64) -> String {
        let exchange = async { Ok((Secret::from(fresh), Duration::from_secs(lasts))) };
        tokens.token(app, &Access::default(), None, exchange).await.unwrap().expose().to_owned()
    }

    #[tokio::test]
    async fn a_token_is_kept_for_whoever_has_the_key_and_nobody_else() {
        let tokens = AppTokens::default();
        assert_eq!(ask(&tokens, &app("a"), "1", 3600).await, "1");
        assert_eq!(ask(&tokens, &app("a"), "2", 3600).await, "1");
        assert_eq!(ask(&tokens, &app("b"), "3", 3600).await, "3", "another key");
        for other in [
            GithubApp { app_id: 13, ..app("a") },
            GithubApp { installation_id: 35, ..app("a") },
            GithubApp { api_base_url: "https://ghe.example.com/api/v3".into(), ..app("a") },
        ] {
            assert_eq!(ask(&tokens, &other, "4", 3600).await, "4");
        }
        let proxied = |url: &str| Access { proxy: Some(url.parse().unwrap()), ..Access::default() };
        let authorities = Access { ca_pem: Some("PEM".into()), ..Access::default() };
        for other_way in [authorities, proxied("http://a:1"), proxied("http://a:2")] {
            let exchange = async { Ok((Secret::from("5"), Duration::from_secs(3600))) };
            let token = tokens.token(&app("a"), &other_way, None, exchange).await.unwrap();
            assert_eq!(token.expose(), "5");
        }
        let refused = Secret::from("1");
        let exchange = async { Ok((Secret::from("6"), Duration::from_secs(3600))) };
        assert_eq!(
            tokens.token(&app("a"), &Access::default(), Some(&refused), exchange).await.unwrap().expose(),
            "6"
        );
        assert!(!format!("{tokens:?}").contains("\"6\""));
    }

    #[tokio::test]
    async fn a_token_that_is_over_or_was_not_given_is_asked_for_again() {
        let tokens = AppTokens::default();
        assert_eq!(ask(&tokens, &app("a"), "1", 0).await, "1");
        assert_eq!(ask(&tokens, &app("a"), "2", 3600).await, "2");
        let failing = async { Err(GitError::RepositoryEmpty { url: String::new() }) };
        tokens.token(&app("b"), &Access::default(), None, failing).await.unwrap_err();
        assert_eq!(ask(&tokens, &app("b"), "3", 3600).await, "3");
    }
}
