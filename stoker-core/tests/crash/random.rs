//! Random commits, random edits by somebody else, random ways back, random deaths of the process, against the reference.
//!
//! `STOKER_MODEL_SEED` repeats a run, `STOKER_MODEL_STEPS` makes it longer (default 100,000 steps over all workers).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use stoker_core::{Engine, Mapping, MaxDeletes, NoObserver, PlanOptions, Policy, Prune, SyncSpec};

use crate::check::directories;
use crate::reference::{Done, Files, Reference};
use crate::world::{Tree, files};

/// A small generator of numbers, the same everywhere.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

const PATHS: [&str; 12] =
    ["a", "b", "d", "d/a", "d/b", "d/e/a", "d/e/f/a", "s", "s/a", "s/t/b", "logs/x", "z"];
const EDITED: [&str; 12] =
    ["a", "d", "d/a", "d/theirs", "d/e", "d/e/a", "s", "s/a", "s/theirs", "logs/x", "theirs", "z/in"];

/// Runs one world for a number of steps; says what went wrong first.
pub(crate) fn run(seed: u64, steps: usize, root: &Path) -> Result<Numbers, String> {
    let mut world = World {
        dice: Dice::new(seed),
        root: root.join("data"),
        commit: root.join("commit.json"),
        known: Reference {
            live: Files::new(),
            owned: Files::new(),
            directories: BTreeSet::new(),
            policy: Policy::SourceWins,
            prune: Prune::Owned,
        },
        desired: Files::new(),
        past: Vec::new(),
        revision: 0,
        numbers: Numbers::default(),
    };
    std::fs::create_dir_all(&world.root).unwrap();
    for step in 0..steps {
        world.step().map_err(|wrong| format!("seed {seed}, step {step}: {wrong}"))?;
    }
    std::fs::remove_dir_all(root).unwrap();
    Ok(world.numbers)
}

#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Numbers {
    pub(crate) syncs: usize,
    pub(crate) rollbacks: usize,
    pub(crate) refused: usize,
    pub(crate) deaths: usize,
}

struct World {
    dice: Dice,
    root: PathBuf,
    commit: PathBuf,
    known: Reference,
    desired: Files,
    /// The transactions so far, oldest first.
    past: Vec<Done>,
    revision: u64,
    numbers: Numbers,
}

impl World {
    fn step(&mut self) -> Result<(), String> {
        match self.dice.below(100) {
            0..50 => self.edit(),
            50..65 => self.commit(),
            65..94 => self.sync()?,
            94..97 => self.roll_back()?,
            97 => {
                self.known.policy =
                    self.dice.one(&[Policy::SourceWins, Policy::DestinationWins, Policy::Manual]);
                self.known.prune = self.dice.one(&[Prune::Owned, Prune::Owned, Prune::Mirror, Prune::Never]);
            }
            _ => self.die()?,
        }
        Ok(())
    }

    /// Somebody else writes or deletes a file.
    fn edit(&mut self) {
        self.known.directories = directories(&self.root);
        let path = self.dice.one(&EDITED);
        let on_disk = self.root.join(path);
        if self.known.live.contains_key(path) && self.dice.below(3) == 0 {
            std::fs::remove_file(on_disk).unwrap();
            self.known.live.remove(path);
        } else if self.known.has_room_for(path) {
            // At times what a commit has, too.
            let content = if self.dice.below(4) == 0 {
                format!("c{}", self.dice.below(3))
            } else {
                format!("g{}", self.dice.below(1 << 30))
            };
            std::fs::create_dir_all(on_disk.parent().unwrap()).unwrap();
            std::fs::write(on_disk, &content).unwrap();
            self.known.live.insert(path.to_owned(), content);
        }
    }

    /// The source moves on, now and then to something quite different.
    fn commit(&mut self) {
        if self.dice.below(8) == 0 {
            self.desired.clear();
        }
        for _ in 0..=self.dice.below(3) {
            let path = self.dice.one(&PATHS);
            if self.dice.below(3) == 0 {
                self.desired.remove(path);
                continue;
            }
            // A commit cannot hold a file and something below it.
            self.desired.retain(|other, _| {
                !other.starts_with(&format!("{path}/")) && !path.starts_with(&format!("{other}/"))
            });
            self.desired.insert(path.to_owned(), format!("c{}", self.dice.below(3)));
        }
    }

    fn sync(&mut self) -> Result<(), String> {
        self.numbers.syncs += 1;
        self.revision += 1;
        self.known.directories = directories(&self.root);
        let next = self.known.synced(&self.desired);
        let done = sync(&self.root, &self.desired, &self.revision.to_string(), &self.known);
        match (done, next) {
            (Ok(transaction), Some(next)) => self.done(next, transaction)?,
            (Err(error), None) if error.contains("is wanted as a") => self.numbers.refused += 1,
            (done, next) => return Err(format!("{done:?}, expected {next:?}, was {:?}", self.known)),
        }
        self.agrees()
    }

