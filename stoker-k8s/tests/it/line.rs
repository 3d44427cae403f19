//! An agent beside a fake gateway, without a cluster: commits are values, what the agent is told and says are channels.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use stoker_core::{ContentId, Entry, EntryKind, NamedEntry, RelPath, Source, SourceError};
use stoker_ignition::client::{ApiKeySource, GatewayClient, GatewayOptions};
use stoker_ignition::fake::FakeGateway;
use stoker_k8s::agent::health::Pulse;
use stoker_k8s::agent::report::Saying;
use stoker_k8s::agent::start::Start;
use stoker_k8s::agent::target::PodInfo;
use stoker_k8s::agent::watch_metadata::Known;
use stoker_k8s::agent::{Agent, Fetch, Fetched, Identity, Locate, Obtained, Tree as Commit};
use stoker_k8s::api::{Mapping, OnTimeout, SyncStatus, TokenScheme};
use stoker_k8s::compile::CompiledProfile;
use stoker_k8s::gateway_sync::{Failure, GatewaySync};
use stoker_k8s::protocol::{AuthType, Metadata, Rollout, StartupPolicy, Trust};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

/// Long enough for a busy machine; nothing waits that long when all is well.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);
const KEY: &str = "ci:s3cret";

type Tree = BTreeMap<String, String>;

/// Commits, and how often one was fetched.
#[derive(Clone)]
pub(crate) struct Commits {
    all: Arc<Mutex<BTreeMap<String, Arc<Tree>>>>,
    fetched: watch::Sender<u64>,
}

impl Commits {
    pub(crate) fn new() -> Self {
        Self { all: Arc::default(), fetched: watch::channel(0).0 }
    }

    /// Makes a commit of these files; its id is made of `number`.
    pub(crate) fn commit(&self, number: u32, files: &[(&str, &str)]) -> String {
        let id = format!("{number:040x}");
        let tree = files.iter().map(|(path, content)| ((*path).to_owned(), (*content).to_owned())).collect();
        self.all.lock().unwrap().insert(id.clone(), Arc::new(tree));
        id
    }

    /// Waits until `more` further fetches have begun, drift checks among them.
    pub(crate) async fn fetches(&self, more: u64) {
        let mut fetched = self.fetched.subscribe();
        let enough = *fetched.borrow() + more;
        tokio::time::timeout(LIMIT, fetched.wait_for(|n| *n >= enough)).await.expect("fetches").unwrap();
    }
}

impl Fetch for Commits {
    fn fetch<'a>(
        &'a self,
        _: &'a Known,
        commit: &'a str,
    ) -> Pin<Box<dyn Future<Output = Fetched> + Send + 'a>> {
        self.fetched.send_modify(|n| *n += 1);
        let tree = Arc::clone(&self.all.lock().unwrap()[commit]);
        Box::pin(async move { Ok(Commit { source: Box::new(Fixed(tree)), how: Obtained::Fetched }) })
    }
}

/// A commit's tree; ids are made of contents, as git's are.
struct Fixed(Arc<Tree>);

impl Fixed {
    fn below<'a>(&'a self, path: RelPath<'a>) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.0.iter().filter_map(move |(file, content)| {
            let rest = match path.as_str() {
                "" => Some(file.as_str()),
                path => file.strip_prefix(path)?.strip_prefix('/'),
            };
            Some((rest?, content.as_str()))
        })
    }
}

impl Source for Fixed {
    fn entry(&self, path: RelPath<'_>) -> Result<Option<Entry>, SourceError> {
        if let Some(content) = self.0.get(path.as_str()) {
            let id = Some(ContentId::of(content.as_bytes()));
            return Ok(Some(Entry { kind: EntryKind::File, id, size: Some(content.len() as u64) }));
        }
        let tree: Vec<_> = self.below(path).collect();
        let id = Some(ContentId::of(format!("{tree:?}").as_bytes()));
        Ok((path.is_root() || !tree.is_empty()).then_some(Entry {
            kind: EntryKind::Directory,
            id,
            size: None,
        }))
    }

    fn list(&self, path: RelPath<'_>) -> Result<Vec<NamedEntry>, SourceError> {
        let names: BTreeSet<&str> =
            self.below(path).map(|(rest, _)| rest.split_once('/').map_or(rest, |(name, _)| name)).collect();
        let named = names.into_iter().map(|name| {
            let child = path.child(name).unwrap();
            let entry = self.entry(child.as_path()).unwrap().unwrap();
            NamedEntry { name: name.as_bytes().to_vec(), entry }
        });
        Ok(named.collect())
    }

