//! Resource signatures: is a `resource.json` consistent with its files, and how to make it so again.
//!
//! Both formulas hash the manifest, the files and the attributes with SHA-256. They differ in one thing: 8.1 feeds the
//! bytes of each file, 8.3 the lower-case hexadecimal SHA-256 of them. Evidence: fact sheet, section 2.4 (8.1
//! published by the pyro project, 8.3 found by recomputing 6,006 of 6,100 public signatures). The rest (resources with
//! secrets, themes, drivers) matches neither: such a signature is *unknown*, never wrong.

use std::io::{self, Read};
use std::time::SystemTime;

use serde_json::json;
use sha2::{Digest, Sha256};
use stoker_core::json::{JsonError, JsonPath, set};
use stoker_core::{Category, Fault, Retry};

use super::resource::{ManifestError, ResourceManifest, SIGNATURE};

/// How a signature was computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Formula {
    /// Ignition 8.1 (and 8.3 for what was not touched since its migration).
    V81,
    /// Ignition 8.3.
    V83,
}

/// The signature of a resource, 64 hexadecimal digits.
///
/// `open` gives the content of each file that the manifest lists; files are streamed, none is kept.
///
/// # Errors
/// When a listed file cannot be read.
pub fn sign<R: Read>(
    manifest: &ResourceManifest,
    formula: Formula,
    mut open: impl FnMut(&str) -> io::Result<R>,
) -> io::Result<String> {
    let mut hash = Sha256::new();
    hash.update(manifest.scope.to_be_bytes());
    hash.update(&manifest.documentation);
    hash.update(manifest.version.to_be_bytes());
    hash.update([manifest.locked, manifest.restricted, manifest.overridable].map(u8::from));
    for file in &manifest.files {
        hash.update(file);
        match formula {
            Formula::V81 => feed(&mut hash, open(file)?)?,
            Formula::V83 => {
                let mut own = Sha256::new();
                feed(&mut own, open(file)?)?;
                hash.update(hex(&own.finalize()));
            }
        }
    }
    for (name, value) in &manifest.attributes {
        hash.update(name);
        hash.update(value);
    }
    Ok(hex(&hash.finalize()))
}

fn feed(hash: &mut Sha256, mut content: impl Read) -> io::Result<()> {
    let mut buffer = [0; 16 * 1024];
    loop {
        match content.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => hash.update(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]])
        .map(char::from)
        .collect()
}

/// The formula under which the stored signature is right; `None` when there is none or it cannot be explained.
///
/// # Errors
/// When a listed file cannot be read.
pub fn verify<R: Read>(
    manifest: &ResourceManifest,
    mut open: impl FnMut(&str) -> io::Result<R>,
) -> io::Result<Option<Formula>> {
    let Some(stored) = &manifest.signature else { return Ok(None) };
    for formula in [Formula::V83, Formula::V81] {
        if sign(manifest, formula, &mut open)?.eq_ignore_ascii_case(stored) {
            return Ok(Some(formula));
        }
    }
    Ok(None)
}

/// Who changed a resource, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    actor: String,
    timestamp: String,
}

impl Stamp {
    /// A stamp in the form gateways write: UTC, whole seconds.
    #[must_use]
    pub fn new(actor: &str, at: SystemTime) -> Self {
        let at = jiff::Timestamp::try_from(at).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        Self { actor: actor.to_owned(), timestamp: at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string() }
    }
}

