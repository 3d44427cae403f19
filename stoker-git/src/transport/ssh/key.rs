//! Private keys as files have them: OpenSSH's own form, PKCS#8, and the older PEM forms of OpenSSL (`RSA PRIVATE KEY`,
//! `EC PRIVATE KEY`), each with or without a passphrase.

use std::fmt;

use aes::cipher::block_padding::Pkcs7;
use aes::cipher::{BlockModeDecrypt, KeyIvInit};
use russh::keys::{PrivateKey, decode_secret_key};
use zeroize::Zeroizing;

/// Why a key cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    NoPassphrase,
    WrongPassphrase,
    /// A cipher that is not understood.
    Cipher(String),
    NotAKey,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPassphrase => f.write_str("it is encrypted and no passphrase is given"),
            Self::WrongPassphrase => f.write_str("wrong passphrase"),
            Self::Cipher(name) => write!(
                f,
                "it is encrypted with {name}, which is not supported; ssh-keygen -p -f FILE writes it anew"
            ),
            Self::NotAKey => f.write_str("it is not a private key in OpenSSH or PEM form"),
        }
    }
}

/// The keys of a text that has one after another, such as the old and the new one while keys are changed. Each is tried
/// once, in their order.
pub(super) fn apart(text: &str) -> Vec<&str> {
    const BEGIN: &str = "-----BEGIN ";
    let starts: Vec<usize> = text
        .match_indices(BEGIN)
        .map(|(at, _)| at)
        .filter(|at| text[*at..].lines().next().is_some_and(|l| l.trim_end().ends_with("PRIVATE KEY-----")))
        .collect();
    if starts.len() < 2 {
        return vec![text];
    }
    let ends = starts[1..].iter().copied().chain([text.len()]);
    starts.iter().zip(ends).map(|(start, end)| &text[*start..end]).collect()
}

/// Reads one key. A passphrase for a key that has none is no harm.
pub(super) fn read(text: &str, passphrase: Option<&str>) -> Result<PrivateKey, Unreadable> {
    // Lines of a Secret may be indented or end as on Windows.
    let lines: Vec<&str> = text.trim().lines().map(str::trim).collect();
    let text = Zeroizing::new(lines.join("\n"));
    let parsed = pem::parse(text.as_bytes()).map_err(|_| Unreadable::NotAKey)?;
    let encrypted = match parsed.headers().get("DEK-Info") {
        Some(info) => {
            let passphrase = passphrase.ok_or(Unreadable::NoPassphrase)?;
            let plain = decrypted(info, parsed.contents(), passphrase)?;
            let plain = Zeroizing::new(pem::encode(&pem::Pem::new(parsed.tag(), plain.to_vec())));
            return decode_secret_key(&plain, None).map_err(|_| Unreadable::WrongPassphrase);
        }
        None if parsed.tag() == "OPENSSH PRIVATE KEY" => {
            PrivateKey::from_bytes(parsed.contents()).is_ok_and(|key| key.is_encrypted())
        }
        None => parsed.tag() == "ENCRYPTED PRIVATE KEY",
    };
    match (encrypted, passphrase) {
        (true, None) => Err(Unreadable::NoPassphrase),
        (true, Some(_)) => decode_secret_key(&text, passphrase).map_err(|_| Unreadable::WrongPassphrase),
        (false, _) => decode_secret_key(&text, None).map_err(|_| Unreadable::NotAKey),
    }
}

