//! Level 1: a real API server, without root.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use kube::Client;
use serde::Deserialize;
use tokio::sync::OnceCell;

use crate::access::Access;
use crate::control_plane::{AUDIT_LOG, Blueprint, ControlPlane, KUBECONFIG};
use crate::leash::Leash;
use crate::namespace::Namespace;

/// Names the kubeconfig of an API server that tests of this process shall share with others.
pub const SHARED_API_SERVER: &str = "STOKER_TEST_APISERVER";

/// etcd, kube-apiserver and kube-controller-manager on loopback, ready in about three seconds.
///
/// What a plain API server does not do by itself works here as well: a namespace gets its service account,
/// owners collect their dependents, a StatefulSet makes pods. No pod ever runs; they stay `Pending` until a test
/// writes their status.
///
/// Webhook configurations may use a `url` on loopback.
#[derive(Debug)]
pub struct ApiServer {
    access: Access,
    folder: PathBuf,
    // In this order: the processes end before the leash deletes their files.
    own: Option<ControlPlane>,
    leash: Option<Leash>,
}

/// One request as the audit log tells it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditedRequest {
    /// `ResponseComplete`, or `ResponseStarted` for a watch that goes on.
    pub stage: String,
    /// Such as `get`, `watch` or `patch`.
    pub verb: String,
    /// The path and query.
    #[serde(rename = "requestURI")]
    pub request_uri: String,
    /// Who asked.
    pub user: AuditedUser,
    /// What the client calls itself.
    #[serde(default)]
    pub user_agent: String,
    /// What was asked for; absent for a request that is about no object, such as `/version`.
    #[serde(default)]
    pub object_ref: Option<AuditedObject>,
}

/// What a request is about.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct AuditedObject {
    /// Such as `configmaps`.
    pub resource: String,
    /// Such as `status`; empty for the object itself.
    pub subresource: String,
    /// Its name; empty for a list or a watch of many.
    pub name: String,
}

/// Who made a request.
#[derive(Debug, Clone, Deserialize)]
pub struct AuditedUser {
    /// Such as `system:serviceaccount:<namespace>:<name>`.
    #[serde(default)]
    pub username: String,
}

static SHARED: OnceCell<ApiServer> = OnceCell::const_new();

impl ApiServer {
    /// The server that all tests share: the one that `STOKER_TEST_APISERVER` names, else this process's own.
    ///
    /// # Errors
    ///
    /// As [`ApiServer::start`]; the named kubeconfig cannot be read.
    pub async fn shared() -> Result<&'static Self> {
        SHARED
            .get_or_try_init(|| async {
                match std::env::var_os(SHARED_API_SERVER).filter(|path| !path.is_empty()) {
                    Some(path) => Self::attach(Path::new(&path)),
                    None => Self::start().await,
                }
            })
            .await
    }

    /// Starts one of its own, for a test that stops it or needs cluster-wide objects for itself.
    ///
    /// # Errors
    ///
    /// A program cannot be obtained, or the server is not ready within a minute.
    pub async fn start() -> Result<Self> {
        crate::init();
        crate::tools_ready(crate::LEVEL_1).await?;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let leash = Leash::new("api")?;
            match ControlPlane::start(&leash, Blueprint::on_loopback()?).await {
                Ok(plane) => {
                    return Ok(Self {
                        access: plane.access().clone(),
                        folder: plane.folder().to_owned(),
                        own: Some(plane),
                        leash: Some(leash),
                    });
                }
                Err(error) if attempts < 3 && ControlPlane::lost_a_port(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Uses a server that another process runs, by the kubeconfig that its [`ApiServer::kubeconfig`] names.
    ///
    /// # Errors
    ///
    /// The file is absent or of another shape.
    pub fn attach(kubeconfig: &Path) -> Result<Self> {
        crate::init();
        let folder = kubeconfig.parent().context("a kubeconfig lies in a folder")?.to_owned();
        Ok(Self { access: Access::read(kubeconfig)?, folder, own: None, leash: None })
    }

    /// The administrator's way in.
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// A client of the administrator, for the calling runtime.
    ///
    /// # Errors
    ///
    /// The client cannot be made.
    pub fn client(&self) -> Result<Client> {
        self.access.client()
    }

    /// The administrator's kubeconfig file.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join(KUBECONFIG)
    }

    /// A fresh namespace, named after the running test, with its service account `default`.
    ///
    /// It is left behind: the server ends soon, and deleting costs more.
    ///
    /// # Errors
    ///
    /// The server does not answer.
    pub async fn namespace(&self) -> Result<Namespace> {
        Namespace::create(&self.client()?, BTreeMap::new()).await
    }

    /// A client that is a real service account, so that RBAC is tested instead of assumed.
    ///
    /// # Errors
    ///
    /// There is no such account.
    pub async fn token_client(&self, namespace: &str, account: &str) -> Result<Client> {
        self.access.as_service_account(namespace, account).await?.client()
    }

    /// The same as a kubeconfig file, for a program that shall run as that account.
    ///
    /// # Errors
    ///
    /// There is no such account.
    pub async fn token_kubeconfig(&self, namespace: &str, account: &str) -> Result<PathBuf> {
        let access = self.access.as_service_account(namespace, account).await?;
        let folder = self.folder.join("accounts");
        std::fs::create_dir_all(&folder)?;
        let path = folder.join(format!("{namespace}-{account}.kubeconfig"));
        std::fs::write(&path, access.kubeconfig())?;
        Ok(path)
    }

    /// Every request so far of one user, oldest first; the control plane's own components are not recorded.
    ///
    /// # Errors
    ///
    /// The log cannot be read.
    pub fn requests_of(&self, user: &str) -> Result<Vec<AuditedRequest>> {
        let log = std::fs::read(self.folder.join(AUDIT_LOG)).context("reading the audit log")?;
        let mut requests = Vec::new();
        // The last line may be half written.
        for line in log.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")) {
            let request: AuditedRequest = serde_json::from_slice(line).context("a line of the audit log")?;
            if request.user.username == user {
                requests.push(request);
            }
        }
        Ok(requests)
    }

    /// Ends the API server hard, as a node failure does; etcd keeps what was stored.
    ///
    /// # Errors
    ///
    /// The server is shared, so that others would suffer.
    pub fn kill(&self) -> Result<()> {
        self.own()?.0.kill_api_server()
    }

    /// Starts the killed API server again at the same address and waits until it is ready.
    ///
    /// # Errors
    ///
    /// The server is shared, or it is not ready within a minute.
    pub async fn resume(&self) -> Result<()> {
        let (plane, leash) = self.own()?;
        plane.resume_api_server(leash).await
    }

    fn own(&self) -> Result<(&ControlPlane, &Leash)> {
        match (&self.own, &self.leash) {
            (Some(plane), Some(leash)) => Ok((plane, leash)),
            _ => bail!("this API server is shared: start one with ApiServer::start() to stop it"),
        }
    }
}
