//! Which addresses may be connected to.
//!
//! In a cluster a repository URL is written by whoever may create a `Stoker`, while the connection is made by the
//! controller: without a policy the URL could point at the node's metadata service or at the API server. Addresses are
//! judged after resolving the name, and the judged address is the one that is connected to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// What may be connected to. The default is right for a tool that a person runs: all but link-local addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct HostPolicy {
    /// Allow `127.0.0.0/8` and `::1`.
    pub allow_loopback: bool,
    /// Allow `169.254.0.0/16` and `fe80::/10`, where clouds put their metadata services.
    pub allow_link_local: bool,
    /// Addresses that are never allowed, for example the API server's.
    pub denied: Vec<IpAddr>,
    /// Hosts (by name, lower case) that are exempt from all of this.
    pub exempt_hosts: Vec<String>,
}

impl Default for HostPolicy {
    fn default() -> Self {
        Self { allow_loopback: true, allow_link_local: false, denied: Vec::new(), exempt_hosts: Vec::new() }
    }
}

impl HostPolicy {
    /// For a service that connects on behalf of others: neither loopback nor link-local addresses.
    #[must_use]
    pub fn for_cluster() -> Self {
        Self { allow_loopback: false, ..Self::default() }
    }

    /// Adds addresses that are never allowed.
    #[must_use]
    pub fn deny(mut self, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        self.denied.extend(addresses);
        self
    }

    /// Adds hosts that are exempt.
    #[must_use]
    pub fn exempt(mut self, hosts: impl IntoIterator<Item = String>) -> Self {
        self.exempt_hosts.extend(hosts.into_iter().map(|host| host.to_ascii_lowercase()));
        self
    }

    /// The rule that forbids connecting to `address` for `host`; `None` when it is allowed.
    #[must_use]
    pub fn forbids(&self, host: &str, address: IpAddr) -> Option<&'static str> {
        if self.exempt_hosts.iter().any(|exempt| exempt.eq_ignore_ascii_case(host)) {
            return None;
        }
        let address = address.to_canonical();
        if self.denied.iter().any(|denied| denied.to_canonical() == address) {
            return Some("a denied address");
        }
        match address {
            IpAddr::V4(v4) => self.forbids_v4(v4),
            IpAddr::V6(v6) => self.forbids_v6(v6),
        }
    }

    fn forbids_v4(&self, address: Ipv4Addr) -> Option<&'static str> {
        // "This host" (0.0.0.0/8) reaches loopback on Linux.
        if (address.is_loopback() || address.octets()[0] == 0) && !self.allow_loopback {
            return Some("a loopback address");
        }
        if address.is_link_local() && !self.allow_link_local {
            return Some("a link-local address");
        }
        (address.is_multicast() || address.is_broadcast()).then_some("not the address of one host")
    }

    fn forbids_v6(&self, address: Ipv6Addr) -> Option<&'static str> {
        if (address.is_loopback() || address.is_unspecified()) && !self.allow_loopback {
            return Some("a loopback address");
        }
        if address.is_unicast_link_local() && !self.allow_link_local {
            return Some("a link-local address");
        }
        // AWS answers for instance metadata at this address too.
        if address == Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254) && !self.allow_link_local {
            return Some("a cloud metadata address");
        }
        address.is_multicast().then_some("not the address of one host")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_forbidden_address_is_forbidden() {
        let policy = HostPolicy::for_cluster().deny(["10.96.0.1".parse().unwrap()]);
        for address in [
            "127.0.0.1",
            "127.8.8.8",
            "0.0.0.0",
            "::1",
            "::",
            "::ffff:127.0.0.1",
            "169.254.169.254",
            "fe80::1",
            "::ffff:169.254.169.254",
            "10.96.0.1",
            "::ffff:10.96.0.1",
            "fd00:ec2::254",
            "224.0.0.1",
            "255.255.255.255",
        ] {
            assert!(policy.forbids("h", address.parse().unwrap()).is_some(), "{address}");
        }
        for address in ["10.96.0.2", "192.168.1.1", "140.82.121.4", "fd00::1", "2606:50c0::1"] {
            assert_eq!(policy.forbids("h", address.parse().unwrap()), None, "{address}");
        }
    }

    #[test]
    fn a_person_may_use_loopback_and_exempt_a_host() {
        let policy = HostPolicy::default();
        assert_eq!(policy.forbids("localhost", "127.0.0.1".parse().unwrap()), None);
        assert!(policy.forbids("h", "169.254.169.254".parse().unwrap()).is_some());
        let policy = HostPolicy::for_cluster().exempt(["Gitea.local".to_owned()]);
        assert_eq!(policy.forbids("gitea.LOCAL", "127.0.0.1".parse().unwrap()), None);
    }
}
