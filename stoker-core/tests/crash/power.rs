//! Power cuts: the write-side calls of a transaction are recorded, and every state that a disk may then be in is tried.
//!
//! The model of a file system is a harsh one. Until a sync says otherwise, any operation on names may be lost and others
//! kept, as long as operations on the same name of the same directory keep their order and nothing happens in a directory
//! that was never made; `fsync` of a file keeps its content, not its name; content that was not synced is whole, half
//! there or gone. `rename` is atomic.

use std::collections::{BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::check::{Ends, copy, violations};
use crate::kill::{Job, Tally, child, this};
use crate::model::{Disk, Node, Op, ROOT};
use crate::scenario::Scenario;

/// Tries the states of the disk, at most `limit` of them.
pub(crate) fn prove(scenario: &Scenario, ends: &Ends, seed: &Path, scratch: &Path, limit: usize) -> Tally {
    let data = scratch.join("recorded");
    copy(seed, &data);
    let start = Disk::load(&data);
    let ops = record(scenario, &data, start.clone());
    std::fs::remove_dir_all(&data).unwrap();
    let states = states(&start, &ops, limit);
    let (next, tally) = (AtomicUsize::new(0), Mutex::new(Tally { points: states.len(), ..Tally::default() }));
    std::thread::scope(|scope| {
        for worker in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            let (next, tally, states) = (&next, &tally, &states);
            scope.spawn(move || {
                let root = scratch.join(format!("power{worker}"));
                while let Some((disk, what)) = states.get(next.fetch_add(1, Ordering::Relaxed)) {
                    disk.store(ROOT, &root);
                    let wrong = violations(scenario, ends, &root, false);
                    let named = wrong.iter().map(|w| format!("{}, power cut {what}: {w}", scenario.name));
                    tally.lock().unwrap().violations.extend(named);
                    std::fs::remove_dir_all(&root).unwrap();
                }
            });
        }
    });
    tally.into_inner().unwrap()
}

/// The states that the disk may be in after each operation, without repetition.
fn states(start: &Disk, ops: &[Op], limit: usize) -> Vec<(Disk, String)> {
    let needs: Vec<Vec<usize>> = (0..ops.len()).map(|n| needs(ops, n)).collect();
    let (mut all, mut seen) = (Vec::new(), HashSet::new());
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let each = (limit / (ops.len() + 1)).max(4);
    for cut in 0..=ops.len() {
        let durable = durable(ops, &needs, cut);
        let open: Vec<usize> =
            (0..cut).filter(|n| !durable.contains(n) && !ops[*n].names().is_empty()).collect();
        // All subsets where they are few, else a sample that has all and none of them in it.
        let few = open.len() < 8;
        let tries = if few { 1 << open.len() } else { 1 << 8 };
        let mut taken = 0;
        for number in 0..tries {
            let mut chosen: BTreeSet<usize> = durable.clone();
            for (bit, n) in open.iter().enumerate() {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let keep = match number {
                    0 => true,
                    1 if !few => false,
                    _ if few => number & (1 << bit) != 0,
                    _ => random & 1 == 0,
                };
                if keep && needs[*n].iter().all(|need| chosen.contains(need)) {
                    chosen.insert(*n);
                }
            }
            for content in [Content::Whole, Content::Half, Content::Gone] {
                let disk = replay(start, ops, cut, &chosen, content);
                let mut hasher = DefaultHasher::new();
                disk.reachable().hash(&mut hasher);
                if seen.insert(hasher.finish()) {
                    all.push((
                        disk,
                        format!("after call {cut} of {}, {content:?}, kept {chosen:?}", ops.len()),
                    ));
                    taken += 1;
                }
            }
            if taken >= each {
                break;
            }
        }
    }
    all
}

#[derive(Clone, Copy, Debug)]
enum Content {
    Whole,
    Half,
    Gone,
}

/// Earlier operations without which this one cannot have happened.
fn needs(ops: &[Op], n: usize) -> Vec<usize> {
    let names = ops[n].names();
    let emptied = match &ops[n] {
        Op::Unlink { was, .. } => Some(*was),
        _ => None,
    };
    (0..n)
        .filter(|earlier| {
            let other = ops[*earlier].names();
            let same_name = other.iter().any(|name| names.contains(name));
            let made = ops[*earlier].makes().is_some_and(|inode| names.iter().any(|(dir, _)| *dir == inode));
            // A directory is removed after everything in it.
            let inside = emptied.is_some_and(|dir| other.iter().any(|(at, _)| *at == dir));
            same_name || made || inside
        })
        .collect()
}

