//! What the tests share: a node, the chart on it, a forge.

use std::time::Duration;

use stoker_e2e::{Installation, Site};
use stoker_testkit::gitea::Gitea;
use stoker_testkit::require;
use tokio::sync::{OnceCell, RwLock};

/// Longest time for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A node with the chart on it, and a forge in its network.
pub(crate) struct Bed {
    pub(crate) installation: Installation<'static>,
    pub(crate) forge: Gitea,
    /// Who restarts the controller holds it alone: a delivery that finds no receiver is lost, and polling is slow here.
    pub(crate) calm: RwLock<()>,
}

static BED: OnceCell<Option<Bed>> = OnceCell::const_new();

/// The bed, or `None` where there is no node.
pub(crate) async fn bed() -> Option<&'static Bed> {
    let bed = BED.get_or_init(|| async {
        let node = require::node().await?;
        if !require::images(node).await {
            return None;
        }
        let forge = require::gitea_in(node).await?;
        let installation = Installation::install(node).unwrap();
        Some(Bed { installation, forge, calm: RwLock::new(()) })
    });
    bed.await.as_ref()
}

/// Waits until the site is Ready at what was pushed first.
pub(crate) async fn started(site: &Site<'_>) {
    site.follow(&site.head().unwrap(), PATIENCE).await.unwrap();
}