/// Decrypts a PEM of the older kind: `DEK-Info: CIPHER,IV` (RFC 1421), the key of the cipher from the passphrase and the
/// first eight bytes of the IV by MD5 (`EVP_BytesToKey(3)` of OpenSSL).
fn decrypted(info: &str, content: &[u8], passphrase: &str) -> Result<Zeroizing<Vec<u8>>, Unreadable> {
    let (cipher, iv) = info.split_once(',').ok_or(Unreadable::NotAKey)?;
    let iv: [u8; 16] = match cipher {
        "AES-128-CBC" | "AES-192-CBC" | "AES-256-CBC" => bytes(iv).ok_or(Unreadable::NotAKey)?,
        other => return Err(Unreadable::Cipher(crate::text::printable(other, 40))),
    };
    let mut key = Zeroizing::new(Vec::with_capacity(48));
    while key.len() < 32 {
        let last = key.len().saturating_sub(16);
        let from = Zeroizing::new([&key[last..], passphrase.as_bytes(), &iv[..8]].concat());
        let digest = md5::compute(&*from);
        key.extend_from_slice(&digest.0);
    }
    let mut content = Zeroizing::new(content.to_vec());
    let plain = match cipher {
        "AES-128-CBC" => unpadded::<aes::Aes128>(&key[..16], &iv, &mut content),
        "AES-192-CBC" => unpadded::<aes::Aes192>(&key[..24], &iv, &mut content),
        _ => unpadded::<aes::Aes256>(&key[..32], &iv, &mut content),
    };
    let length = plain.ok_or(Unreadable::WrongPassphrase)?;
    content.truncate(length);
    Ok(content)
}

/// Decrypts in place; the length of what is in it.
fn unpadded<C>(key: &[u8], iv: &[u8], content: &mut [u8]) -> Option<usize>
where
    C: aes::cipher::BlockCipherDecrypt,
    cbc::Decryptor<C>: KeyIvInit + BlockModeDecrypt,
{
    let decryptor = cbc::Decryptor::<C>::new_from_slices(key, iv).ok()?;
    decryptor.decrypt_padded::<Pkcs7>(content).ok().map(<[u8]>::len)
}

/// Sixteen bytes in hexadecimal.
fn bytes(hex: &str) -> Option<[u8; 16]> {
    let hex = hex.trim();
    if hex.len() != 32 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u128::from_str_radix(hex, 16).ok().map(u128::to_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn keys_are_taken_apart_where_there_are_several() {
        let key = |name: &str| {
            format!("-----BEGIN {name} PRIVATE KEY-----\nabc\n-----END {name} PRIVATE KEY-----\n")
        };
        let (a, b) = (key("OPENSSH"), key("RSA"));
        assert_eq!(apart(&format!("{a}{b}")), [&*a, &*b]);
        assert_eq!(apart(&a), [&*a]);
        assert_eq!(apart("garbage"), ["garbage"]);
    }

    /// What OpenSSL itself writes.
    fn openssl(arguments: &[&str]) -> String {
        let output = Command::new("openssl").args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn a_key_in_the_older_pem_form_is_read_whichever_aes_it_is_encrypted_with() {
        if stoker_testkit::require::program("openssl").is_none() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        for (kind, make) in [
            ("rsa", &["genrsa", "-traditional", "2048"][..]),
            ("ec", &["ecparam", "-name", "secp384r1", "-genkey", "-noout"]),
        ] {
            let (plain, file) = (openssl(make), dir.path().join(kind));
            std::fs::write(&file, &plain).unwrap();
            let key = read(&plain, Some("not needed")).unwrap();
            for cipher in ["-aes128", "-aes192", "-aes256"] {
                let mut encrypt =
                    vec![kind, cipher, "-passout", "pass:open sesame", "-in", file.to_str().unwrap()];
                encrypt.extend((kind == "rsa").then_some("-traditional"));
                let locked = openssl(&encrypt);
                assert!(locked.contains("DEK-Info: AES-"), "{locked}");
                assert_eq!(read(&locked, Some("open sesame")).unwrap(), key, "{kind} {cipher}");
                assert_eq!(read(&locked, Some("open barley")), Err(Unreadable::WrongPassphrase));
                assert_eq!(read(&locked, None), Err(Unreadable::NoPassphrase));
                // As a file of Windows, and as an indented block.
                let odd = locked.replace('\n', "\r\n  ");
                assert_eq!(read(&odd, Some("open sesame")).unwrap(), key, "{kind} {cipher}");
            }
        }
        let file = dir.path().join("ec");
        let locked = openssl(&["ec", "-des3", "-passout", "pass:x", "-in", file.to_str().unwrap()]);
        let refused = read(&locked, Some("x")).unwrap_err();
        assert_eq!(refused, Unreadable::Cipher("DES-EDE3-CBC".to_owned()));
        assert!(refused.to_string().contains("ssh-keygen -p"), "{refused}");
    }
}