/// What is on the disk for certain after the first `cut` operations.
fn durable(ops: &[Op], needs: &[Vec<usize>], cut: usize) -> BTreeSet<usize> {
    let mut durable = BTreeSet::new();
    let mut pending: Vec<usize> = Vec::new();
    for (n, op) in ops[..cut].iter().enumerate() {
        match op {
            Op::SyncAll => pending.extend(0..n),
            Op::SyncDirectory { dir } => {
                pending.extend((0..n).filter(|m| ops[*m].names().iter().any(|(at, _)| at == dir)));
            }
            _ => {}
        }
        while let Some(m) = pending.pop() {
            if durable.insert(m) {
                pending.extend(&needs[m]);
            }
        }
    }
    durable
}

fn replay(start: &Disk, ops: &[Op], cut: usize, chosen: &BTreeSet<usize>, content: Content) -> Disk {
    let mut disk = start.clone();
    for op in &ops[..cut] {
        // A file exists before its name does.
        if let Op::Create { inode, mode, .. } = op {
            disk.nodes.insert(*inode, Node::File { bytes: Vec::new(), mode: *mode });
        }
    }
    for (n, op) in ops[..cut].iter().enumerate() {
        if let Some(inode) = op.content_of() {
            let synced = ops[n..cut].iter().any(|later| match later {
                Op::SyncFile { inode: file } => *file == inode,
                Op::SyncAll => true,
                _ => false,
            });
            match (op, synced, content) {
                (Op::Write { .. }, false, Content::Gone) => {}
                (Op::Write { bytes, .. }, false, Content::Half) => {
                    disk.apply(&Op::Write { inode, bytes: bytes[..bytes.len() / 2].to_vec() });
                }
                _ => disk.apply(op),
            }
        } else if op.names().is_empty() || chosen.contains(&n) {
            disk.apply(op);
        }
    }
    disk
}

impl Disk {
    /// The tree as it can be seen from the root.
    fn reachable(&self) -> Vec<(String, Option<Node>)> {
        fn walk(disk: &Disk, at: usize, path: &str, all: &mut Vec<(String, Option<Node>)>) {
            match &disk.nodes[&at] {
                Node::Directory(names) => {
                    all.push((path.to_owned(), None));
                    names.iter().for_each(|(name, inode)| walk(disk, *inode, &format!("{path}/{name}"), all));
                }
                node => all.push((path.to_owned(), Some(node.clone()))),
            }
        }
        let mut all = Vec::new();
        walk(self, ROOT, "", &mut all);
        all
    }
}

/// Runs the transaction once under strace and turns what it did into operations.
fn record(scenario: &Scenario, data: &Path, mut disk: Disk) -> Vec<Op> {
    let log = data.with_extension("log");
    let mut command = child(scenario, Job { recover: false, exchange: true }, data);
    let status =
        command.args(["-y", "-s", "10000000", "-o"]).arg(&log).arg(this()).stdout(Stdio::null()).status();
    assert!(status.unwrap().success());
    let text = std::fs::read_to_string(&log).unwrap();
    std::fs::remove_file(log).unwrap();
    let root = data.canonicalize().unwrap().to_str().unwrap().to_owned();
    let mut ops = Vec::new();
    for line in text.lines() {
        if let Some(op) = operation(line, &root, &mut disk) {
            disk.apply(&op);
            ops.push(op);
        }
    }
    assert!(!ops.is_empty());
    ops
}

