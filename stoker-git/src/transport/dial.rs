//! Connecting to addresses that the policy allows.

use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};

use super::Destination;
use crate::error::GitError;
use crate::policy::HostPolicy;

/// Connects to the first address of the host that is allowed and answers.
pub(super) fn connect(to: &Destination<'_>) -> Result<TcpStream, GitError> {
    let unreachable = |detail: String| GitError::Unreachable { host: to.address(), detail };
    let addresses: Vec<SocketAddr> = (to.host(), to.port())
        .to_socket_addrs()
        .map_err(|e| unreachable(format!("cannot resolve the name: {e}")))?
        .collect();
    let allowed = allowed(to.policy, to.host(), addresses)?;
    let mut last = unreachable("the name has no address".to_owned());
    for address in allowed {
        match TcpStream::connect_timeout(&address, to.limits.connect_timeout) {
            Ok(stream) => {
                let prepared = stream
                    .set_read_timeout(Some(to.limits.stall_timeout))
                    .and_then(|()| stream.set_write_timeout(Some(to.limits.stall_timeout)))
                    .and_then(|()| stream.set_nodelay(true));
                prepared.map_err(|e| unreachable(e.to_string()))?;
                return Ok(stream);
            }
            Err(e) if e.kind() == std::io::ErrorKind::TimedOut => {
                last = unreachable(format!("no connection within {:?}", to.limits.connect_timeout));
            }
            Err(e) => last = unreachable(e.to_string()),
        }
    }
    Err(last)
}

/// The addresses that may be connected to.
///
/// # Errors
/// [`GitError::HostForbidden`] when there are addresses and none is allowed.
pub(super) fn allowed(
    policy: &HostPolicy,
    host: &str,
    addresses: Vec<SocketAddr>,
) -> Result<Vec<SocketAddr>, GitError> {
    let mut refusal = None;
    let allowed: Vec<SocketAddr> = addresses
        .into_iter()
        .filter(|address| {
            let forbidden = forbidden(policy, host, address.ip());
            let ok = forbidden.is_none();
            refusal = refusal.take().or(forbidden);
            ok
        })
        .collect();
    match refusal {
        Some(error) if allowed.is_empty() => Err(error),
        _ => Ok(allowed),
    }
}

/// The error for an address that the policy forbids.
pub(super) fn forbidden(policy: &HostPolicy, host: &str, address: IpAddr) -> Option<GitError> {
    policy.forbids(host, address).map(|rule| GitError::HostForbidden {
        host: host.to_owned(),
        address: address.to_string(),
        rule: rule.to_owned(),
    })
}
