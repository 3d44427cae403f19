//! What is interrupted: small trees that together meet every row of the three-way table and every kind of step.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use stoker_core::{Changes, Engine, Mapping, MaxDeletes, NoObserver, Observer, PlanOptions, Prune, SyncSpec};

use crate::world::{Tree, files};

type Paths = &'static [(&'static str, &'static str)];

/// One transaction, and what it starts from.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// Commits that are live before, in order.
    before: &'static [Paths],
    /// What somebody else did since; an empty content deletes.
    edits: Paths,
    wanted: Paths,
    act: Act,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Act {
    Sync,
    Mirror,
    /// Back to before the last but one transaction.
    Rollback,
    /// A sync in which somebody else blocks a directory in the last moment, so that every step is taken back.
    Blocked,
}

/// Belongs to somebody else, in every scenario.
const FOREIGN: Paths = &[("logs/theirs", "t"), ("foreign", "f"), ("both/theirs", "b")];

pub(crate) const ALL: &[Scenario] = &[
    Scenario {
        name: "first",
        before: &[],
        edits: &[("c", "was here"), ("d/e", "E")],
        wanted: &[("a", "A"), ("d/e", "E"), ("c", "C"), ("x/y/z.sh", "Z")],
        act: Act::Sync,
    },
    Scenario {
        name: "three-way",
        before: &[&[
            ("same", "s"),
            ("update", "1"),
            ("drift", "1"),
            ("lost", "1"),
            ("converged", "1"),
            ("conflict", "1"),
            ("lost-new", "1"),
            ("delete", "1"),
            ("delete-changed", "1"),
            ("delete-lost", "1"),
            ("mode", "1"),
        ]],
        edits: &[
            ("drift", "theirs d"),
            ("lost", ""),
            ("converged", "2"),
            ("conflict", "theirs c"),
            ("lost-new", ""),
            ("delete-changed", "theirs x"),
            ("delete-lost", ""),
            ("adopt", "a"),
            ("other", "theirs o"),
        ],
        wanted: &[
            ("same", "s"),
            ("update", "2"),
            ("drift", "1"),
            ("lost", "1"),
            ("converged", "2"),
            ("conflict", "2"),
            ("lost-new", "2"),
            ("mode", "1"),
            ("adopt", "a"),
            ("other", "ours"),
            ("create", "c"),
        ],
        act: Act::Sync,
    },
    Scenario {
        name: "swaps",
        before: &[&[
            ("a", "file a"),
            ("d/x/1", "d1"),
            ("d/x/2", "d2"),
            ("d/y", "dy"),
            ("both/ours", "o"),
            ("p", "p1"),
        ]],
        edits: &[("d/y", "theirs y"), ("a", "theirs a")],
        wanted: &[("a/b", "ab"), ("a/c/d", "acd"), ("a/c/resource.json", "{}"), ("d", "file d"), ("p", "p2")],
        act: Act::Sync,
    },
    Scenario {
        name: "nested",
        before: &[&[
            ("e/f/g/h", "1"),
            ("e/f/i", "2"),
            ("e/j", "3"),
            ("k/l/m", "4"),
            ("both/n/o", "5"),
            ("keep", "k"),
        ]],
        edits: &[("e/f/i", "theirs i")],
        wanted: &[("keep", "k2"), ("k/l/n", "new")],
        act: Act::Sync,
    },
    Scenario {
        name: "mirror",
        before: &[&[("a", "1"), ("d/x", "1")]],
        edits: &[("d/extra/deep", "theirs"), ("d/more", "theirs too"), ("c", "c")],
        wanted: &[("a", "2"), ("d/x", "1"), ("c", "C")],
        act: Act::Mirror,
    },
    Scenario {
        name: "rollback",
        before: &[
            &[("a", "1"), ("d/x", "1"), ("s", "file")],
            &[("a", "2"), ("d", "file"), ("s/t", "dir"), ("new", "n")],
            &[("a", "3"), ("d", "file"), ("s/t", "dir2"), ("new2", "n")],
        ],
        edits: &[("a", "theirs a")],
        wanted: &[("a", "1"), ("d/x", "1"), ("s", "file")],
        act: Act::Rollback,
    },
    Scenario {
        name: "taken back",
        before: &[&[("a", "1"), ("b", "file"), ("z/x/1", "1"), ("z/y", "2"), ("gone", "g")]],
        edits: &[("a", "theirs a")],
        wanted: &[("a", "2"), ("b/in", "dir"), ("z", "file"), ("n/m", "new")],
        act: Act::Blocked,
    },
];

