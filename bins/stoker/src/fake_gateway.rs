//! The fake gateway as a server.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use stoker_ignition::fake::{self, Behaviour, SWITCHES};

use crate::output::Misuse;

#[derive(Debug, clap::Args)]
pub(crate) struct FakeGateway {
    /// Where to listen for plain http
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Where to listen for https, with a self-signed certificate
    #[arg(long, value_name = "ADDR")]
    tls_listen: Option<SocketAddr>,
    /// The data directory to load
    #[arg(long, value_name = "DIR", required_unless_present = "list_switches")]
    data_dir: Option<PathBuf>,
    /// A file with the API key, name:secret, read at every request
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Stay STARTING until the data directory exists
    #[arg(long)]
    wait_for_data_dir: bool,
    /// A behaviour; repeat for more
    #[arg(long = "set", value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// List what --set takes
    #[arg(long)]
    list_switches: bool,
}

pub(crate) async fn run(args: FakeGateway) -> Result<u8> {
    if args.list_switches {
        let mut table = crate::output::table(&["NAME", "VALUES", "MEANING"]);
        for switch in SWITCHES {
            table.add_row([switch.name, switch.values, switch.meaning]);
        }
        println!("{table}");
        return Ok(0);
    }
    let mut behaviour = Behaviour::default();
    for switch in &args.set {
        behaviour.set(switch).map_err(|error| Misuse(format!("--set {switch}: {error}")))?;
    }
    let listen = match (args.listen, args.tls_listen) {
        (None, None) => Some(SocketAddr::from(([127, 0, 0, 1], 8088))),
        (listen, _) => listen,
    };
    let options = fake::Options {
        listen,
        tls_listen: args.tls_listen,
        data_dir: args.data_dir.unwrap_or_default(),
        api_key_file: args.api_key_file,
        wait_for_data_dir: args.wait_for_data_dir,
        behaviour,
    };
    fake::serve(options, |gateway| {
        if listen.is_some() {
            eprintln!("fake gateway at {}", gateway.url());
        }
        if args.tls_listen.is_some() {
            eprintln!("fake gateway at {}", gateway.https_url());
        }
    })
    .await?;
    Ok(0)
}
