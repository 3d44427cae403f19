//! What the kernel says about a process.

use std::time::Duration;

use anyhow::{Context, Result};

/// Memory of a process, from `/proc/PID/smaps_rollup` (proc(5)).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Memory {
    /// Resident, in MiB: what a memory limit of Kubernetes is close to.
    pub rss_mib: f64,
    /// The same with shared pages divided among those who share them, in MiB.
    pub pss_mib: f64,
    /// What was written to, and belongs to no file, in MiB: heap and stacks.
    pub anonymous_mib: f64,
}

/// CPU time of a process since it started.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Cpu {
    /// Of its own threads.
    pub own: Duration,
    /// Of its children that have ended.
    pub children: Duration,
}

/// Reads how much memory a process has now.
///
/// # Errors
///
/// There is no such process, or the kernel has no `smaps_rollup` (older than 4.14).
pub fn memory(pid: u32) -> Result<Memory> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    memory_of(&text).with_context(|| format!("{path} has another form"))
}

/// Reads how much CPU time a process has used so far, to the kernel's tick (10 ms).
///
/// # Errors
///
/// There is no such process.
pub fn cpu(pid: u32) -> Result<Cpu> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    cpu_of(&text, rustix::param::clock_ticks_per_second()).with_context(|| format!("{path} has another form"))
}

/// How many processes want to run at the same time, on average over a minute: above the number of cores, times say
/// little.
///
/// # Errors
///
/// `/proc` is not mounted.
pub fn load() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").context("reading /proc/loadavg")?;
    text.split(' ').next().and_then(|first| first.parse().ok()).context("/proc/loadavg has another form")
}

/// The CPU time of this process so far, in milliseconds.
pub fn own_cpu_ms() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1000.0 + time.tv_nsec as f64 / 1e6
}

/// The most memory that this process ever had, in MiB.
///
/// # Errors
///
/// `/proc` is not mounted.
pub fn peak_rss_mib() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status").context("reading /proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse().context("VmHWM is no number")?;
    Ok(kib / 1024.0)
}

fn memory_of(rollup: &str) -> Option<Memory> {
    let mib = |name: &str| {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib / 1024.0)
    };
    Some(Memory { rss_mib: mib("Rss")?, pss_mib: mib("Pss")?, anonymous_mib: mib("Anonymous")? })
}

fn cpu_of(stat: &str, ticks_per_second: u64) -> Option<Cpu> {
    // The second field is the name, which may hold spaces and parentheses.
    let fields: Vec<u64> =
        stat.rsplit_once(')')?.1.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
    let time = |first: usize| {
        let ticks = fields.get(first)? + fields.get(first + 1)?;
        Some(Duration::from_secs_f64(ticks as f64 / ticks_per_second as f64))
    };
    // utime is field 14 of stat, cutime field 16; two are cut off in front.
    Some(Cpu { own: time(11)?, children: time(13)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_writes_is_read() {
        let rollup = "55c0-7ffd ---p 00000000 00:00 0    [rollup]\nRss:               10240 kB\nPss:                2048 kB\nPss_Dirty:            12 kB\nAnonymous:          1024 kB\n";
        let memory = memory_of(rollup).unwrap();
        assert_eq!((memory.rss_mib, memory.pss_mib, memory.anonymous_mib), (10.0, 2.0, 1.0));

        let stat = "42 (a) b) S 1 42 42 0 -1 4194560 100 0 0 0 150 50 7 3 20 0 2 0 100 0 0";
        let cpu = cpu_of(stat, 100).unwrap();
        assert_eq!((cpu.own, cpu.children), (Duration::from_secs(2), Duration::from_millis(100)));
    }

    #[test]
    fn this_process_has_memory() {
        assert!(memory(std::process::id()).unwrap().rss_mib > 0.5);
        cpu(std::process::id()).unwrap();
    }
}
