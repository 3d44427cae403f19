//! Names of the objects that Stoker writes.
//!
//! Two names joined can be longer than an object name may be. Then the tail gives way to a hash of the whole, so that
//! different inputs never share a name.

/// Longest name of an object, in bytes (a DNS subdomain name, RFC 1123).
pub const MAX_NAME: usize = 253;
/// Longest value of a label, in bytes.
pub const MAX_LABEL: usize = 63;

/// Whether the text can be the name of an object or a namespace at all: a DNS subdomain name, RFC 1123.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    text.len() <= MAX_NAME
        && text.split('.').all(|label| {
            !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
        })
}

/// Name of the ConfigMap that tells the agents of `cr` what to run.
#[must_use]
pub fn metadata(cr: &str) -> String {
    shorten(&format!("stoker-metadata-{cr}"), MAX_NAME)
}

/// Name of the ConfigMap in which the agent of `pod` reports.
///
/// Not unique: `a` with `b-c` gives the same as `a-b` with `c`. So nothing is read from the name alone; the label, the
/// owner and the report itself say whose it is.
#[must_use]
pub fn status(cr: &str, pod: &str) -> String {
    shorten(&format!("stoker-status-{cr}-{pod}"), MAX_NAME)
}

/// Whether a pod of `cr` may report in the ConfigMap `map`, as far as its name tells.
#[must_use]
pub fn may_be_status(map: &str, cr: &str) -> bool {
    map.strip_prefix("stoker-status-")
        .and_then(|rest| rest.strip_prefix(cr))
        .is_some_and(|rest| rest.starts_with('-'))
}

/// Name of the Role and RoleBinding of the agents of `cr`.
#[must_use]
pub fn agent_role(cr: &str) -> String {
    shorten(&format!("stoker-agent-{cr}"), MAX_NAME)
}

/// `value` as the value of a label: unchanged when it fits.
#[must_use]
pub fn label_value(value: &str) -> String {
    shorten(value, MAX_LABEL)
}

/// `name`, cut to `limit` bytes with a hash of the whole at its end when it is longer.
fn shorten(name: &str, limit: usize) -> String {
    if name.len() <= limit {
        return name.to_owned();
    }
    let digest = blake3::hash(name.as_bytes()).to_hex();
    let suffix = &digest[..10];
    let mut cut = limit - suffix.len() - 1;
    while !name.is_char_boundary(cut) {
        cut -= 1;
    }
    let head = name[..cut].trim_end_matches(['-', '.', '_']);
    format!("{head}-{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_readable() {
        assert_eq!(metadata("my-sync"), "stoker-metadata-my-sync");
        assert_eq!(status("my-sync", "gw-0"), "stoker-status-my-sync-gw-0");
        assert_eq!(agent_role("my-sync"), "stoker-agent-my-sync");
        assert_eq!(label_value("my-sync"), "my-sync");
    }

    #[test]
    fn nothing_but_a_name_passes_for_one() {
        for name in ["a", "0", "plant-a", "plant.a-b.c", &"x".repeat(MAX_NAME)] {
            assert!(is_name(name), "{name}");
        }
        for other in [
            "",
            ".",
            "..",
            "a..b",
            "-a",
            "a-",
            "a.-b",
            "A",
            "a/b",
            "a?b",
            "a%2fb",
            "a b",
            "ä",
            &"x".repeat(MAX_NAME + 1),
        ] {
            assert!(!is_name(other), "{other}");
        }
    }

    #[test]
    fn a_shared_name_concerns_both_who_share_it() {
        let shared = status("a", "b-c");
        assert_eq!(shared, status("a-b", "c"));
        assert!(may_be_status(&shared, "a") && may_be_status(&shared, "a-b"));
        assert!(!may_be_status(&shared, "a-b-c") && !may_be_status(&shared, "b"));
    }

    #[test]
    fn long_names_fit_and_stay_different() {
        let (cr, pod) = ("c".repeat(240), "p".repeat(240));
        let name = status(&cr, &pod);
        assert!(name.len() <= MAX_NAME, "{}", name.len());
        assert_ne!(name, status(&cr, &format!("{pod}x")));
        assert_eq!(name, status(&cr, &pod));
        let label = label_value(&"a".repeat(64));
        assert!(label.len() <= MAX_LABEL && label.starts_with("aaaa"));
        assert_ne!(label, label_value(&"a".repeat(65)));
        // A cut at a separator leaves no name that ends with one.
        let name = metadata(&format!("{}.{}", "x".repeat(225), "y".repeat(30)));
        assert!(!name.contains(".-"), "{name}");
    }
}
