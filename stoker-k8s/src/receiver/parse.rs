//! What a delivery says. Only called for bytes whose signature was right.

use std::borrow::Cow;

use serde::Deserialize;

use super::source::{Origin, Source};

/// How the body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// JSON.
    Json,
    /// A form with the JSON in its field `payload`: what GitHub's settings page offers first.
    Form,
}

/// What a delivery says.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Delivery {
    /// The forge tries out its settings.
    Ping,
    /// A branch or tag was pushed or deleted.
    Push(Push),
    /// Somebody asks for a sync.
    Request {
        /// Of this ref; else of whatever the resource follows.
        git_ref: Option<String>,
    },
    /// Another event of a forge.
    Other {
        /// Its name.
        event: String,
    },
}

/// A branch or tag that was pushed or deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Push {
    /// Its full name, like `refs/heads/main`.
    pub git_ref: String,
    /// It was deleted.
    pub deleted: bool,
    /// The repository's default branch, if the forge says.
    pub default_branch: Option<String>,
}

/// Why a delivery cannot be understood.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// No text.
    #[error("the body is not UTF-8")]
    NotText,
    /// No form with a payload.
    #[error(
        "the form has no field payload; choose the content type application/json in the forge's settings"
    )]
    NoPayload,
    /// No JSON object.
    #[error("the body is not a JSON object")]
    NotAnObject,
    /// Not the JSON of such an event.
    #[error("the body is not what a {what} holds: {problem}")]
    Json {
        /// The event.
        what: &'static str,
        /// What the parser says.
        problem: String,
    },
    /// A value that is too long.
    #[error("{field} is longer than {limit} bytes")]
    TooLong {
        /// The field.
        field: &'static str,
        /// The limit.
        limit: usize,
    },
    /// A value that is no commit id.
    #[error("commit {0:?} is not a commit id; write all 40 hex digits")]
    Commit(String),
}

/// Longest name of a ref that a forge may send, in bytes.
const MAX_REF: usize = 1024;

#[derive(Deserialize)]
struct PushBody<'a> {
    #[serde(borrow)]
    r#ref: Cow<'a, str>,
    #[serde(borrow, default)]
    after: Option<Cow<'a, str>>,
    #[serde(default)]
    deleted: Option<bool>,
    #[serde(borrow, default)]
    repository: Option<Repository<'a>>,
}

#[derive(Deserialize)]
struct Repository<'a> {
    #[serde(borrow, default)]
    default_branch: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct RequestBody<'a> {
    #[serde(borrow, default)]
    r#ref: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    commit: Option<Cow<'a, str>>,
}

/// Reads a delivery.
///
/// # Errors
/// When it is not what its headers say.
pub fn parse(origin: &Origin, format: Format, body: &[u8]) -> Result<Delivery, ParseError> {
    let text = std::str::from_utf8(body).map_err(|_| ParseError::NotText)?;
    let payload;
    let text = match format {
        Format::Json => text,
        Format::Form => {
            let mut fields = url::form_urlencoded::parse(text.as_bytes());
            payload = fields.find(|(name, _)| name == "payload").ok_or(ParseError::NoPayload)?.1;
            &payload
        }
    };
    match (origin.source, origin.event.as_deref()) {
        (Source::Generic, _) => request(text),
        (_, Some("ping")) => Ok(Delivery::Ping),
        (_, Some("push")) => push(text),
        (_, event) => Ok(Delivery::Other { event: event.unwrap_or_default().chars().take(64).collect() }),
    }
}

