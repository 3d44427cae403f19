//! A GitHub App: a key that is exchanged for tokens of an hour.
//!
//! ```text
//!  private key ──RS256──▶ JWT ──▶ POST /app/installations/ID/access_tokens ──▶ token ──▶ git over https
//!                        (10 min)        (in the child process)            (kept here until shortly before its end)
//! ```
//!
//! Source of the facts: GitHub's documentation, "Generating a JSON Web Token (JWT) for a GitHub App" and "Generating an
//! installation access token for a GitHub App".

mod tokens;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

use crate::error::GitError;
use crate::secret::Secret;
use crate::url::{RemoteUrl, redact};

pub(crate) use tokens::AppTokens;

/// Where github.com's API is.
pub const DEFAULT_API_BASE_URL: &str = "https://api.github.com";

/// An installation of a GitHub App, and the app's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GithubApp {
    /// The number of the app.
    pub app_id: u64,
    /// The number of its installation: in an organisation or account.
    pub installation_id: u64,
    /// The app's private key: RSA, in PEM, as GitHub hands it out (PKCS#1) or as PKCS#8.
    pub private_key: Secret,
    /// The API: [`DEFAULT_API_BASE_URL`], or `https://HOST/api/v3` of a GitHub Enterprise Server.
    pub api_base_url: String,
}

/// How far in the past a JWT is dated: clocks differ.
const ISSUED_AGO: i64 = 60;
/// How long a JWT lasts from now on. GitHub takes ten minutes at most.
const LASTS: i64 = 9 * 60;

impl GithubApp {
    /// Where a token is asked for. `insecure` is the consent to `http://`.
    pub(crate) fn token_url(&self, insecure: bool) -> Result<RemoteUrl, GitError> {
        let base = self.api_base_url.trim_end_matches('/');
        let text = format!("{base}/app/installations/{}/access_tokens", self.installation_id);
        let parsed =
            if insecure { RemoteUrl::parse_allowing_insecure(&text) } else { RemoteUrl::parse(&text) };
        parsed.ok().filter(|url| matches!(url.protocol().scheme(), "https" | "http")).ok_or_else(|| {
            GitError::CredentialInvalid {
                detail: format!(
                    "the apiBaseURL {:?} of the GitHub App is none; write https://api.github.com or https://HOST/api/v3",
                    redact(base)
                ),
            }
        })
    }

    /// A JWT that says, at the time `now` (seconds since 1970), that we have the key.
    pub(crate) fn jwt(&self, now: i64) -> Result<Secret, GitError> {
        let key = self.key()?;
        let encode = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let header = encode(serde_json::json!({"alg": "RS256", "typ": "JWT"}));
        let claims = encode(serde_json::json!({
            "iat": now - ISSUED_AGO, "exp": now + LASTS, "iss": self.app_id.to_string(),
        }));
        let message = format!("{header}.{claims}");
        let mut signature = vec![0; key.public().modulus_len()];
        key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature)
            .map_err(|_| self.invalid("cannot sign"))?;
        Ok(Secret::new(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))))
    }

    fn key(&self) -> Result<RsaKeyPair, GitError> {
        let der = PrivateKeyDer::from_pem_slice(self.private_key.expose().as_bytes())
            .map_err(|_| self.invalid("is no private key in PEM"))?;
        let pair = match &der {
            PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()),
            PrivateKeyDer::Pkcs8(der) => RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()),
            _ => return Err(self.invalid("is no RSA key")),
        };
        // The reason is a fixed word, such as "TooSmall".
        pair.map_err(|e| self.invalid(&format!("is no RSA key of 2048 to 4096 bits ({e})")))
    }

    fn invalid(&self, what: &str) -> GitError {
        let app = self.app_id;
        GitError::CredentialInvalid {
            detail: format!("the private key of GitHub App {app} {what}; download one at the app's settings"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn app(private_key: &str) -> GithubApp {
        GithubApp {
            app_id: 12,
            installation_id: 34,
            private_key: private_key.into(),
            api_base_url: DEFAULT_API_BASE_URL.into(),
        }
    }

    #[test]
    fn the_api_is_a_web_address_and_https_without_consent_to_less() {
        let url = |base: &str, insecure| {
            GithubApp { api_base_url: base.into(), ..app("") }.token_url(insecure).map(|url| url.to_string())
        };
        assert_eq!(
            url("https://github.plant.example/api/v3/", false).unwrap(),
            "https://github.plant.example/api/v3/app/installations/34/access_tokens"
        );
        url("http://127.0.0.1:1", true).unwrap();
        for bad in ["http://127.0.0.1:1", "ssh://git@h", "api.github.com", "https://u:hunter2@h", ""] {
            let error = url(bad, false).unwrap_err().to_string();
            assert!(error.contains("apiBaseURL") && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_key_that_is_none_is_named_and_not_shown() {
        for key in ["hunter2", "-----BEGIN RSA PRIVATE KEY-----\nhunter2\n-----END RSA PRIVATE KEY-----\n"] {
            let error = app(key).jwt(0).unwrap_err().to_string();
            assert!(error.contains("GitHub App 12") && !error.contains("hunter2"), "{error}");
        }
    }
}