    /// What was expected is there.
    fn done(&mut self, next: Reference, transaction: Option<u64>) -> Result<(), String> {
        self.lost_nothing(&next, transaction)?;
        let before = std::mem::replace(&mut self.known, next);
        if let Some(number) = transaction {
            self.past.push(Done { number, before, after: self.known.clone() });
        }
        Ok(())
    }

    /// The transactions that a way back of random length undoes, oldest first.
    fn way_back(&mut self) -> Vec<Done> {
        // The history keeps ten.
        let from = self.past.len().saturating_sub(1 + self.dice.below(4));
        self.past[from..].to_vec()
    }

    fn roll_back(&mut self) -> Result<(), String> {
        let undone = self.way_back();
        let Some(target) = undone.first().map(|done| done.number) else { return Ok(()) };
        self.numbers.rollbacks += 1;
        let next = self.known.rolled_back(&undone);
        match (roll_back(&self.root, target), next) {
            (Ok(transaction), Some(next)) => self.done(next, Some(transaction))?,
            (Err(_), None) => self.numbers.refused += 1,
            (done, next) => {
                return Err(format!(
                    "back over {undone:?}: {done:?}, expected {next:?}, was {:?}",
                    self.known
                ));
            }
        }
        self.agrees()
    }

    /// A sync or a way back whose process dies somewhere; then a restart.
    fn die(&mut self) -> Result<(), String> {
        self.numbers.deaths += 1;
        self.revision += 1;
        self.known.directories = directories(&self.root);
        let undone = if self.dice.below(3) == 0 { self.way_back() } else { Vec::new() };
        let target = undone.first().map(|done| done.number);
        let next = match target {
            Some(_) => self.known.rolled_back(&undone),
            None => self.known.synced(&self.desired),
        };
        let next = next.unwrap_or_else(|| self.known.clone());
        let live = |engine: &Engine| engine.head().unwrap().map_or(0, |head| head.transaction);
        let before = live(&Engine::open(&self.root).unwrap());
        let job = Job {
            desired: self.desired.clone(),
            revision: self.revision.to_string(),
            policy: self.known.policy,
            prune: self.known.prune,
            target,
        };
        std::fs::write(&self.commit, serde_json::to_vec(&job).unwrap()).unwrap();
        let call = self.dice.one(&[
            "renameat2",
            "renameat2",
            "renameat",
            "unlinkat",
            "fsync",
            "write",
            "mkdirat",
            "syncfs",
        ]);
        let nth = 1 + self.dice.below(if call == "renameat2" { 10 } else { 4 });
        let _ = Command::new("strace")
            .args(["-qq", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e"])
            .arg(format!("inject={call}:signal=KILL:when={nth}"))
            .arg(std::env::current_exe().unwrap())
            .env("STOKER_CRASH_JOB", "commit")
            .env("STOKER_CRASH_CHILD", &self.commit)
            .env("STOKER_CRASH_DATA", &self.root)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        let engine = Engine::open(&self.root).unwrap();
        engine.begin(false).map_err(|e| stoker_core::chain(&e))?;
        let now = live(&engine);
        if target.is_some() {
            if now > before {
                self.done(next, Some(now))?;
            }
            return self.agrees();
        }
        let head = engine.head().unwrap();
        if head.is_some_and(|head| head.revision == self.revision.to_string()) {
            self.done(next, Some(now).filter(|now| *now > before))?;
        } else if next.live == self.known.live {
            // Nothing was to be written, only to be noted: how much of the note is there shows in no file. The next
            // sync completes it.
            return self.sync();
        } else if files(&self.root) == next.live {
            // Live, but a power cut or death took the note of it, which the next sync writes again.
            self.known.live = next.live;
            self.past.clear();
        }
        self.agrees()
    }

    fn agrees(&self) -> Result<(), String> {
        let found = files(&self.root);
        if found != self.known.live {
            return Err(format!("found {found:?}, expected {:?}", self.known));
        }
        let owned = Engine::open(&self.root).unwrap().owned().unwrap();
        if !owned.iter().map(|path| path.as_str()).eq(self.known.owned.keys()) {
            return Err(format!("owned is {owned:?}, expected {:?}", self.known));
        }
        Ok(())
    }

    /// P4, while the transaction is kept.
    fn lost_nothing(&self, next: &Reference, transaction: Option<u64>) -> Result<(), String> {
        for content in self.known.lost(next).into_iter().filter(|c| c.starts_with('g')) {
            let Some(number) = transaction else {
                return Err(format!("{content} is lost without a transaction"));
            };
            let kept = self.root.join(format!(".stoker/history/{number}"));
            let mut kept = std::fs::read_dir(kept).unwrap().map(|e| std::fs::read(e.unwrap().path()));
            if !kept.any(|c| c.is_ok_and(|c| c == content.as_bytes())) {
                return Err(format!("{content} is not in the history of transaction {number}"));
            }
        }
        Ok(())
    }
}

/// One sync, in this process.
fn sync(root: &Path, desired: &Files, revision: &str, rules: &Reference) -> Result<Option<u64>, String> {
    perform(root, desired, revision, rules.policy, rules.prune)
}

pub(crate) fn perform(
    root: &Path,
    desired: &Files,
    revision: &str,
    policy: Policy,
    prune: Prune,
) -> Result<Option<u64>, String> {
    let tree = Tree(desired.iter().map(|(p, c)| (p.clone(), c.clone().into_bytes())).collect());
    let everything = Mapping { source: ".".into(), destination: ".".into(), ..Mapping::default() };
    let spec = SyncSpec {
        mappings: vec![everything],
        excludes: vec!["logs/".into()],
        max_deletes: MaxDeletes { count: 1000, percent: 100 },
        policy,
        prune,
        ..SyncSpec::default()
    };
    let options = PlanOptions { check_drift: true, ..PlanOptions::default() };
    let run = || -> Result<Option<u64>, Box<dyn std::error::Error>> {
        let engine = Engine::open(root)?;
        let session = engine.begin(true)?;
        let plan = session.plan(&tree, revision, &spec, &options)?;
        Ok(session.apply(plan, &tree, &spec, &mut NoObserver)?.transaction)
    };
    run().map_err(|e| stoker_core::chain(e.as_ref()))
}

fn roll_back(root: &Path, target: u64) -> Result<u64, String> {
    let run = || -> Result<u64, Box<dyn std::error::Error>> {
        Ok(Engine::open(root)?.begin(true)?.rollback(Some(target))?.transaction)
    };
    run().map_err(|e| stoker_core::chain(e.as_ref()))
}

/// What a child does before it dies: a sync, or the way back to before a transaction.
#[derive(serde::Serialize, serde::Deserialize)]
struct Job {
    desired: Files,
    revision: String,
    policy: Policy,
    prune: Prune,
    target: Option<u64>,
}

/// What the child of [`World::die`] runs.
pub(crate) fn child(commit: &Path, root: &Path) {
    let job: Job = serde_json::from_slice(&std::fs::read(commit).unwrap()).unwrap();
    let _ = match job.target {
        Some(target) => roll_back(root, target).map(Some),
        None => perform(root, &job.desired, &job.revision, job.policy, job.prune),
    };
}

/// Runs worlds side by side until enough steps are taken.
pub(crate) fn prove(scratch: &Path) -> (usize, Vec<String>) {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let steps = number("STOKER_MODEL_STEPS").unwrap_or(100_000) as usize;
    let seed = number("STOKER_MODEL_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        now.as_millis() as u64 % 1_000_000
    });
    // Worlds of limited age: a young one has other states than an old one.
    let (worlds, age) = (steps.div_ceil(1000), 1000);
    let next = std::sync::atomic::AtomicUsize::new(0);
    let results = std::sync::Mutex::new((Numbers::default(), Vec::new()));
    let began = std::time::Instant::now();
    std::thread::scope(|scope| {
        for worker in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            let (next, results) = (&next, &results);
            scope.spawn(move || {
                loop {
                    let world = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if world >= worlds {
                        break;
                    }
                    let root = scratch.join(format!("model{worker}"));
                    let _ = std::fs::remove_dir_all(&root);
                    let result = run(seed + world as u64, age, &root);
                    let (all, wrong) = &mut *results.lock().unwrap();
                    match result {
                        Ok(numbers) => {
                            all.syncs += numbers.syncs;
                            all.rollbacks += numbers.rollbacks;
                            all.refused += numbers.refused;
                            all.deaths += numbers.deaths;
                        }
                        Err(error) => wrong.push(error),
                    }
                }
            });
        }
    });
    let (all, wrong) = results.into_inner().unwrap();
    println!(
        "model: seed {seed}, {} steps, {} syncs, {} rollbacks, {} refused, {} deaths, {} violations, {:.1} s",
        worlds * age,
        all.syncs,
        all.rollbacks,
        all.refused,
        all.deaths,
        wrong.len(),
        began.elapsed().as_secs_f64()
    );
    (worlds * age, wrong)
}
