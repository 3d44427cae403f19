//! The ConfigMaps between controller and agents, version 1, as types.
//!
//! ```text
//! controller ──▶ stoker-metadata-<cr>        what every agent of <cr> is told to run   ([`Metadata`])
//! agent      ──▶ stoker-status-<cr>-<pod>    what one agent says about itself          ([`AgentReport`])
//! ```
//!
//! An agent acts on exactly [`Metadata::commit`]. Keys that a reader does not know are left alone, so that two
//! neighbouring versions understand each other; another [`PROTOCOL`] number is refused.

mod metadata;
mod report;

pub use metadata::{
    AppInstallation, Approval, AuthType, Hold, Metadata, ProxyAddress, Rollout, StartupPolicy, Trust,
};
pub use report::{AgentReport, AgentStatus, ChangeLine, DiffReport, MAX_REPORT_BYTES};
use stoker_core::{Category, Fault, Retry};

/// The version of the protocol.
pub const PROTOCOL: u32 = 1;

/// Why the content of a ConfigMap cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// A key is not there.
    #[error("configmap key {0} is missing")]
    Missing(&'static str),
    /// A value is not what its key promises.
    #[error("configmap key {key} has the unusable value {value:?}")]
    Value {
        /// The key.
        key: &'static str,
        /// The value, cut.
        value: String,
    },
    /// A value is not the JSON that its key promises.
    #[error("configmap key {key} does not hold what it should")]
    Json {
        /// The key.
        key: &'static str,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// Another version of the protocol.
    #[error(
        "configmap speaks protocol {found}, this version of stoker speaks {PROTOCOL}: controller and agent are too far apart"
    )]
    Version {
        /// The number found.
        found: String,
    },
}

impl Fault for ProtocolError {
    fn category(&self) -> Category {
        Category::new(match self {
            Self::Version { .. } => "ProtocolVersion",
            _ => "ProtocolError",
        })
    }

    fn retry(&self) -> Retry {
        Retry::AfterChange
    }
}
