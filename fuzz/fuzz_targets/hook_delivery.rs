//! A delivery is read or refused; what is read has bounded texts, and is the same in a form as in plain JSON.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stoker_k8s::receiver::{Delivery, Format, Origin, Source, parse};

// `<sender> <event> <json or form>` in the first line, then the body.
fuzz_target!(|bytes: &[u8]| {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else { return };
    let Ok(first) = std::str::from_utf8(&bytes[..end]) else { return };
    let body = &bytes[end + 1..];
    let mut words = first.split(' ');
    let source = match words.next() {
        Some("forgejo") => Source::Forgejo,
        Some("gitea") => Source::Gitea,
        Some("gogs") => Source::Gogs,
        Some("github") => Source::GitHub,
        _ => Source::Generic,
    };
    let event = words.next().unwrap_or_default();
    let event = (source != Source::Generic).then(|| event.to_owned());
    let origin = Origin { source, event, delivery: None };
    let format = if words.next() == Some("form") { Format::Form } else { Format::Json };
    let read = parse(&origin, format, body);
    match &read {
        Ok(Delivery::Push(push)) => {
            assert!(push.git_ref.len() <= 1024);
            assert!(push.default_branch.as_ref().is_none_or(|name| name.len() <= 1024));
        }
        Ok(Delivery::Request { git_ref: Some(name) }) => {
            assert!(!name.is_empty() && name.trim() == name && name.len() <= 1024);
        }
        Ok(Delivery::Other { event }) => assert!(event.chars().count() <= 64),
        Ok(_) => {}
        Err(error) => assert!(error.to_string().len() < 4096, "{error}"),
    }
    // The same JSON as GitHub's form would carry it.
    if let (Format::Json, Ok(text), Ok(read)) = (format, std::str::from_utf8(body), read) {
        let escaped: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let form = parse(&origin, Format::Form, format!("payload={escaped}").as_bytes());
        assert_eq!(form.expect("the same text"), read);
    }
});
