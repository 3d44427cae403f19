//! Private keys as files have them: OpenSSH's own form, PKCS#8, and the older PEM forms of OpenSSL (`RSA PRIVATE KEY`,
//! `EC PRIVATE KEY`), each with or without a passphrase.

use std::fmt;

use aes::cipher::block_padding::Pkcs7;
use aes::cipher::{BlockCipherDecrypt, BlockModeDecrypt, KeyIvInit};
use pkcs8::pkcs5;
use russh::keys::{Error, PrivateKey, decode_secret_key};
use zeroize::Zeroizing;

const BEGIN: &str = "-----BEGIN ";
const END_OF_BEGIN: &str = "PRIVATE KEY-----";

/// Why a key cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    NoPassphrase,
    WrongPassphrase,
    /// A cipher that is not understood.
    Cipher(String),
    NotAKey,
    /// The other half.
    PublicKey,
    Empty,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPassphrase => f.write_str("it is encrypted and no passphrase is given"),
            Self::WrongPassphrase => f.write_str("wrong passphrase"),
            Self::Cipher(name) => write!(
                f,
                "it is encrypted by {name}, which is not supported; ssh-keygen -p -f FILE writes it anew"
            ),
            Self::Empty => f.write_str("there is nothing in it"),
            Self::PublicKey => f.write_str("it is a public key; the private one, without .pub, is needed"),
            Self::NotAKey => {
                f.write_str("it is not a private key (ed25519, ECDSA or RSA) in OpenSSH or PEM form")
            }
        }
    }
}

/// The keys of a text that has one after another, such as the old and the new one while keys are changed. Each is tried
/// once, in their order.
pub(super) fn apart(text: &str) -> Vec<&str> {
    let starts: Vec<usize> = text
        .match_indices(BEGIN)
        .map(|(at, _)| at)
        .filter(|at| text[*at..].lines().next().is_some_and(|l| l.trim_end().ends_with(END_OF_BEGIN)))
        .collect();
    if starts.len() < 2 {
        return vec![text];
    }
    let ends = starts[1..].iter().copied().chain([text.len()]);
    starts.iter().zip(ends).map(|(start, end)| &text[*start..end]).collect()
}

/// Reads one key. A passphrase for a key that has none is no harm.
pub(super) fn read(text: &str, passphrase: Option<&str>) -> Result<PrivateKey, Unreadable> {
    let whole = text.trim_start();
    let text = block(text);
    if text.is_empty() {
        let is_public = ["ssh-", "ecdsa-", "sk-", "-----BEGIN PUBLIC KEY", "---- BEGIN SSH2 PUBLIC KEY"];
        return Err(match whole {
            "" => Unreadable::Empty,
            other if is_public.iter().any(|begin| other.starts_with(begin)) => Unreadable::PublicKey,
            _ => Unreadable::NotAKey,
        });
    }
    let parsed = pem::parse(text.as_bytes()).map_err(|_| Unreadable::NotAKey)?;
    if let Some(info) = parsed.headers().get("DEK-Info") {
        let passphrase = passphrase.ok_or(Unreadable::NoPassphrase)?;
        let plain = decrypted(info, parsed.contents(), passphrase)?;
        let plain = Zeroizing::new(pem::encode(&pem::Pem::new(parsed.tag(), plain.to_vec())));
        return decode_secret_key(&plain, None).map_err(|_| Unreadable::WrongPassphrase);
    }
    let encrypted = match parsed.tag() {
        "OPENSSH PRIVATE KEY" => {
            PrivateKey::from_bytes(parsed.contents()).is_ok_and(|key| key.is_encrypted())
        }
        tag => tag == "ENCRYPTED PRIVATE KEY",
    };
    match (encrypted, passphrase) {
        (true, None) => Err(Unreadable::NoPassphrase),
        (true, Some(_)) => decode_secret_key(&text, passphrase).map_err(|error| match error {
            Error::Pkcs8(pkcs8::Error::EncryptedPrivateKey(
                pkcs5::Error::UnsupportedAlgorithm { .. } | pkcs5::Error::NoPbes1CryptSupport,
            ))
            | Error::Der(_) => Unreadable::Cipher("an older method of PKCS#5 or PKCS#12".to_owned()),
            _ => Unreadable::WrongPassphrase,
        }),
        (false, _) => decode_secret_key(&text, None).map_err(|_| Unreadable::NotAKey),
    }
}

/// The lines of the key alone: without what stands before and after, indentation, and line ends of Windows.
fn block(text: &str) -> Zeroizing<String> {
    let is_begin = |line: &str| line.starts_with(BEGIN) && line.ends_with(END_OF_BEGIN);
    let lines = || text.lines().map(str::trim).skip_while(|line| !is_begin(line));
    // Only headers end with an empty line.
    let headers = lines().any(|line| line.starts_with("DEK-Info:"));
    let mut block = Zeroizing::new(String::with_capacity(text.len() + 1));
    for line in lines().filter(|line| headers || !line.is_empty()) {
        block.push_str(line);
        block.push('\n');
        if line.starts_with("-----END ") {
            break;
        }
    }
    block
}