/// Why a resource could not be stamped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestampError {
    /// The manifest is not one.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The manifest cannot be edited.
    #[error("resource manifest cannot be stamped")]
    Edit(#[source] JsonError),
    /// A file of the resource cannot be read.
    #[error("a file of the resource cannot be read")]
    Read(#[from] io::Error),
}

impl Fault for RestampError {
    fn category(&self) -> Category {
        match self {
            Self::Manifest(e) => e.category(),
            Self::Edit(e) => e.category(),
            Self::Read(_) => Category::new("SourceUnreadable"),
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Read(_) => Retry::Backoff,
            _ => Retry::AfterChange,
        }
    }
}

/// The same `resource.json` with a new stamp and the 8.3 signature that fits its files. All other bytes stay.
///
/// # Errors
/// When `document` is not a manifest, or a file that it lists cannot be read.
pub fn restamp<R: Read>(
    document: &str,
    stamp: &Stamp,
    open: impl FnMut(&str) -> io::Result<R>,
) -> Result<String, RestampError> {
    let edit = |text: &str, path: &str, value: serde_json::Value| {
        JsonPath::parse(path).and_then(|path| set(text, &path, &value)).map_err(RestampError::Edit)
    };
    let mut text = document.to_owned();
    if !ResourceManifest::parse(text.as_bytes())?.has_attributes {
        text = edit(&text, "attributes", json!({}))?;
    }
    let who = json!({"actor": stamp.actor, "timestamp": stamp.timestamp});
    text = edit(&text, "attributes.lastModification", who)?;
    let signature = sign(&ResourceManifest::parse(text.as_bytes())?, Formula::V83, open)?;
    edit(&text, &format!("attributes.{SIGNATURE}"), json!(signature))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::same_but_for_stamp;
    use proptest::prelude::*;
    use std::time::Duration;

    // A resource that an 8.1 gateway signed (published with the pyro project as its first sample).
    const STYLE: &str = "{\n  \"base\": {\n    \"style\": {\n      \"backgroundColor\": \"#E0E0E0\",\n      \"borderRadius\": \"0\",\n      \"color\": \"#303030\",\n      \"marginTop\": \"4px\"\n    }\n  },\n  \"variants\": [\n    {\n      \"pseudo\": \"hover\",\n      \"style\": {\n        \"backgroundColor\": \"#C1C1C1\"\n      }\n    }\n  ]\n}";
    const MANIFEST: &str = "{\n  \"scope\": \"G\",\n  \"version\": 1,\n  \"restricted\": false,\n  \"overridable\": true,\n  \"files\": [\n    \"style.json\"\n  ],\n  \"attributes\": {\n    \"lastModificationSignature\": \"80f1828576b95969e9eff06c337fa652f6e71fb4aa73394f8cb8cf08812276b6\",\n    \"lastModification\": {\n      \"actor\": \"admin\",\n      \"timestamp\": \"2020-05-06T18:13:04Z\"\n    }\n  }\n}";

    fn manifest(text: &str) -> ResourceManifest {
        ResourceManifest::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_signature_made_by_an_8_1_gateway_is_recognised() {
        let right = verify(&manifest(MANIFEST), |_| Ok(STYLE.as_bytes())).unwrap();
        assert_eq!(right, Some(Formula::V81));
        let changed = verify(&manifest(MANIFEST), |_| Ok(&STYLE.as_bytes()[1..])).unwrap();
        assert_eq!(changed, None);
    }

    #[test]
    fn stamping_changes_nothing_but_the_stamp() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_768_803_429);
        let stamped = restamp(MANIFEST, &Stamp::new("external", at), |_| Ok(STYLE.as_bytes())).unwrap();
        assert!(
            stamped.contains("\"actor\": \"external\"") || stamped.contains("\"actor\":\"external\""),
            "{stamped}"
        );
        assert!(stamped.contains("2026-01-19T06:17:09Z"), "{stamped}");
        assert!(same_but_for_stamp(MANIFEST.as_bytes(), stamped.as_bytes()));
        assert_eq!(verify(&manifest(&stamped), |_| Ok(STYLE.as_bytes())).unwrap(), Some(Formula::V83));
        assert!(
            stamped.starts_with("{\n  \"scope\": \"G\",\n  \"version\": 1,") && stamped.ends_with("}\n}"),
            "{stamped}"
        );
    }

    #[test]
    fn a_manifest_without_attributes_gets_them() {
        let stamped =
            restamp("{\"files\":[]}", &Stamp::new("a", SystemTime::UNIX_EPOCH), |_| Ok(io::empty())).unwrap();
        assert_eq!(verify(&manifest(&stamped), |_| Ok(io::empty())).unwrap(), Some(Formula::V83));
    }

    #[test]
    fn a_listed_file_that_is_missing_is_an_error_not_a_verdict() {
        let gone = |_: &str| Err::<&[u8], _>(io::Error::from(io::ErrorKind::NotFound));
        assert!(verify(&manifest(MANIFEST), gone).is_err());
    }

    proptest! {
        /// Any change of a file, a file name or an attribute shows under both formulas.
        #[test]
        fn signatures_tell_contents_apart(a in "[a-c]{0,4}", b in "[a-c]{0,4}", scope in "[GDCAN]") {
            let text = format!(r#"{{"scope":"{scope}","version":1,"files":["x"],"attributes":{{}}}}"#);
            for formula in [Formula::V81, Formula::V83] {
                let one = sign(&manifest(&text), formula, |_| Ok(a.as_bytes())).unwrap();
                let two = sign(&manifest(&text), formula, |_| Ok(b.as_bytes())).unwrap();
                prop_assert_eq!(one == two, a == b);
                prop_assert_eq!(one.len(), 64);
            }
        }
    }
}
