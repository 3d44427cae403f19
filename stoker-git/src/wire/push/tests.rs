use proptest::prelude::*;

use super::*;

fn commit(digit: char) -> CommitId {
    digit.to_string().repeat(40).parse().unwrap()
}

fn wanted() -> Move {
    Move { reference: "refs/heads/main".into(), expected: Some(commit('a')), commit: commit('b') }
}

/// A server of bytes.
struct Canned {
    answer: std::io::Cursor<Vec<u8>>,
    request: Vec<u8>,
}

impl Connection for Canned {
    fn greeting(&mut self) -> Result<&mut dyn Read, GitError> {
        Ok(&mut self.answer)
    }

    fn request(&mut self, body: Vec<u8>) -> Result<&mut dyn Read, GitError> {
        self.request = body;
        Ok(&mut self.answer)
    }
}

fn greeting(main: Option<char>, capabilities: &str) -> Greeting {
    let mut bytes = Vec::new();
    match main {
        Some(main) => push(&mut bytes, &format!("{} refs/heads/main\0{capabilities}", commit(main))),
        None => push(&mut bytes, &format!("{} capabilities^{{}}\0{capabilities}", commit('0'))),
    }
    push_flush(&mut bytes);
    let bounds = crate::wire::greeting::Bounds::none(std::time::Duration::MAX);
    super::super::greeting::read(&mut &bytes[..], "u", bounds).unwrap().unwrap()
}

fn told(greeting: &Greeting, answer: Vec<u8>) -> (Result<Moved, GitError>, Vec<u8>) {
    let mut server = Canned { answer: std::io::Cursor::new(answer), request: Vec::new() };
    let result = run(&mut server, greeting, &wanted(), b"PACK".to_vec(), "u");
    (result, server.request)
}

fn report(lines: &[&str], sideband: bool) -> Vec<u8> {
    let mut inner = Vec::new();
    for line in lines {
        push(&mut inner, line);
    }
    push_flush(&mut inner);
    if !sideband {
        return inner;
    }
    let mut bytes = Vec::new();
    push(&mut bytes, "\u{2}be kind\n");
    // In pieces, as a server may send it.
    let (first, second) = inner.split_at(inner.len() / 2);
    for piece in [first, second] {
        push(&mut bytes, &format!("\u{1}{}", std::str::from_utf8(piece).unwrap()));
    }
    push_flush(&mut bytes);
    bytes
}

#[test]
fn a_branch_is_moved_with_and_without_side_bands() {
    for sideband in [false, true] {
        let capabilities = if sideband { "report-status side-band-64k agent=git/2" } else { "report-status" };
        let (result, request) = told(
            &greeting(Some('a'), capabilities),
            report(&["unpack ok\n", "ok refs/heads/main\n"], sideband),
        );
        assert_eq!(result, Ok(Moved::Now));
        let text = String::from_utf8(request).unwrap();
        let command = format!("{} {} refs/heads/main\0 report-status", commit('a'), commit('b'));
        assert!(text[4..].starts_with(&command), "{text:?}");
        assert_eq!(text.contains("side-band-64k agent="), sideband);
        assert!(text.ends_with("0000PACK"), "{text:?}");
    }
}

#[test]
fn a_lease_is_judged_before_anything_is_sent() {
    for found in [None, Some('c')] {
        let (result, request) = told(&greeting(found, "report-status"), Vec::new());
        let found = found.map(commit);
        assert!(matches!(result, Err(GitError::LeaseLost { found: f, .. }) if f == found), "{result:?}");
        assert!(request.is_empty());
    }
    let (result, request) = told(&greeting(Some('b'), "report-status"), Vec::new());
    assert_eq!((result, request), (Ok(Moved::Already), Vec::new()));
}

#[test]
fn reports_that_are_no_success() {
    let greeting = greeting(Some('a'), "report-status side-band-64k");
    for (lines, says) in [
        (&["unpack ok\n", "ng refs/heads/main non-fast-forward\n"][..], "takes only commits that descend"),
        (
            &["unpack index-pack failed\n", "ng refs/heads/main unpacker error\n"],
            "index-pack failed: be kind",
        ),
        (&["unpack ok\n", "ng refs/heads/main pre-receive hook declined\n"], "hook declined: be kind"),
        (&["unpack ok\n", "ok refs/heads/other\n"], "did not say"),
        (&["unpack ok\n"], "did not say"),
        (&[], "did not say"),
    ] {
        let error = told(&greeting, report(lines, true)).0.unwrap_err().to_string();
        assert!(error.contains(says), "{lines:?}: {error}");
    }
    let cut = report(&["unpack ok\n", "ok refs/heads/main\n"], true);
    let error = told(&greeting, cut[..cut.len() - 10].to_vec()).0.unwrap_err();
    assert!(error.to_string().contains("ended in the middle"), "{error}");
}

proptest! {
    #[test]
    fn any_bytes_end_in_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for capabilities in ["report-status", "report-status side-band-64k"] {
            prop_assert!(told(&greeting(Some('a'), capabilities), bytes.clone()).0.is_err());
        }
    }
}
