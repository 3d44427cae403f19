//! A Kubernetes namespace for one test.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Namespace as Object, ServiceAccount};
use kube::api::PostParams;
use kube::{Api, Client};

use crate::wait;

/// A fresh namespace whose service account `default` exists; derefs to its name.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    /// How to delete it when dropped: kubectl and a kubeconfig.
    delete_with: Option<(PathBuf, PathBuf)>,
}

impl Namespace {
    /// Makes one, named after the running test.
    pub(crate) async fn create(client: &Client, labels: BTreeMap<String, String>) -> Result<Self> {
        let namespaces: Api<Object> = Api::all(client.clone());
        let mut object = Object::default();
        object.metadata.generate_name = Some(format!("{}-", label_of_this_test()));
        object.metadata.labels = Some(labels);
        let created =
            namespaces.create(&PostParams::default(), &object).await.context("making a namespace")?;
        let name = created.metadata.name.context("the API server names what it creates")?;
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &name);
        wait::until(&format!("service account {name}/default"), Duration::from_secs(30), || async {
            Ok(accounts.get_opt("default").await?)
        })
        .await?;
        Ok(Self { name, delete_with: None })
    }

    /// Has it deleted, without waiting, when this value goes.
    pub(crate) fn deleted_at_end(mut self, kubectl: &Path, kubeconfig: &Path) -> Self {
        self.delete_with = Some((kubectl.to_owned(), kubeconfig.to_owned()));
        self
    }
}

impl Deref for Namespace {
    type Target = str;

    fn deref(&self) -> &str {
        &self.name
    }
}

impl std::fmt::Display for Namespace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Not by a client: the runtime that it needs may be ending.
        if let Some((kubectl, kubeconfig)) = &self.delete_with {
            let _ = Command::new(kubectl)
                .arg("--kubeconfig")
                .arg(kubeconfig)
                .args(["delete", "namespace", &self.name, "--wait=false"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
        }
    }
}

/// The test's name as far as it fits a namespace's name: `discovery::finds_pods` gives `finds-pods`.
fn label_of_this_test() -> String {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("test");
    let last = name.rsplit("::").next().unwrap_or(name);
    let plain: String = last
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .take(40)
        .collect();
    let plain = plain.trim_matches('-');
    if plain.is_empty() { "test".to_owned() } else { plain.to_owned() }
}
