//! The file of `ssh-keygen -Y verify`: whose SSH keys may sign what (`ALLOWED SIGNERS` in `ssh-keygen(1)`).

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use russh::keys::ssh_key::{self, PublicKey, public::KeyData};

use crate::glob;
use crate::text::printable;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AllowedSigner {
    /// Patterns of names, as written.
    pub(super) principals: String,
    /// Whether the key signs certificates, not objects.
    pub(super) authority: bool,
    namespaces: Option<String>,
    /// Seconds since 1970.
    pub(super) valid_after: Option<i64>,
    pub(super) valid_before: Option<i64>,
    pub(super) key: KeyData,
}

impl AllowedSigner {
    /// Whether it may sign for this purpose.
    pub(super) fn allows(&self, namespace: &str) -> bool {
        self.namespaces.as_deref().is_none_or(|patterns| glob::lists(patterns.split(','), namespace))
    }

    /// Whether it speaks for this name.
    pub(super) fn is(&self, principal: &str) -> bool {
        glob::lists(self.principals.split(','), principal)
    }
}

/// Reads the lines.
///
/// # Errors
/// The first line that cannot be used, and why.
pub(super) fn parse(text: &str) -> Result<Vec<AllowedSigner>, String> {
    let mut signers = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        signers.push(parse_line(line).map_err(|why| format!("line {}: {why}", number + 1))?);
    }
    Ok(signers)
}

fn parse_line(line: &str) -> Result<AllowedSigner, String> {
    let (principals, rest) = word(line).ok_or("a quote is not closed")?;
    if principals.starts_with("ssh-") || principals.starts_with("ecdsa-") || principals.starts_with("sk-") {
        return Err(format!(
            "it begins with the key type {:?}; write who signs with the key before it, such as a mail address",
            printable(principals, 60)
        ));
    }
    let principals = principals.replace('"', "");
    if principals.is_empty() || principals.chars().any(char::is_control) {
        return Err("it names nobody before the key, or with a control character".to_owned());
    }
    let mut signer = AllowedSigner {
        principals,
        authority: false,
        namespaces: None,
        valid_after: None,
        valid_before: None,
        key: KeyData::Ed25519(ssh_key::public::Ed25519PublicKey([0; 32])),
    };
    let key = match PublicKey::from_openssh(rest) {
        Ok(key) => key,
        Err(first) => {
            let (options, rest) = word(rest).ok_or("a quote is not closed")?;
            let key = PublicKey::from_openssh(rest.trim());
            let key = key.map_err(|_| {
                format!("it holds no public key that can be read ({})", printable(&first.to_string(), 100))
            })?;
            for option in split_options(options) {
                signer.option(option)?;
            }
            key
        }
    };
    let key = key.key_data().clone();
    let algorithm = key.algorithm();
    if matches!(key, KeyData::Dsa(_) | KeyData::Other(_)) {
        let algorithm = printable(algorithm.as_str(), 60);
        return Err(format!("keys of type {algorithm} are not supported; use ed25519, ECDSA or RSA"));
    }
    signer.key = key;
    Ok(signer)
}

impl AllowedSigner {
    fn option(&mut self, option: &str) -> Result<(), String> {
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value.trim_matches('"'))),
            None => (option, None),
        };
        let name = name.to_ascii_lowercase();
        let was_set = match (name.as_str(), value) {
            ("cert-authority", None) => std::mem::replace(&mut self.authority, true),
            ("namespaces", Some(value)) => self.namespaces.replace(value.to_owned()).is_some(),
            ("valid-after", Some(value)) => self.valid_after.replace(time(value)?).is_some(),
            ("valid-before", Some(value)) => self.valid_before.replace(time(value)?).is_some(),
            _ => {
                return Err(format!(
                    "the option {:?} is none of cert-authority, namespaces=\"...\", valid-after=\"...\" and \
                     valid-before=\"...\"",
                    printable(option, 60)
                ));
            }
        };
        if was_set {
            return Err(format!("the option {name} is there twice; write it once"));
        }
        Ok(())
    }
}

