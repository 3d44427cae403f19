use super::*;
use proptest::prelude::*;

fn parse(text: &str) -> RemoteUrl {
    RemoteUrl::parse_allowing_insecure(text).unwrap_or_else(|e| panic!("{text}: {e}"))
}

#[test]
fn every_form_is_read() {
    for (text, shown, host, port, path) in [
        ("https://h.example/a/b.git", "https://h.example/a/b.git", "h.example", 443, "/a/b.git"),
        ("HTTPS://H.Example:443/a/b.git/", "https://h.example/a/b.git", "h.example", 443, "/a/b.git"),
        ("https://h:8443/a", "https://h:8443/a", "h", 8443, "/a"),
        ("https://[::1]:8443/a", "https://[::1]:8443/a", "::1", 8443, "/a"),
        ("https://[0:0::1]/a", "https://[::1]/a", "::1", 443, "/a"),
        ("https://h/a/../b", "https://h/b", "h", 443, "/b"),
        // Found by fuzzing: two slashes remained.
        ("https://h/a\\\\b", "https://h/a/b", "h", 443, "/a/b"),
        ("http://h/a", "http://h/a", "h", 80, "/a"),
        ("git://h/a", "git://h/a", "h", 9418, "/a"),
        ("ssh://git@h/a.git", "ssh://git@h/a.git", "h", 22, "/a.git"),
        ("ssh://git@h:22/a.git", "ssh://git@h/a.git", "h", 22, "/a.git"),
        ("ssh://h:2222/~me/a", "ssh://h:2222/~me/a", "h", 2222, "~me/a"),
        ("ssh://git@[fe80::1]/a", "ssh://git@[fe80::1]/a", "fe80::1", 22, "/a"),
        ("git@h:~me/a", "ssh://git@h/~me/a", "h", 22, "~me/a"),
        // Found by fuzzing: in the short form the bracket would belong to the host.
        ("ssh://git@h/~me/[a]:b", "ssh://git@h/~me/[a]:b", "h", 22, "~me/[a]:b"),
        ("git+ssh://git@h/a", "ssh://git@h/a", "h", 22, "/a"),
        ("git@Github.com:org/repo.git", "git@github.com:org/repo.git", "github.com", 22, "org/repo.git"),
        ("h:repo", "h:repo", "h", 22, "repo"),
        ("git@h:/srv/repo", "ssh://git@h/srv/repo", "h", 22, "/srv/repo"),
        ("git@h:a]:b", "git@h:a]:b", "h", 22, "a]:b"),
        ("git@[::1]:repo", "git@[::1]:repo", "::1", 22, "repo"),
        ("https://0x7f.1/a", "https://127.0.0.1/a", "127.0.0.1", 443, "/a"),
    ] {
        let url = parse(text);
        assert_eq!(url.to_string(), shown, "{text}");
        assert_eq!((url.host(), url.port(), url.path()), (Some(host), Some(port), path), "{text}");
        assert_eq!(parse(&url.to_string()), url, "{text}: what is printed reads the same");
    }
    let file = parse("file:///srv/mirror.git/");
    assert_eq!((file.to_string().as_str(), file.host(), file.port()), ("file:///srv/mirror.git", None, None));
    assert_eq!(parse("file://localhost//srv/./a"), parse("file:///srv/a"));
}

