//! Which tools there are and how each is built.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A program built from a pinned Go module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are those of the programs")]
pub enum Tool {
    Etcd,
    KubeApiserver,
    KubeControllerManager,
    Kubectl,
    Kubelet,
    KubeScheduler,
    KubeProxy,
    Containerd,
    ContainerdShim,
    Ctr,
    CniPtp,
    CniHostLocal,
    CniLoopback,
    Pause,
    Helm,
    Gitea,
    Kwok,
}

/// A Debian package that tests use as it is.
#[derive(Debug, Clone, Copy)]
pub struct DebianPackage {
    /// Its name for `apt-get install`.
    pub name: &'static str,
    /// A program in it, by which we know that it is there.
    pub program: &'static str,
    /// What it is for.
    pub purpose: &'static str,
}

/// The one list of packages that the test bed needs from the system.
pub const DEBIAN_PACKAGES: &[DebianPackage] = &[
    DebianPackage { name: "git", program: "git", purpose: "test repositories, smart http, git://" },
    DebianPackage { name: "openssh-server", program: "sshd", purpose: "git over ssh" },
    DebianPackage { name: "openssh-client", program: "ssh-keygen", purpose: "git over ssh" },
    DebianPackage { name: "gcc", program: "cc", purpose: "Gitea's SQLite, libgit2" },
    DebianPackage { name: "binutils", program: "strip", purpose: "small images for tests" },
    DebianPackage { name: "runc", program: "runc", purpose: "the node's containers" },
    DebianPackage { name: "iproute2", program: "ip", purpose: "the node's network" },
    DebianPackage { name: "iptables", program: "iptables", purpose: "the node's Services" },
    DebianPackage { name: "util-linux", program: "unshare", purpose: "the node's namespaces" },
    DebianPackage { name: "mount", program: "mount", purpose: "the node's file systems" },
];

/// One folder of `testkit/go`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Module {
    pub(super) name: &'static str,
    /// The module whose version is the version of the tools; empty for our own programs.
    path: &'static str,
    pub(super) tags: &'static str,
    pub(super) cgo: bool,
    /// Roughly, cold, on two cores; for the message that says what is being built.
    pub(super) takes: &'static str,
    /// Folders of the module's source that its programs read while they run.
    pub(super) data: &'static [&'static str],
}

const ETCD: Module = Module {
    name: "etcd",
    path: "go.etcd.io/etcd/server/v3",
    tags: "",
    cgo: false,
    takes: "half a minute",
    data: &[],
};
const KUBERNETES: Module = Module {
    name: "kubernetes",
    path: "k8s.io/kubernetes",
    tags: "",
    cgo: false,
    takes: "three to six minutes the first time",
    data: &[],
};
const CONTAINERD: Module = Module {
    name: "containerd",
    path: "github.com/containerd/containerd/v2",
    tags: "no_btrfs,no_devmapper,no_zfs",
    cgo: false,
    takes: "a minute",
    data: &[],
};
const CNI: Module = Module {
    name: "cni",
    path: "github.com/containernetworking/plugins",
    tags: "",
    cgo: false,
    takes: "half a minute",
    data: &[],
};
const PAUSE: Module = Module { name: "pause", path: "", tags: "", cgo: false, takes: "a second", data: &[] };
const HELM: Module =
    Module { name: "helm", path: "helm.sh/helm/v3", tags: "", cgo: false, takes: "a minute", data: &[] };
const GITEA: Module = Module {
    name: "gitea",
    path: "code.gitea.io/gitea",
    tags: "sqlite,sqlite_unlock_notify",
    cgo: true,
    takes: "three minutes",
    data: &["options", "templates"],
};
const KWOK: Module =
    Module { name: "kwok", path: "sigs.k8s.io/kwok", tags: "", cgo: false, takes: "a minute", data: &[] };

impl Tool {
    /// What `cargo xtask tools` makes ready when nothing is named.
    pub const DEFAULT: &[Tool] = &[
        Tool::Etcd,
        Tool::KubeApiserver,
        Tool::KubeControllerManager,
        Tool::Kubectl,
        Tool::Kubelet,
        Tool::KubeScheduler,
        Tool::KubeProxy,
        Tool::Containerd,
        Tool::ContainerdShim,
        Tool::Ctr,
        Tool::CniPtp,
        Tool::CniHostLocal,
        Tool::CniLoopback,
        Tool::Pause,
        Tool::Helm,
        Tool::Gitea,
    ];

    /// Those that are built only when asked for by name.
    pub const ON_REQUEST: &[Tool] = &[Tool::Kwok];

