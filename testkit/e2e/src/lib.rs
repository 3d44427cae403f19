//! The whole product on a real node: chart, forge, gateways, pushes. `cargo xtask tour` prints it, the end-to-end tests
//! assert on it.
//!
//! ```text
//!  Installation            Site: one namespace
//!  helm release ◀──────── Stoker, Secrets, StatefulSets of gateways (Role), their volumes on this machine
//!       ▲                                │
//!       └──── webhook of the repository ─┴─ Forge (Gitea in the node's network) ◀── the developer's clone
//! ```

mod gateways;
mod installation;
mod site;
mod timeline;

pub use gateways::{GATEWAY_USER, Role};
pub use installation::Installation;
pub use site::{API_KEY, Blueprint, HOOK_SECRET, Pushed, Site};
pub use timeline::Timeline;

/// Name of the `Stoker` that [`Blueprint::walking`] makes.
pub const CR: &str = "my-sync";
/// Where its gateways' service lives in the repository.
pub const SERVICE: &str = "services/gateway";
/// A view of that service, below the data directory.
pub const VIEW: &str = "projects/line/com.inductiveautomation.perspective/views/overview/main/view.json";

/// A small view with a label of this text, as the content of [`VIEW`].
#[must_use]
pub fn view(text: &str) -> String {
    format!(
        "{{\n  \"custom\": {{}},\n  \"root\": {{\n    \"props\": {{\n      \"text\": \"{text}\"\n    }}\n  }}\n}}"
    )
}