/// The first word, in which quotes hold together what has spaces, and the rest.
fn word(text: &str) -> Option<(&str, &str)> {
    let mut quoted = false;
    for (at, c) in text.char_indices() {
        match c {
            '"' => quoted = !quoted,
            c if c.is_ascii_whitespace() && !quoted => return Some((&text[..at], text[at..].trim_start())),
            _ => {}
        }
    }
    (!quoted).then_some((text, ""))
}

fn split_options(text: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    text.split(move |c| {
        if c == '"' {
            quoted = !quoted;
        }
        c == ',' && !quoted
    })
}

/// `YYYYMMDD[HHMM[SS]][Z]`. Without the `Z` it is the local time of wherever it is read: in a container that is UTC, and
/// here it always is.
fn time(text: &str) -> Result<i64, String> {
    let digits = text.strip_suffix(['Z', 'z']).unwrap_or(text);
    let bad = || {
        format!(
            "the time {:?} is not written as YYYYMMDD, YYYYMMDDHHMM or YYYYMMDDHHMMSS",
            printable(text, 40)
        )
    };
    if !digits.bytes().all(|b| b.is_ascii_digit()) || !matches!(digits.len(), 8 | 12 | 14) {
        return Err(bad());
    }
    let part =
        |from: usize, to: usize| digits.get(from..to).and_then(|d| d.parse::<i8>().ok()).unwrap_or_default();
    let year = digits[..4].parse().map_err(|_| bad())?;
    let time = DateTime::new(year, part(4, 6), part(6, 8), part(8, 10), part(10, 12), part(12, 14), 0);
    let stamp = time.and_then(|time| TimeZone::UTC.to_timestamp(time));
    stamp.map(|stamp| stamp.as_second()).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";

    #[test]
    fn lines_with_and_without_options() {
        let text = format!(
            "# people\n\nada@example.com,bob@example.com {KEY} a comment\n\"x y\" {KEY}\n*@example.com \
             cert-authority,namespaces=\"git,fi*\",valid-after=\"20240102\",valid-before=\"20250102030405Z\" {KEY}\n"
        );
        let signers = parse(&text).unwrap();
        assert_eq!(signers.len(), 3);
        assert!(
            signers[0].is("ada@example.com") && !signers[0].is("eve@example.com") && signers[0].allows("git")
        );
        assert_eq!(signers[1].principals, "x y");
        let last = &signers[2];
        assert!(last.authority && last.allows("git") && last.allows("file") && !last.allows("mail"));
        assert_eq!((last.valid_after, last.valid_before), (Some(1_704_153_600), Some(1_735_787_045)));
    }

    #[test]
    fn what_cannot_be_used_is_named_with_its_line() {
        for (line, says) in [
            (KEY.to_owned(), "line 2: it begins with the key type \"ssh-ed25519\""),
            (format!("ada no-such-option {KEY}"), "the option \"no-such-option\""),
            (format!("ada valid-before=\"soon\" {KEY}"), "the time \"soon\""),
            (
                format!("ada valid-before=\"20200101\",valid-before=\"20990101\" {KEY}"),
                "valid-before is there twice",
            ),
            (format!("ada valid-before=\"20251301\" {KEY}"), "the time \"20251301\""),
            ("ada ssh-ed25519 AAAA".to_owned(), "no public key that can be read"),
            ("ada".to_owned(), "no public key"),
            (format!("\"ada {KEY}"), "a quote is not closed"),
        ] {
            let error = parse(&format!("# first\n{line}\n")).unwrap_err();
            assert!(error.contains(says), "{line}: {error}");
        }
    }

    #[test]
    fn patterns_are_those_of_ssh() {
        for (patterns, text, expected) in [
            ("git", "git", true),
            ("git", "gitx", false),
            ("g?t,x", "get", true),
            ("*", "", true),
            ("*@a.example,!eve@*", "eve@a.example", false),
            ("*@a.example,!eve@*", "ada@a.example", true),
            ("a*b*c", "axxbxxbc", true),
            ("a*b*c", "axxbxxb", false),
        ] {
            assert_eq!(glob::lists(patterns.split(','), text), expected, "{patterns} {text}");
        }
    }
}
