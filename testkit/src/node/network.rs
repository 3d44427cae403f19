//! Addresses that nobody else on the machine uses, and the link between the host and a node.

use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::run;

/// A /22 of private addresses: the link, the pods, the Services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    number: u16,
}

/// Blocks lie in 10.192.0.0/12.
const BLOCKS: u16 = 1024;

impl Block {
    fn at(self, third: u8, last: u8) -> Ipv4Addr {
        let [high, low] = (self.number * 4).to_be_bytes();
        Ipv4Addr::new(10, 192 + high, low + third, last)
    }

    /// The host's end of the link.
    pub fn host(self) -> Ipv4Addr {
        self.at(0, 1)
    }

    /// The node's end of the link, its address in the cluster.
    pub fn node(self) -> Ipv4Addr {
        self.at(0, 2)
    }

    /// The range of the pods.
    pub fn pods(self) -> String {
        format!("{}/24", self.at(1, 0))
    }

    /// The range of the Services.
    pub fn services(self) -> String {
        format!("{}/24", self.at(2, 0))
    }

    /// The address of the Service `kubernetes`.
    pub fn first_service(self) -> Ipv4Addr {
        self.at(2, 1)
    }

    fn interface(self) -> String {
        format!("stoker{}", self.number)
    }

    fn overlaps(self, network: Ipv4Addr, length: u32) -> bool {
        let shortest = length.min(22);
        let mask = u32::MAX.checked_shl(32 - shortest).unwrap_or(0);
        u32::from(network) & mask == u32::from(self.at(0, 0)) & mask
    }
}

/// Takes a free block and links the namespace of `pid` with the host.
pub(super) fn connect(pid: u32) -> Result<Block> {
    let start = u16::try_from(pid % u32::from(BLOCKS))?;
    for offset in 0..BLOCKS {
        let block = Block { number: (start + offset) % BLOCKS };
        if is_routed(block)? || !claim(block, pid)? {
            continue;
        }
        configure(block, pid)?;
        return Ok(block);
    }
    bail!("every address block of 10.192.0.0/12 is taken");
}

/// Whether the machine uses a part of the block for something else.
fn is_routed(block: Block) -> Result<bool> {
    let routes = run(Command::new("ip").args(["-4", "route", "show", "table", "all"]))?;
    Ok(routes.lines().any(|line| {
        let destination = line
            .split_whitespace()
            .find(|word| {
                !["local", "broadcast", "unreachable", "blackhole", "throw", "prohibit"].contains(word)
            })
            .unwrap_or_default();
        let (network, length) = destination.split_once('/').unwrap_or((destination, "32"));
        match (network.parse(), length.parse()) {
            (Ok(network), Ok(length)) => block.overlaps(network, length),
            _ => false,
        }
    }))
}

/// Makes the link, whose name is that of the block: of two processes that try, one succeeds.
fn claim(block: Block, pid: u32) -> Result<bool> {
    let interface = block.interface();
    let output = Command::new("ip")
        .args(["link", "add", &interface, "type", "veth", "peer", "name", "eth0", "netns", &pid.to_string()])
        .output()
        .context("running ip")?;
    let error = String::from_utf8_lossy(&output.stderr);
    match output.status.success() {
        true => Ok(true),
        false if error.contains("File exists") => Ok(false),
        false => bail!("linking the node's network: {}", error.trim()),
    }
}

fn configure(block: Block, pid: u32) -> Result<()> {
    let interface = block.interface();
    let (host, node) = (block.host().to_string(), block.node().to_string());
    run(Command::new("ip").args(["addr", "add", &format!("{host}/24"), "dev", &interface]))?;
    run(Command::new("ip").args(["link", "set", &interface, "up"]))?;
    let inside = format!(
        "set -e
         ip link set lo up
         ip addr add {node}/24 dev eth0
         ip link set eth0 up
         # Services have addresses that no interface has: any route will do, for kube-proxy rewrites them.
         ip route add {services} dev eth0 src {node}
         echo 1 > /proc/sys/net/ipv4/ip_forward",
        services = block.services(),
    );
    run(crate::place::Place::Inside(pid).command("sh").args(["-c", &inside]))?;
    for range in [block.pods(), block.services()] {
        run(Command::new("ip").args(["route", "add", &range, "via", &node, "dev", &interface]))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_do_not_overlap_and_stay_within_their_range() {
        for number in 0..BLOCKS {
            let block = Block { number };
            assert!(block.overlaps(Ipv4Addr::new(10, 192, 0, 0), 12));
            assert!(block.overlaps(block.node(), 32) && block.overlaps(block.first_service(), 32));
            let next = Block { number: (number + 1) % BLOCKS };
            assert!(!block.overlaps(next.host(), 32), "{number}");
        }
    }

    #[test]
    fn a_wider_route_over_the_block_is_an_overlap_and_a_default_route_is_none_of_it() {
        let block = Block { number: 7 };
        assert!(block.overlaps(Ipv4Addr::new(10, 0, 0, 0), 8));
        assert!(!block.overlaps(Ipv4Addr::new(172, 17, 0, 0), 16));
    }
}