/// Decrypts a PEM of the older kind: `DEK-Info: CIPHER,IV` (RFC 1421), the key of the cipher from the passphrase and the
/// first eight bytes of the IV by MD5 (`EVP_BytesToKey(3)` of OpenSSL).
fn decrypted(info: &str, content: &[u8], passphrase: &str) -> Result<Zeroizing<Vec<u8>>, Unreadable> {
    let (cipher, iv) = info.split_once(',').ok_or(Unreadable::NotAKey)?;
    let iv = bytes(iv).filter(|iv| iv.len() >= 8).ok_or(Unreadable::NotAKey)?;
    let mut key = Zeroizing::new(Vec::with_capacity(32));
    while key.len() < 32 {
        let last = key.len().saturating_sub(16);
        let from = Zeroizing::new([&key[last..], passphrase.as_bytes(), &iv[..8]].concat());
        key.extend_from_slice(&md5::compute(&*from).0);
    }
    let mut content = Zeroizing::new(content.to_vec());
    let length = match cipher {
        "AES-128-CBC" => unpadded::<aes::Aes128>(&key[..16], &iv, &mut content),
        "AES-192-CBC" => unpadded::<aes::Aes192>(&key[..24], &iv, &mut content),
        "AES-256-CBC" => unpadded::<aes::Aes256>(&key[..32], &iv, &mut content),
        "DES-EDE3-CBC" => unpadded::<des::TdesEde3>(&key[..24], &iv, &mut content),
        other => return Err(Unreadable::Cipher(crate::text::printable(other, 40))),
    };
    content.truncate(length.ok_or(Unreadable::WrongPassphrase)?);
    Ok(content)
}

/// Decrypts in place; the length of what is in it.
fn unpadded<C>(key: &[u8], iv: &[u8], content: &mut [u8]) -> Option<usize>
where
    C: BlockCipherDecrypt,
    cbc::Decryptor<C>: KeyIvInit + BlockModeDecrypt,
{
    let decryptor = cbc::Decryptor::<C>::new_from_slices(key, iv).ok()?;
    decryptor.decrypt_padded::<Pkcs7>(content).ok().map(<[u8]>::len)
}

/// Bytes in hexadecimal.
fn bytes(hex: &str) -> Option<Vec<u8>> {
    let hex = hex.trim().as_bytes();
    let digit = |at: usize| char::from(*hex.get(at)?).to_digit(16);
    let byte = |at| u8::try_from(digit(at)? << 4 | digit(at + 1)?).ok();
    (0..hex.len()).step_by(2).map(byte).collect()
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
            for cipher in ["-aes128", "-aes192", "-aes256", "-des3"] {
                let mut encrypt =
                    vec![kind, cipher, "-passout", "pass:open sesame", "-in", file.to_str().unwrap()];
                encrypt.extend((kind == "rsa").then_some("-traditional"));
                let locked = openssl(&encrypt);
                assert!(locked.contains("DEK-Info: "), "{locked}");
                assert_eq!(read(&locked, Some("open sesame")).unwrap(), key, "{kind} {cipher}");
                assert_eq!(read(&locked, Some("open barley")), Err(Unreadable::WrongPassphrase));
                assert_eq!(read(&locked, None), Err(Unreadable::NoPassphrase));
                // As a file of Windows, and as an indented block.
                let odd = locked.replace('\n', "\r\n  ");
                assert_eq!(read(&odd, Some("open sesame")).unwrap(), key, "{kind} {cipher}");
            }
        }
        let file = dir.path().join("ec");
        let locked = openssl(&["ec", "-camellia256", "-passout", "pass:x", "-in", file.to_str().unwrap()]);
        let refused = read(&locked, Some("x")).unwrap_err();
        assert_eq!(refused, Unreadable::Cipher("CAMELLIA-256-CBC".to_owned()));
        assert!(refused.to_string().contains("ssh-keygen -p"), "{refused}");
    }

    #[test]
    fn a_key_in_pkcs8_is_read_whichever_way_it_is_encrypted() {
        if stoker_testkit::require::program("openssl").is_none() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        let plain = openssl(&["ecparam", "-name", "prime256v1", "-genkey", "-noout"]);
        std::fs::write(&file, &plain).unwrap();
        let key = read(&plain, None).unwrap();
        let encrypt = ["pkcs8", "-topk8", "-passout", "pass:open sesame", "-in", file.to_str().unwrap()];
        for how in [
            &["-v2", "aes-256-cbc"][..],
            &["-v2", "aes-128-cbc", "-v2prf", "hmacWithSHA1"],
            &["-v2", "des3", "-v2prf", "hmacWithSHA512"],
            &["-scrypt"],
        ] {
            let locked = openssl(&[&encrypt[..], how].concat());
            assert_eq!(read(&locked, Some("open sesame")).unwrap(), key, "{how:?}");
            assert_eq!(read(&locked, Some("open barley")), Err(Unreadable::WrongPassphrase), "{how:?}");
            assert_eq!(read(&locked, None), Err(Unreadable::NoPassphrase), "{how:?}");
        }
        let old = openssl(&[&encrypt[..], &["-v1", "PBE-SHA1-3DES"]].concat());
        let refused = read(&old, Some("open sesame")).unwrap_err();
        assert!(matches!(refused, Unreadable::Cipher(_)), "{refused}");
    }

    #[test]
    fn what_stands_around_a_key_does_not_matter() {
        if stoker_testkit::require::program("openssl").is_none() {
            return;
        }
        // With its parameters before it, as `openssl ecparam` writes them.
        let text = openssl(&["ecparam", "-name", "secp521r1", "-genkey"]);
        assert!(text.starts_with("-----BEGIN EC PARAMETERS-----"), "{text}");
        let key = read(&text, None).unwrap();
        let spaced = format!("# the key of line 1\n\n{}# its end\n", text.replace('\n', "\n\n"));
        assert_eq!(read(&spaced, None).unwrap(), key);
        let public = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n";
        for (nothing, why) in [
            ("", Unreadable::Empty),
            (" \n", Unreadable::Empty),
            ("ssh-ed25519 AAAA ada", Unreadable::PublicKey),
            (public, Unreadable::PublicKey),
            ("garbage", Unreadable::NotAKey),
        ] {
            assert_eq!(read(nothing, Some("x")), Err(why), "{nothing}");
        }
    }
}