#[test]
fn what_is_refused_says_what_to_write() {
    for (text, expected) in [
        ("", "empty"),
        ("repo", "not a repository URL"),
        ("/srv/repo", "not a repository URL"),
        ("C:\\repo", "not a repository URL"),
        ("ftp://h/a", "scheme"),
        ("ext::sh -c id", "space"),
        ("ext::id", "not a repository URL"),
        ("https://u:p@h/a", "put the credential in a Secret"),
        ("https://token@h/a", "put the credential in a Secret"),
        ("ssh://git:pw@h/a", "password"),
        ("https://h/a?private_token=x", "query"),
        ("https://h/a#x", "query"),
        // Found by fuzzing: what is printed has a scheme, and would be refused.
        ("git@h:/a?x", "query"),
        ("h:a#x", "query"),
        ("--upload-pack=id", "starts with \"-\""),
        ("ssh://-oProxyCommand=id/a", "starts with \"-\""),
        // Found by fuzzing: a full-width dash.
        ("ssh://\u{ff0d}oProxyCommand/a", "starts with \"-\""),
        ("-oProxyCommand=id@h:a", "starts with \"-\""),
        ("h:/-x", "starts with \"-\""),
        ("git@h:-x", "starts with \"-\""),
        ("ssh://git@h/-x", "starts with \"-\""),
        ("https://h", "names no repository"),
        ("https://h/", "names no repository"),
        ("git@h:", "names no repository"),
        ("file:///", "names no repository"),
        ("file://server/share", "not a repository URL"),
        ("file:///a/../../etc", "not a repository URL"),
        ("file:////-/a", "starts with \"-\""),
        ("https://h:0/a", "host"),
        ("https://h:99999/a", "host"),
        ("https://h%00/a", "host"),
        ("https:///a", "host"),
        ("https://h/a b", "space"),
        ("https://h/a\nb", "control"),
    ] {
        let error = RemoteUrl::parse_allowing_insecure(text).expect_err(text);
        assert!(error.to_string().contains(expected), "{text:?}: {error}");
    }
    for insecure in ["http://h/a", "git://h/a"] {
        assert!(matches!(RemoteUrl::parse(insecure), Err(UrlError::Insecure { .. })), "{insecure}");
    }
}

#[test]
fn no_error_repeats_a_password() {
    for text in [
        "https://user:hunter2@h/a",
        "https://hunter2@h/a",
        "ssh://git:hunter2@h/a",
        "ftp://u:hunter2@h/a",
        "https://u:hunter2@h",
        "https://h/a?token=hunter2",
        "git:hunter2@h:a",
        "https://u:hunter2@h/a b",
        "https://u:hunter2@h:bad/a",
        "https://h/a#hunter2",
        "https://u:hunter2@@h/a",
        "-https://u:hunter2@h/a",
    ] {
        let error = RemoteUrl::parse(text).expect_err(text);
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("hunter2"), "{text}: {shown}");
    }
}

proptest! {
    /// Whatever is accepted prints to a text that is accepted again as the same place, and never starts an option.
    #[test]
    fn accepted_urls_survive_a_round_trip(text in r"(https|ssh|git|file)://([a-z-]{1,3}(:[a-z]{0,2})?@)?[a-z0-9.\[\]:-]{0,8}/[a-z~./-]{0,8}|[a-z@:./~-]{0,16}") {
        if let Ok(url) = RemoteUrl::parse_allowing_insecure(&text) {
            let shown = url.to_string();
            prop_assert_eq!(&RemoteUrl::parse_allowing_insecure(&shown).unwrap(), &url);
            prop_assert!(!url.path().starts_with('-') && !shown.starts_with('-'));
            prop_assert!(!url.host().is_some_and(|h| h.starts_with('-') || h.is_empty()));
        }
    }
}

#[test]
fn a_password_is_not_shown_whatever_is_in_it() {
    for login in [
        "ada:TOP/SECRET",
        "ada:TOP#SECRET",
        "ada:TOP?SECRET",
        "ada:TOP@SECRET/zzz",
        "ada:1234/SECRET",
        "SECRET",
    ] {
        for url in
            [format!("https://{login}@git.example.com/x.git"), format!("http//{login}:x@git.example.com/x")]
        {
            assert!(!redact(&url).contains("SECRET") && !redact(&url).contains("TOP"), "{}", redact(&url));
            // By RFC 3986 a password of digits before a slash is a port.
            let Err(error) = RemoteUrl::parse(&url).map_err(|e| e.to_string()) else {
                assert!(url.contains("1234"), "{url}");
                continue;
            };
            assert!(!error.contains("SECRET") && !error.contains("TOP"), "{error}");
        }
    }
    for plain in
        ["https://git.example.com/a@b.git", "git@git.example.com:plant.git", "https://git.example.com:8443/x"]
    {
        assert_eq!(redact(plain), plain);
    }
}
