//! How much time, memory and disk a repository may cost.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Bounds on one use of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Limits {
    /// How long asking for the references may take, all in all. Default 30 s.
    pub resolve_deadline: Duration,
    /// How long a fetch may take, all in all. Default 5 min.
    pub fetch_deadline: Duration,
    /// How long a push may take, all in all. Default 2 min.
    pub push_deadline: Duration,
    /// How long connecting may take. Default 10 s.
    pub connect_timeout: Duration,
    /// How long a connection may be silent, or take for one packet of the protocol while less than a kilobyte of it comes.
    /// Default 20 s.
    pub stall_timeout: Duration,
    /// How many bytes one fetch may transfer. Default 2 GiB.
    pub max_transfer_bytes: u64,
    /// How many bytes the contents of one push may have, all together; they are held in memory. Default 128 MiB.
    pub max_push_bytes: u64,
    /// The address space of the child process, in bytes. Default 1 GiB; 0 for no bound.
    pub child_memory_bytes: u64,
    /// The largest file that is handed out, in bytes; git holds a file in memory as a whole. Default 256 MiB.
    pub max_blob_bytes: u64,
    /// After how many packs the cache folds them into two. Default 32.
    pub max_packs: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            resolve_deadline: Duration::from_secs(30),
            fetch_deadline: Duration::from_secs(300),
            push_deadline: Duration::from_secs(120),
            connect_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(20),
            max_transfer_bytes: 2 << 30,
            max_push_bytes: 128 << 20,
            child_memory_bytes: 1 << 30,
            max_blob_bytes: 256 << 20,
            max_packs: 32,
        }
    }
}
