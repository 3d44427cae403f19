//! The shared API server, with the definitions installed once.

use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt};
use stoker_testkit::{ApiServer, require, wait};
use tokio::sync::OnceCell;

/// The API server with the definitions.
pub(crate) struct Cluster {
    pub(crate) server: &'static ApiServer,
}

static INSTALLED: OnceCell<()> = OnceCell::const_new();

/// The API server, or `None` where there is none.
pub(crate) async fn get() -> Option<Cluster> {
    let server = require::api_server().await?;
    INSTALLED.get_or_init(|| async { install(&server.client().unwrap()).await }).await;
    Some(Cluster { server })
}

impl Cluster {
    /// A client of the administrator.
    pub(crate) fn client(&self) -> Client {
        self.server.client().unwrap()
    }
}

/// Installs the definitions and waits until the API server serves them.
pub(crate) async fn install(client: &Client) {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for crd in stoker_k8s::api::crds() {
        let name = crd.name_any();
        api.patch(&name, &PatchParams::apply("tests").force(), &Patch::Apply(&crd)).await.unwrap();
        wait::until_true(&format!("{name} to be served"), Duration::from_secs(30), || async {
            let crd = api.get(&name).await?;
            let conditions = crd.status.and_then(|s| s.conditions).unwrap_or_default();
            Ok(conditions.iter().any(|c| c.type_ == "Established" && c.status == "True"))
        })
        .await
        .unwrap();
    }
}
