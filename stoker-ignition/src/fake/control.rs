//! The routes that no real gateway has: how a test on the other side of a socket steers the fake one.

use std::sync::Arc;

use axum::http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::core::{Core, KeySource};
use super::routes::{Call, Failure, FailureKind, Reply, json_ok};
use crate::rules::Designer;

#[derive(Deserialize)]
struct FailureBody {
    path: String,
    status: u16,
    times: Option<u32>,
}

pub(super) fn answer(core: &Arc<Core>, route: &[&str], call: &Call) -> Reply {
    let refuse = |why: String| Reply::Json(StatusCode::BAD_REQUEST, json!({"message": why}));
    let text = String::from_utf8_lossy(&call.body).trim().to_owned();
    let get = call.method == Method::GET;
    match route {
        ["events"] if get => json_ok(json!({"events": core.read(|s| s.journal.list())})),
        ["loaded"] if get => {
            let (projects, config) = core.read(|s| (Arc::clone(&s.projects), Arc::clone(&s.config)));
            json_ok(json!({"projects": *projects, "config": *config}))
        }
        ["behaviour"] if get => json_ok(json!(core.read(|s| s.behaviour.clone()))),
        _ if get => Reply::Html(StatusCode::NOT_FOUND),
        ["switch"] => {
            let mut behaviour = core.read(|s| s.behaviour.clone());
            for line in text.lines() {
                if let Err(error) = behaviour.set(line.trim()) {
                    return refuse(error.to_string());
                }
            }
            core.change(|s| s.behaviour = behaviour);
            Reply::Empty
        }
        ["restart"] => {
            core.restart(false);
            Reply::Empty
        }
        ["key"] => {
            core.change(|s| s.key = KeySource::Fixed((!text.is_empty()).then_some(text)));
            Reply::Empty
        }
        ["designers"] => match serde_json::from_str::<Vec<Designer>>(&text) {
            Ok(designers) => {
                core.change(|s| s.designers = designers);
                Reply::Empty
            }
            Err(error) => refuse(format!("not a list of designers: {error}")),
        },
        ["fail"] => match serde_json::from_str::<FailureBody>(&text) {
            Ok(FailureBody { path, status, times }) => {
                core.change(|s| s.injected.push(Failure { path, how: FailureKind::Status(status), times }));
                Reply::Empty
            }
            Err(error) => refuse(format!("not a failure: {error}")),
        },
        _ => Reply::Html(StatusCode::NOT_FOUND),
    }
}