fn operation(line: &str, root: &str, disk: &mut Disk) -> Option<Op> {
    let (name, rest) = line.split_once('(')?;
    let (arguments, result) = rest.rsplit_once(" = ")?;
    if result.trim_start().starts_with('-') {
        return None;
    }
    let arguments = split(arguments.trim_end().strip_suffix(')')?);
    let inode = |disk: &mut Disk, text: &str| {
        // `4</path/of/descriptor>`
        let path = text.split_once('<')?.1.strip_suffix('>')?;
        disk.find(path.strip_prefix(root)?)
    };
    let mut fresh = disk.nodes.keys().last().map_or(1, |n| n + 1);
    // A node whose creation is recorded must not take a number that another one had.
    fresh = fresh.max(1);
    let at = |disk: &mut Disk, n: usize| {
        let (mut dir, mut name) = (inode(disk, arguments.get(n)?)?, unquote(arguments.get(n + 1)?));
        while let Some((above, rest)) = name.split_once('/') {
            dir = *disk.names(dir).get(above)?;
            name = rest.to_owned();
        }
        Some((dir, name))
    };
    match name {
        "openat" => {
            let flags = arguments.get(2)?;
            if !flags.contains("O_CREAT") && !flags.contains("O_TRUNC") {
                return None;
            }
            let (dir, name) = at(disk, 0)?;
            match disk.names(dir).get(&name).copied() {
                Some(inode) => flags.contains("O_TRUNC").then_some(Op::Truncate { inode }),
                None => {
                    // The tests run with the usual umask.
                    let mode = u32::from_str_radix(arguments.get(3)?, 8).ok()? & !0o022;
                    Some(Op::Create { dir, name, inode: fresh, mode })
                }
            }
        }
        "mkdirat" => {
            let (dir, name) = at(disk, 0)?;
            Some(Op::MakeDirectory { dir, name, inode: fresh })
        }
        "symlinkat" => {
            let (dir, name) = at(disk, 1)?;
            Some(Op::Symlink { dir, name, inode: fresh, target: unquote(arguments.first()?) })
        }
        "linkat" => Some(Op::Link { from: at(disk, 0)?, to: at(disk, 2)? }),
        "renameat" | "renameat2" => {
            let exchange = arguments.get(4).is_some_and(|flags| flags.contains("EXCHANGE"));
            Some(Op::Rename { from: at(disk, 0)?, to: at(disk, 2)?, exchange })
        }
        "unlinkat" => {
            let (dir, name) = at(disk, 0)?;
            let was = *disk.names(dir).get(&name)?;
            Some(Op::Unlink { dir, name, was })
        }
        "write" => Some(Op::Write { inode: inode(disk, &arguments[0])?, bytes: unescape(&arguments[1]) }),
        "copy_file_range" => {
            let (from, to) = (inode(disk, &arguments[0])?, inode(disk, &arguments[2])?);
            let count: usize = result.trim().parse().ok()?;
            match (&disk.nodes[&from], &disk.nodes[&to]) {
                (Node::File { bytes, .. }, Node::File { bytes: there, .. }) => {
                    let bytes = bytes[there.len()..there.len() + count].to_vec();
                    Some(Op::Write { inode: to, bytes })
                }
                _ => None,
            }
        }
        "fchmod" => {
            let mode = u32::from_str_radix(arguments.get(1)?, 8).ok()?;
            Some(Op::Mode { inode: inode(disk, &arguments[0])?, mode })
        }
        "fsync" | "fdatasync" => {
            let inode = inode(disk, &arguments[0])?;
            Some(match disk.nodes[&inode] {
                Node::Directory(_) => Op::SyncDirectory { dir: inode },
                _ => Op::SyncFile { inode },
            })
        }
        "syncfs" => Some(Op::SyncAll),
        "fchownat" => None,
        other => panic!("{other} is not known to the model: {line}"),
    }
}

/// Splits the arguments of a call at the commas outside of strings and descriptors.
fn split(text: &str) -> Vec<String> {
    let (mut parts, mut part, mut quoted, mut escaped) = (Vec::new(), String::new(), false, false);
    for c in text.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ',' if !quoted => {
                parts.push(std::mem::take(&mut part).trim().to_owned());
                continue;
            }
            _ => {}
        }
        part.push(c);
    }
    parts.push(part.trim().to_owned());
    parts
}

fn unquote(text: &str) -> String {
    String::from_utf8(unescape(text)).unwrap()
}

/// The bytes of a string as strace prints it.
fn unescape(text: &str) -> Vec<u8> {
    let inner = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(text).as_bytes();
    let (mut bytes, mut at) = (Vec::new(), 0);
    while at < inner.len() {
        if inner[at] != b'\\' {
            bytes.push(inner[at]);
            at += 1;
            continue;
        }
        at += 1;
        let simple = match inner[at] {
            b'n' => Some(b'\n'),
            b't' => Some(b'\t'),
            b'r' => Some(b'\r'),
            b'v' => Some(0x0b),
            b'f' => Some(0x0c),
            c @ (b'"' | b'\\') => Some(c),
            _ => None,
        };
        if let Some(byte) = simple {
            bytes.push(byte);
            at += 1;
            continue;
        }
        let digits = inner[at..].iter().take(3).take_while(|c| (b'0'..=b'7').contains(c)).count();
        assert!(digits > 0, "an escape that is not known: {text}");
        let value = inner[at..at + digits].iter().fold(0u32, |n, c| n * 8 + u32::from(c - b'0'));
        bytes.push(u8::try_from(value).unwrap());
        at += digits;
    }
    bytes
}
