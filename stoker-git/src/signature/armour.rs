//! The armour of signatures and keys.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

pub(super) const OPENPGP_KEY: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----";
pub(super) const OPENPGP: &str = "-----BEGIN PGP SIGNATURE-----";
pub(super) const SSH: &str = "-----BEGIN SSH SIGNATURE-----";
pub(super) const X509: &str = "-----BEGIN SIGNED MESSAGE-----";
const SSH_END: &str = "-----END SSH SIGNATURE-----";

/// The bytes of an SSH signature.
pub(super) fn ssh(text: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text).ok()?;
    let inner = text.trim().strip_prefix(SSH)?.strip_suffix(SSH_END)?;
    STANDARD.decode(inner.split_ascii_whitespace().collect::<String>()).ok()
}
