//! Showing who we are: without anything first, then with each key once.

use std::sync::Arc;

use russh::client::{AuthResult, Handle};
use russh::keys::ssh_key::HashAlg;
use russh::keys::{PrivateKey, PrivateKeyWithHashAlg};
use russh::{MethodKind, MethodSet};

use super::key;
use super::{Destination, Gate, within};
use crate::credentials::Credentials;
use crate::error::GitError;

/// The user when the URL names none: what every forge uses.
const DEFAULT_USER: &str = "git";
const FAILED: &str = "authentication failed";

pub(super) async fn authenticate(to: &Destination<'_>, session: &mut Handle<Gate>) -> Result<(), GitError> {
    let user = to.url.user().unwrap_or(DEFAULT_USER);
    let refused = |detail: String| GitError::AuthenticationFailed { url: to.url.to_string(), detail };
    // Asking for the methods is also an attempt without a credential, which a server may accept.
    let answer = within(to, FAILED, session.authenticate_none(user)).await?;
    let AuthResult::Failure { remaining_methods, .. } = answer else { return Ok(()) };
    listening(to, session).await?;
    let Credentials::SshKey { private_key, passphrase } = &to.access.credentials else {
        return Err(refused(format!("the ssh user {user:?} needs a key and none is configured")));
    };
    if !remaining_methods.is_empty() && !remaining_methods.contains(&MethodKind::PublicKey) {
        let methods = names(&remaining_methods);
        return Err(refused(format!("the server takes no keys from {user:?}, only: {methods}")));
    }
    let passphrase = passphrase.as_ref().map(|p| p.expose());
    let keys = key::apart(private_key.expose());
    let mut unreadable = None;
    for (number, text) in keys.iter().enumerate() {
        let key = match key::read(text, passphrase) {
            Ok(key) => key,
            Err(why) => {
                unreadable = unreadable.or(Some((number + 1, why)));
                continue;
            }
        };
        let hash = hash(to, &key, session).await?;
        let key = PrivateKeyWithHashAlg::new(Arc::new(key), hash);
        match within(to, FAILED, session.authenticate_publickey(user, key)).await? {
            AuthResult::Success => return Ok(()),
            AuthResult::Failure { partial_success: true, .. } => {
                return Err(refused("the server wants more than a key".to_owned()));
            }
            AuthResult::Failure { .. } => listening(to, session).await?,
        }
    }
    let all = keys.len();
    if let Some((number, why)) = unreadable {
        let which = if all == 1 { "the ssh key".to_owned() } else { format!("ssh key {number} of {all}") };
        return Err(GitError::CredentialInvalid { detail: format!("{which} cannot be read: {why}") });
    }
    let which = if all == 1 {
        "does not know this key".to_owned()
    } else {
        format!("knows none of these {all} keys")
    };
    Err(refused(format!("the server {which} for the user {user:?}")))
}

/// A server that has hung up (it takes only so many attempts) refuses in the same way as one that goes on listening.
async fn listening(to: &Destination<'_>, session: &mut Handle<Gate>) -> Result<(), GitError> {
    if !session.is_closed() {
        return Ok(());
    }
    within(to, FAILED, &mut *session).await?;
    let detail = format!("{FAILED}: the server hung up");
    Err(GitError::Unreachable { host: to.address(), detail })
}

/// What an RSA key signs with: the strongest that the server names, and SHA-2 in any case.
async fn hash(
    to: &Destination<'_>,
    key: &PrivateKey,
    session: &Handle<Gate>,
) -> Result<Option<HashAlg>, GitError> {
    if !key.algorithm().is_rsa() {
        return Ok(None);
    }
    let best = within(to, FAILED, session.best_supported_rsa_hash()).await?;
    Ok(best.flatten().or(Some(HashAlg::Sha512)))
}

fn names(methods: &MethodSet) -> String {
    methods.iter().map(<&str>::from).collect::<Vec<_>>().join(",")
}