    fn open(&self, path: RelPath<'_>, _: &ContentId) -> Result<Box<dyn Read + '_>, SourceError> {
        Ok(Box::new(self.0[path.as_str()].as_bytes()))
    }
}

struct Here {
    data: PathBuf,
    client: GatewayClient,
}

impl Locate for Here {
    fn locate(&self, _: &Known) -> Result<GatewaySync, Failure> {
        Ok(GatewaySync::new(self.data.clone(), Some(self.client.clone())))
    }
}

/// A gateway, its data directory, and the agent on it.
pub(crate) struct Line {
    folder: tempfile::TempDir,
    commits: Commits,
    pub(crate) gateway: FakeGateway,
    pub(crate) known: watch::Sender<Known>,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
    said: watch::Receiver<Saying>,
    pub(crate) start: watch::Receiver<Start>,
    /// Where the agent looks for the gateway, when that is elsewhere.
    pub(crate) url: Option<String>,
}

impl Line {
    /// A gateway with these switches on an empty data directory. No agent yet.
    pub(crate) async fn new(commits: &Commits, switches: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("data")).unwrap();
        for file in ["annotations", "labels"] {
            std::fs::write(folder.path().join(file), "").unwrap();
        }
        std::fs::write(folder.path().join("key"), KEY).unwrap();
        let mut builder = FakeGateway::builder(folder.path().join("data")).api_key(KEY);
        for switch in switches {
            builder = builder.switch(switch).unwrap();
        }
        let gateway = builder.start().await.unwrap();
        Self {
            folder,
            commits: commits.clone(),
            gateway,
            known: watch::channel(Known::default()).0,
            running: None,
            said: watch::channel(Saying::default()).1,
            start: watch::channel(Start::Wait("")).1,
            url: None,
        }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(crate) fn read(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.data().join(path)).ok()
    }

    pub(crate) fn write(&self, path: &str, content: &str) {
        write(&self.data(), path, content);
    }

    /// Gives the pod these labels, as the kubelet projects them.
    pub(crate) fn label(&self, labels: &[(&str, &str)]) {
        let text: String = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"\n")).collect();
        std::fs::write(self.folder.path().join("new"), text).unwrap();
        std::fs::rename(self.folder.path().join("new"), self.folder.path().join("labels")).unwrap();
    }

    /// Starts an agent, in place of the one that runs.
    pub(crate) async fn agent(&mut self) {
        self.stop().await;
        let path = |name: &str| self.folder.path().join(name);
        let url = self.url.clone().unwrap_or_else(|| self.gateway.url()).parse().unwrap();
        let options = GatewayOptions::new(url).api_key(ApiKeySource::file(path("key")));
        let (said, saying) = watch::channel(Saying::default());
        let (start, starting) = watch::channel(Start::Wait("the agent has just started"));
        let agent = Agent {
            identity: Identity {
                pod: "line-0".into(),
                namespace: "plant".into(),
                cr: "line".into(),
                annotations: path("annotations"),
                labels: path("labels"),
                startup_timeout: Duration::from_secs(300),
                on_timeout: OnTimeout::UseLastGood,
            },
            fetch: Box::new(self.commits.clone()),
            locate: Box::new(Here { data: self.data(), client: GatewayClient::new(options).unwrap() }),
            known: self.known.subscribe(),
            said,
            start,
            pulse: Pulse::default(),
            pod: Mutex::new(PodInfo { name: "line-0".into(), ..PodInfo::default() }),
        };
        let (stop, stopping) = oneshot::channel();
        let task = tokio::spawn(agent.run(async {
            let _ = stopping.await;
        }));
        self.running = Some((stop, task));
        (self.said, self.start) = (saying, starting);
    }

    pub(crate) async fn stop(&mut self) {
        if let Some((stop, task)) = self.running.take() {
            let _ = stop.send(());
            tokio::time::timeout(LIMIT, task).await.expect("the agent stops").unwrap();
        }
    }

    /// Tells the agent, with changes.
    pub(crate) fn tell(&self, commit: &str, change: impl FnOnce(&mut Metadata)) {
        let mut metadata = metadata(commit);
        change(&mut metadata);
        self.known.send_replace(Known { metadata: Some(metadata), trouble: None });
    }

    /// What the agent says, once it is as `enough` says.
    pub(crate) async fn says(&mut self, what: &str, enough: impl Fn(&Saying) -> bool) -> Saying {
        let found = tokio::time::timeout(LIMIT, self.said.wait_for(|s| enough(s))).await;
        let found = found.map(|said| said.unwrap().clone());
        found.unwrap_or_else(|_| panic!("{what}: {:#?}", self.said().status))
    }

    pub(crate) async fn synced(&mut self, commit: &str) -> Saying {
        self.says(&format!("synced at {commit}"), |s| {
            s.status.sync_status == SyncStatus::Synced && s.status.synced_commit.as_deref() == Some(commit)
        })
        .await
    }

    /// What it says now.
    pub(crate) fn said(&self) -> Saying {
        self.said.borrow().clone()
    }
}

fn write(folder: &Path, path: &str, content: &str) {
    let path = folder.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

/// Projects and all collections from the folders of these names, and a look at the files every five seconds.
pub(crate) fn metadata(commit: &str) -> Metadata {
    let mut base = CompiledProfile { sync_period: 5, revision: "r1".into(), ..CompiledProfile::default() };
    base.push("shared.mappings[0]", Mapping::new("projects", "projects"));
    base.push("shared.mappings[1]", Mapping::new("resources", "config/resources"));
    Metadata {
        git_ref: "main".into(),
        commit: Some(commit.to_owned()),
        trigger: "first".into(),
        paused: false,
        git_url: "https://git.example.com/plant.git".into(),
        auth_type: AuthType::None,
        git_username: None,
        token_scheme: TokenScheme::Basic,
        github_app: None,
        proxy: None,
        allow_insecure: false,
        verify: None,
        trust: Trust::default(),
        gateway_port: 8088,
        gateway_tls: false,
        startup: StartupPolicy { timeout_seconds: 300, on_timeout: OnTimeout::UseLastGood },
        base,
        profiles: BTreeMap::new(),
        rollout: Rollout::default(),
        approval: None,
    }
}

/// A project without a parent.
pub(crate) const PROJECT: &str = r#"{"title":"Line","enabled":true,"inheritable":false,"parent":""}"#;
