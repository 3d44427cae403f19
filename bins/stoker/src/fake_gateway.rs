//! The fake gateway as a server.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;

/// Serve a data directory as an Ignition gateway would.
#[derive(Debug, clap::Args)]
pub(crate) struct FakeGateway {
    /// Where to listen
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8088")]
    pub(crate) listen: SocketAddr,
    /// The data directory
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// A file with the API key, name:secret
    #[arg(long, value_name = "FILE")]
    pub(crate) api_key_file: PathBuf,
}

pub(crate) async fn run(_args: FakeGateway) -> Result<u8> {
    Ok(0)
}
