//! Showing who we are: without anything first, then with each key once.

use std::sync::Arc;

use russh::client::{AuthResult, Handle};
use russh::keys::ssh_key::HashAlg;
use russh::keys::{PrivateKey, PrivateKeyWithHashAlg};
use russh::{Error, MethodKind, MethodSet};

use super::key;
use super::{Destination, Gate, Stop, patiently, within};
use crate::credentials::Credentials;
use crate::error::GitError;

/// The user when the URL names none: what every forge uses.
const DEFAULT_USER: &str = "git";
const FAILED: &str = "authentication failed";

/// What a server makes of an attempt.
enum Answer {
    Welcome,
    /// Not so, but by one of these.
    Other(MethodSet),
    /// Not so, and there is no other way. The session is over.
    Never,
}

pub(super) async fn authenticate(to: &Destination<'_>, session: &mut Handle<Gate>) -> Result<(), GitError> {
    let user = to.url.user().unwrap_or(DEFAULT_USER);
    // Asking for the methods is also an attempt without a credential, which a server may accept.
    let result = patiently(to, session.authenticate_none(user)).await?;
    let methods = match answer(to, session, result).await? {
        Answer::Welcome => return Ok(()),
        Answer::Other(methods) => methods,
        Answer::Never => MethodSet::empty(),
    };
    let Credentials::SshKey { private_key, passphrase } = &to.access.credentials else {
        return Err(refused(to, format!("the ssh user {user:?} needs a key and none is configured")));
    };
    if !methods.contains(&MethodKind::PublicKey) {
        let methods: Vec<&str> = methods.iter().map(<&str>::from).collect();
        let only = if methods.is_empty() { String::new() } else { format!(", only: {}", methods.join(",")) };
        return Err(refused(to, format!("the server takes no keys from {user:?}{only}")));
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
        let result = patiently(to, session.authenticate_publickey(user, key)).await?;
        match answer(to, session, result).await? {
            Answer::Welcome => return Ok(()),
            Answer::Other(_) => {}
            Answer::Never => break,
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
    Err(refused(to, format!("the server {which} for the user {user:?}")))
}

fn refused(to: &Destination<'_>, detail: String) -> GitError {
    GitError::AuthenticationFailed { url: to.url.to_string(), detail }
}

/// A server may also answer by hanging up, when it has had enough attempts or sees no way.
async fn answer(
    to: &Destination<'_>,
    session: &mut Handle<Gate>,
    result: Result<AuthResult, Error>,
) -> Result<Answer, GitError> {
    match result {
        Ok(AuthResult::Success) => return Ok(Answer::Welcome),
        Ok(AuthResult::Failure { partial_success: true, .. }) => {
            return Err(refused(to, "the server wants more than a key".to_owned()));
        }
        Ok(AuthResult::Failure { remaining_methods, .. }) if !remaining_methods.is_empty() => {
            return Ok(Answer::Other(remaining_methods));
        }
        // The session is over, or will be in a moment.
        Ok(AuthResult::Failure { .. }) | Err(Error::SendError | Error::RecvError) => {}
        Err(error) => return Err(Stop::Ssh(error).meaning(&to.address(), FAILED)),
    }
    match patiently(to, &mut *session).await? {
        Err(Stop::Ssh(Error::NoAuthMethod)) => Ok(Answer::Never),
        Err(stop @ Stop::Farewell(_)) => Err(refused(to, stop.to_string())),
        Err(stop) => Err(stop.meaning(&to.address(), FAILED)),
        Ok(()) => Err(Stop::Farewell(String::new()).meaning(&to.address(), FAILED)),
    }
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