fn tree(paths: Paths) -> Tree {
    Tree(paths.iter().map(|(p, c)| ((*p).to_owned(), c.as_bytes().to_vec())).collect())
}

fn lay(root: &Path, paths: Paths) {
    for (path, content) in paths {
        let path = root.join(path);
        if content.is_empty() {
            std::fs::remove_file(path).unwrap();
        } else {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
    }
}

impl Scenario {
    fn spec(&self) -> SyncSpec {
        let map =
            |path: &str| Mapping { source: path.into(), destination: path.into(), ..Mapping::default() };
        SyncSpec {
            mappings: if self.act == Act::Mirror {
                vec![map("a"), map("c"), map("d")]
            } else {
                vec![map(".")]
            },
            excludes: vec!["logs/".into()],
            prune: if self.act == Act::Mirror { Prune::Mirror } else { Prune::Owned },
            max_deletes: MaxDeletes { count: 1000, percent: 100 },
            last_in_directory: vec!["resource.json".into()],
            ..SyncSpec::default()
        }
    }

    /// Lays out what the transaction starts from.
    pub(crate) fn prepare(&self, root: &Path) {
        std::fs::create_dir_all(root).unwrap();
        lay(root, FOREIGN);
        for (n, commit) in self.before.iter().enumerate() {
            self.sync(root, &tree(commit), &n.to_string(), &mut NoObserver).unwrap();
        }
        lay(root, self.edits);
    }

    fn sync(
        &self,
        root: &Path,
        tree: &Tree,
        revision: &str,
        observer: &mut dyn Observer,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let engine = Engine::open(root)?;
        let session = engine.begin(true)?;
        let options = PlanOptions { check_drift: true, ..PlanOptions::default() };
        let spec = self.spec();
        let plan = session.plan(tree, revision, &spec, &options)?;
        session.apply(plan, tree, &spec, observer)?;
        Ok(())
    }

    /// The transaction itself: what the child process runs.
    pub(crate) fn act(&self, root: &Path) {
        let wanted = tree(self.wanted);
        match self.act {
            Act::Sync | Act::Mirror => self.sync(root, &wanted, "wanted", &mut NoObserver).unwrap(),
            Act::Rollback => {
                Engine::open(root).unwrap().begin(true).unwrap().rollback(Some(2)).unwrap();
            }
            Act::Blocked => {
                let error = self.sync(root, &wanted, "wanted", &mut Blocker(root)).unwrap_err();
                assert!(error.to_string().contains("nothing has changed"), "{error}");
            }
        }
    }

    /// A restart without an interruption: afterwards everything is as wanted.
    pub(crate) fn converge(&self, root: &Path) {
        if self.act == Act::Blocked {
            let _ = std::fs::remove_file(root.join("z/blocker"));
        }
        self.sync(root, &tree(self.wanted), "wanted", &mut NoObserver).unwrap();
    }

    /// The destination as a reader sees it; the blocker comes at any time and is nobody's concern.
    pub(crate) fn seen(&self, root: &Path) -> BTreeMap<String, String> {
        let mut seen = files(root);
        if self.act == Act::Blocked {
            seen.remove("z/blocker");
        }
        seen
    }

    /// The contents that exist only in the destination and that the transaction replaces or deletes.
    pub(crate) fn theirs(&self) -> BTreeSet<String> {
        self.edits.iter().map(|(_, c)| (*c).to_owned()).filter(|c| !c.is_empty()).collect()
    }
}

/// Puts a file into a directory that is about to be replaced.
struct Blocker<'a>(&'a Path);

impl Observer for Blocker<'_> {
    fn before_commit(&mut self, _: &Changes<'_>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        std::fs::write(self.0.join("z/blocker"), "somebody else's")?;
        Ok(())
    }
}
