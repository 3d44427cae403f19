//! The patterns of OpenSSH, in known_hosts and allowed_signers: `*` stands for any characters, `?` for one; brackets are
//! literal.

/// Whether a text is meant by a list of patterns: by one of them, and by none that begins with `!`.
pub(crate) fn lists<'a>(patterns: impl IntoIterator<Item = &'a str>, text: &str) -> bool {
    let mut listed = false;
    for pattern in patterns {
        match pattern.strip_prefix('!') {
            Some(negated) if matches(negated, text) => return false,
            None if matches(pattern, text) => listed = true,
            _ => {}
        }
    }
    listed
}

/// Without recursion: a pattern of many stars must not cost exponential time.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == b'?' || *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                // Let the last star swallow one more character.
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}