fn push(text: &str) -> Result<Delivery, ParseError> {
    let body: PushBody<'_> = object("push", text)?;
    let zeros = |id: &str| !id.is_empty() && id.bytes().all(|b| b == b'0');
    let deleted = body.deleted.unwrap_or_default() || body.after.as_deref().is_some_and(zeros);
    if body.r#ref.len() > MAX_REF {
        return Err(ParseError::TooLong { field: "ref", limit: MAX_REF });
    }
    let default_branch = body.repository.and_then(|repository| repository.default_branch);
    let default_branch = default_branch.filter(|name| name.len() <= MAX_REF).map(Cow::into_owned);
    Ok(Delivery::Push(Push { git_ref: body.r#ref.into_owned(), deleted, default_branch }))
}

/// `{}` asks for a sync of what the resource follows, `{"ref": ...}` for that ref, `{"commit": ...}` for that commit.
/// With both, the commit says what the sender saw; the ref is what is followed.
fn request(text: &str) -> Result<Delivery, ParseError> {
    if text.trim().is_empty() {
        return Ok(Delivery::Request { git_ref: None });
    }
    let body: RequestBody<'_> = object("request", text)?;
    let some = |text: Option<Cow<'_, str>>| text.map(|t| t.trim().to_owned()).filter(|t| !t.is_empty());
    let (git_ref, commit) = (some(body.r#ref), some(body.commit));
    if let Some(commit) = commit.as_ref().filter(|c| c.parse::<stoker_git::CommitId>().is_err()) {
        return Err(ParseError::Commit(commit.chars().take(64).collect()));
    }
    if git_ref.as_ref().is_some_and(|name| name.len() > MAX_REF) {
        return Err(ParseError::TooLong { field: "ref", limit: MAX_REF });
    }
    Ok(Delivery::Request { git_ref: git_ref.or(commit) })
}

fn object<'a, T: Deserialize<'a>>(what: &'static str, text: &'a str) -> Result<T, ParseError> {
    // Serde would read a list of the values in order as well.
    if !text.trim_start().starts_with('{') {
        return Err(ParseError::NotAnObject);
    }
    serde_json::from_str(text).map_err(|error| ParseError::Json { what, problem: error.to_string() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn origin(source: Source, event: &str) -> Origin {
        let event = (source != Source::Generic).then(|| event.to_owned());
        Origin { source, event, delivery: None }
    }

    fn github(event: &str, body: &serde_json::Value) -> Result<Delivery, ParseError> {
        parse(&origin(Source::GitHub, event), Format::Json, body.to_string().as_bytes())
    }

    fn pushed(git_ref: &str, deleted: bool) -> Delivery {
        Delivery::Push(Push { git_ref: git_ref.to_owned(), deleted, default_branch: Some("main".to_owned()) })
    }

    /// The fields that GitHub, Gitea and Forgejo send.
    fn push_body(git_ref: &str, after: &str) -> serde_json::Value {
        json!({
            "ref": git_ref, "before": "1".repeat(40), "after": after, "forced": false, "base_ref": null,
            "head_commit": { "id": after, "message": "{\"ref\": \"refs/heads/trap\"}" },
            "repository": { "full_name": "o/r", "default_branch": "main", "clone_url": "https://example.com/o/r.git" },
            "commits": [{ "id": after, "added": ["a"], "removed": [], "modified": [] }],
        })
    }

    #[test]
    fn pushes_of_branches_and_tags_and_deletions_are_read() {
        let commit = "6113728f27ae82c7b1a177c8d03f9e96e0adf246";
        for name in ["refs/heads/main", "refs/tags/v1.0", "refs/heads/ünïcode/\"quoted\""] {
            assert_eq!(github("push", &push_body(name, commit)).unwrap(), pushed(name, false));
        }
        let zeros = "0".repeat(40);
        assert_eq!(github("push", &push_body("refs/heads/x", &zeros)).unwrap(), pushed("refs/heads/x", true));
        let mut body = push_body("refs/heads/x", commit);
        body["deleted"] = json!(true);
        assert_eq!(github("push", &body).unwrap(), pushed("refs/heads/x", true));
    }

    #[test]
    fn other_events_are_no_errors() {
        assert_eq!(github("ping", &json!({ "zen": "x" })).unwrap(), Delivery::Ping);
        for event in ["create", "delete", "release", "issues"] {
            assert_eq!(github(event, &json!({})).unwrap(), Delivery::Other { event: event.to_owned() });
        }
    }

    #[test]
    fn the_form_that_github_offers_first_is_read() {
        let json = push_body("refs/heads/main", "1234").to_string();
        let form: String =
            url::form_urlencoded::Serializer::new(String::new()).append_pair("payload", &json).finish();
        let read = |body: &str| parse(&origin(Source::GitHub, "push"), Format::Form, body.as_bytes());
        assert_eq!(read(&form).unwrap(), pushed("refs/heads/main", false));
        assert!(matches!(read("other=1"), Err(ParseError::NoPayload)));
    }

    #[test]
    fn generic_requests_are_read() {
        let read = |body: &str| parse(&origin(Source::Generic, ""), Format::Json, body.as_bytes());
        let request = |git_ref: Option<&str>| Delivery::Request { git_ref: git_ref.map(str::to_owned) };
        let commit = "6113728f27ae82c7b1a177c8d03f9e96e0adf246";
        for (body, expected) in [
            (String::new(), None),
            ("{}".to_owned(), None),
            (r#"{"ref": null, "app": "x", "nested": {"ref": "trap"}}"#.to_owned(), None),
            (r#"{"ref": " v1.4.0 "}"#.to_owned(), Some("v1.4.0")),
            (format!(r#"{{"commit": "{commit}"}}"#), Some(commit)),
            (format!(r#"{{"ref": "v1", "commit": "{commit}"}}"#), Some("v1")),
        ] {
            assert_eq!(read(&body).unwrap(), request(expected), "{body}");
        }
        assert!(matches!(read(r#"{"commit": "latest"}"#), Err(ParseError::Commit(_))));
    }

    #[test]
    fn what_is_not_a_delivery_is_refused_with_a_reason() {
        let read =
            |body: &[u8]| parse(&origin(Source::Gitea, "push"), Format::Json, body).unwrap_err().to_string();
        assert!(read(b"{\"ref\": \"a\", \"ref\": \"b\"}").contains("duplicate field"));
        assert!(read(b"{\"ref\": \"refs/heads/ma").contains("EOF"));
        assert!(read(b"{}").contains("missing field `ref`"));
        assert!(read(b"{\"ref\": 5}").contains("invalid type"));
        assert!(read(b"[\"refs/heads/main\"]").contains("not a JSON object"));
        assert!(read(b"{\"ref\": \"a\"} trailing").contains("trailing"));
        assert!(read(b"{\"x\": \"\xff\"}").contains("UTF-8"));
        assert!(read(format!("{{\"ref\": \"{}\"}}", "x".repeat(2000)).as_bytes()).contains("longer"));
        let deep = format!("{{\"ref\": \"a\", \"x\": {}", "[".repeat(1_000_000));
        assert!(read(deep.as_bytes()).contains("not what a push holds"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(body in proptest::collection::vec(any::<u8>(), 0..256), form in any::<bool>(), forge in any::<bool>()) {
            let source = if forge { Source::Forgejo } else { Source::Generic };
            let format = if form { Format::Form } else { Format::Json };
            let _ = parse(&origin(source, "push"), format, &body);
        }
    }
}