    /// The file name of the program.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::KubeApiserver => "kube-apiserver",
            Self::KubeControllerManager => "kube-controller-manager",
            Self::Kubectl => "kubectl",
            Self::Kubelet => "kubelet",
            Self::KubeScheduler => "kube-scheduler",
            Self::KubeProxy => "kube-proxy",
            Self::Containerd => "containerd",
            Self::ContainerdShim => "containerd-shim-runc-v2",
            Self::Ctr => "ctr",
            Self::CniPtp => "ptp",
            Self::CniHostLocal => "host-local",
            Self::CniLoopback => "loopback",
            Self::Pause => "pause",
            Self::Helm => "helm",
            Self::Gitea => "gitea",
            Self::Kwok => "kwok",
        }
    }

    /// The tool with this file name, or all tools of the module with this name.
    pub fn named(name: &str) -> Vec<Self> {
        let all = || Self::DEFAULT.iter().chain(Self::ON_REQUEST).copied();
        let exact: Vec<Self> = all().filter(|tool| tool.name() == name).collect();
        if exact.is_empty() { all().filter(|tool| tool.module().name == name).collect() } else { exact }
    }

    /// The environment variable that names a ready binary of this tool, such as `STOKER_TOOL_HELM`.
    pub fn variable(self) -> String {
        format!("STOKER_TOOL_{}", self.name().to_uppercase().replace('-', "_"))
    }

    pub(super) const fn is_envtest_asset(self) -> bool {
        matches!(self, Self::Etcd | Self::KubeApiserver | Self::Kubectl)
    }

    pub(super) const fn module(self) -> Module {
        match self {
            Self::Etcd => ETCD,
            Self::KubeApiserver
            | Self::KubeControllerManager
            | Self::Kubectl
            | Self::Kubelet
            | Self::KubeScheduler
            | Self::KubeProxy => KUBERNETES,
            Self::Containerd | Self::ContainerdShim | Self::Ctr => CONTAINERD,
            Self::CniPtp | Self::CniHostLocal | Self::CniLoopback => CNI,
            Self::Pause => PAUSE,
            Self::Helm => HELM,
            Self::Gitea => GITEA,
            Self::Kwok => KWOK,
        }
    }

    /// The main package that `go build` is given.
    pub(super) fn package(self) -> String {
        let module = self.module().path;
        match self {
            Self::Etcd | Self::Gitea => module.to_owned(),
            Self::Pause => ".".to_owned(),
            Self::CniPtp | Self::CniLoopback => format!("{module}/plugins/main/{}", self.name()),
            Self::CniHostLocal => format!("{module}/plugins/ipam/{}", self.name()),
            _ => format!("{module}/cmd/{}", self.name()),
        }
    }

    /// What `go build` calls the program when it is only given a folder to put it in.
    pub(super) const fn built_as(self) -> &'static str {
        match self {
            Self::Etcd => "server",
            _ => self.name(),
        }
    }
}

impl Module {
    pub(super) const fn path(self) -> &'static str {
        self.path
    }

    /// The folder with the `go.mod`.
    pub(super) fn source(self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("go").join(self.name)
    }

    /// The pinned version, such as `v1.36.3`; `own` for programs that are ours.
    pub(super) fn version(self) -> Result<String> {
        if self.path.is_empty() {
            return Ok("own".to_owned());
        }
        let file = self.source().join("go.mod");
        let text = std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        pinned_version(&text, self.path)
            .with_context(|| format!("{} requires no version of {}", file.display(), self.path))
    }

    /// Changes whenever the same source would give another binary.
    pub(super) fn fingerprint(self) -> Result<String> {
        let mut hasher = DefaultHasher::new();
        for name in ["go.mod", "go.sum", "main.go"] {
            std::fs::read(self.source().join(name)).unwrap_or_default().hash(&mut hasher);
        }
        (self.tags, self.cgo, self.data, self.linker_flags()?).hash(&mut hasher);
        Ok(format!("{:016x}", hasher.finish()))
    }

    /// A server linked without its version calls itself v0.0.0, which fails Helm's `kubeVersion` checks.
    pub(super) fn linker_flags(self) -> Result<String> {
        let mut flags = String::from("-s -w");
        if self == KUBERNETES {
            let version = self.version()?;
            let mut numbers = version.trim_start_matches('v').split('.');
            let (major, minor) = (numbers.next().unwrap_or("0"), numbers.next().unwrap_or("0"));
            for package in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
                for (name, value) in [
                    ("gitVersion", &*version),
                    ("gitMajor", major),
                    ("gitMinor", minor),
                    ("gitTreeState", "clean"),
                ] {
                    flags.push_str(&format!(" -X {package}.{name}={value}"));
                }
            }
        }
        if self == HELM {
            flags.push_str(&format!(" -X helm.sh/helm/v3/internal/version.version={}", self.version()?));
        }
        Ok(flags)
    }
}

fn pinned_version(go_mod: &str, module: &str) -> Option<String> {
    go_mod.lines().find_map(|line| {
        let mut words = line.trim().trim_start_matches("require ").split_whitespace();
        (words.next() == Some(module))
            .then(|| words.next())
            .flatten()
            .filter(|word| word.starts_with('v'))
            .map(str::to_owned)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tool_has_a_pinned_version_and_is_found_by_its_name() {
        for &tool in Tool::DEFAULT.iter().chain(Tool::ON_REQUEST) {
            let version = tool.module().version().unwrap();
            assert!(version == "own" || version.starts_with('v'), "{}: {version}", tool.name());
            assert_eq!(Tool::named(tool.name()), [tool]);
        }
    }

    #[test]
    fn a_module_name_stands_for_all_its_tools() {
        assert_eq!(Tool::named("cni"), [Tool::CniPtp, Tool::CniHostLocal, Tool::CniLoopback]);
        assert!(Tool::named("nonsense").is_empty());
    }

    #[test]
    fn a_kubernetes_program_is_linked_with_its_version() {
        let flags = KUBERNETES.linker_flags().unwrap();
        let version = KUBERNETES.version().unwrap();
        assert!(
            flags.contains(&format!("-X k8s.io/component-base/version.gitVersion={version} ")),
            "{flags}"
        );
        assert!(flags.contains("gitMajor=1 "), "{flags}");
    }
}
