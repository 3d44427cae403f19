//! Where a process runs: beside the tests, or in a node's namespaces.

use std::ffi::OsStr;
use std::process::Command;

/// A set of namespaces, named by a process that lives in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Where the tests run.
    Here,
    /// In the network of this process; files and process ids as the tests see them.
    Network(u32),
    /// In the network, the mounts and the process ids of this process.
    Inside(u32),
}

impl Place {
    /// A command that will run there.
    pub fn command(self, program: impl AsRef<OsStr>) -> Command {
        let mut command;
        match self {
            Self::Here => return Command::new(program),
            Self::Network(pid) => {
                command = Command::new("nsenter");
                command.arg(format!("--net=/proc/{pid}/ns/net"));
            }
            Self::Inside(pid) => {
                command = Command::new("nsenter");
                command.args(["--target", &pid.to_string(), "--net", "--mount", "--pid"]);
            }
        }
        command.arg("--").arg(program);
        command
    }
}
