//! A URL has one spelling, carries no secret, and nothing in it can be taken for an option.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stoker_git::{Protocol, RemoteUrl, redact};

fuzz_target!(|text: &str| {
    let shown = redact(text);
    if let Some((_, rest)) = text.split_once("://")
        && let Some((userinfo, _)) = rest.split(['/', '?', '#']).next().unwrap_or_default().rsplit_once('@')
        && let Some((_, password)) = userinfo.split_once(':')
        // One that cannot be there by chance, nor a second time where it is no password.
        && password.len() > 8
        && password.bytes().all(|byte| byte.is_ascii_alphanumeric())
        && text.matches(password).count() == 1
    {
        assert!(!shown.contains(password), "{shown}");
    }
    let url = match RemoteUrl::parse_allowing_insecure(text) {
        Ok(url) => url,
        Err(error) => {
            // The message quotes the text; it must hold what the redacted text holds, not more.
            let _ = error.to_string();
            return;
        }
    };
    let again = RemoteUrl::parse_allowing_insecure(&url.to_string());
    assert_eq!(again.as_ref(), Ok(&url), "{url} is read as another");
    assert_eq!(RemoteUrl::parse(text).is_ok(), !url.is_insecure());
    assert_eq!(url.host().is_none(), url.protocol() == Protocol::File);
    assert!(!url.to_string().starts_with('-') && !url.path().trim_start_matches('/').starts_with('-'));
    for part in [url.host(), url.user()].into_iter().flatten() {
        assert!(!part.is_empty() && !part.starts_with('-'));
        assert!(!part.chars().any(|c| c.is_control() || c.is_whitespace()));
    }
    assert!(url.user().is_none_or(|user| !user.contains(':')));
    assert!(url.port() != Some(0));
});
