//! Which `Stoker`s a decision is based on.

use std::sync::Arc;

use kube::Client;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::READ_LIMIT;
use crate::inject::{Decision, Outcome, Stokers};
use crate::roster::{self, Roster, Scope};

/// Reads of the API server at the same time: a namespace full of pods without `Stoker` is no reason for more.
const READS: usize = 8;

pub(super) struct Source {
    client: Client,
    roster: Roster,
    scope: Scope,
    reads: Semaphore,
}

impl Source {
    pub(super) fn new(client: Client, roster: Roster, scope: Scope) -> Self {
        Self { client, roster, scope, reads: Semaphore::new(READS) }
    }

    /// Decides by the roster. When it knows nothing that fits, the watch may only lag behind (`kubectl apply` of a
    /// `Stoker` and a pod in one go), so the API server is asked once.
    pub(super) async fn decide(&self, namespace: &str, decide: impl Fn(Stokers<'_>) -> Decision) -> Decision {
        if !self.scope.contains(namespace) {
            return decide(Stokers::OutOfScope);
        }
        let known = self.roster.in_namespace(namespace);
        let first = decide(Stokers::Known(&known));
        // While the first list is not in, a choice may rest on half the truth.
        let settled = !first.reason.is_unresolved() && self.roster.is_complete();
        if settled || first.outcome == Outcome::Unchanged {
            return first;
        }
        match timeout(READ_LIMIT, self.read(namespace)).await {
            Ok(Some(fresh)) => decide(Stokers::Known(&fresh)),
            // What the watch has seen is better than nothing.
            Ok(None) | Err(_) if !first.reason.is_unresolved() || self.roster.is_complete() => first,
            Ok(None) | Err(_) => decide(Stokers::Unknown),
        }
    }

    async fn read(&self, namespace: &str) -> Option<Vec<Arc<roster::StokerView>>> {
        let _permit = self.reads.acquire().await.ok()?;
        match roster::list(self.client.clone(), namespace, READ_LIMIT).await {
            Ok(fresh) => Some(fresh),
            Err(error) => {
                tracing::warn!(namespace, error = stoker_core::chain(&error), "cannot read stokers");
                None
            }
        }
    }
}
