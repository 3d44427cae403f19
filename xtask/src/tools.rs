//! `cargo xtask tools`

use anyhow::{Result, bail};
use clap::Args;
use stoker_testkit::tools::{self, DEBIAN_PACKAGES, Origin, Tool};

/// Obtain the real parts that tests run on: builds what is missing and prints where everything is
#[derive(Debug, Args)]
pub(crate) struct Tools {
    /// Programs (kubectl, helm, kwok, ...) or modules (kubernetes, cni, ...); all that the tests use if none is named
    #[arg(value_name = "PART")]
    parts: Vec<String>,

    /// Print the Debian packages that the tests need, for `apt-get install $(cargo xtask tools --apt)`
    #[arg(long, conflicts_with = "parts")]
    apt: bool,
}

impl Tools {
    pub(crate) fn run(self) -> Result<()> {
        if self.apt {
            let names: Vec<_> = DEBIAN_PACKAGES.iter().map(|package| package.name).collect();
            println!("{}", names.join(" "));
            return Ok(());
        }
        for ready in tools::obtain_all(&self.wanted()?)? {
            let origin = match ready.origin {
                Origin::Environment => "environment".to_owned(),
                Origin::Cache => "cache".to_owned(),
                Origin::Built(took) => format!("built in {:.0} s", took.as_secs_f64()),
            };
            println!("{:<26} {:<16} {}", ready.tool.name(), origin, ready.path.display());
        }
        for package in DEBIAN_PACKAGES {
            match tools::program(package.program) {
                Some(path) => println!("{:<26} {:<16} {}", package.program, "system", path.display()),
                None => println!(
                    "{:<26} {:<16} apt-get install {} ({})",
                    package.program, "MISSING", package.name, package.purpose
                ),
            }
        }
        Ok(())
    }

    fn wanted(&self) -> Result<Vec<Tool>> {
        if self.parts.is_empty() {
            return Ok(Tool::DEFAULT.to_vec());
        }
        let mut wanted = Vec::new();
        for part in &self.parts {
            let tools = Tool::named(part);
            if tools.is_empty() {
                let known: Vec<_> =
                    Tool::DEFAULT.iter().chain(Tool::ON_REQUEST).map(|tool| tool.name()).collect();
                bail!("there is no part `{part}`; known are {}", known.join(", "));
            }
            wanted.extend(tools);
        }
        Ok(wanted)
    }
}
