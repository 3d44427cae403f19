//! The agent's own look at who signed a commit, with the keys as they are mounted.

use std::path::{Path, PathBuf};

use stoker_git::{Cache, ChildCommand, Git};
use stoker_k8s::agent::Fetch;
use stoker_k8s::agent::connect::MountedGit;
use stoker_k8s::agent::watch_metadata::Known;
use stoker_k8s::api::VerifyMode;
use stoker_testkit::Repo;

use crate::line::metadata;

struct Bed {
    folder: tempfile::TempDir,
    repo: Repo,
    git: MountedGit,
}

impl Bed {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let git = MountedGit {
            git: Git::new(ChildCommand::in_process()),
            cache: Cache::new(folder.path().join("cache")),
            signing_keys: folder.path().join("signing-keys"),
        };
        Self { folder, repo: Repo::new().unwrap(), git }
    }

    fn key(&self, name: &str) -> PathBuf {
        let file = self.folder.path().join(name);
        let status = std::process::Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"])
            .arg(&file)
            .status();
        assert!(status.unwrap().success());
        file
    }

    fn signed(&self, key: &Path, words: &[&str]) -> String {
        let signing = format!("user.signingKey={}", key.display());
        let mut all = vec!["-c", "gpg.format=ssh", "-c", &signing];
        all.extend(words);
        self.repo.git(all).unwrap();
        self.repo.head().unwrap()
    }

    /// What the agent makes of a commit: the reason and the message when it refuses it.
    async fn judge(
        &self,
        commit: &str,
        git_ref: &str,
        verify: Option<VerifyMode>,
    ) -> Option<(String, String)> {
        let mut told = metadata(commit);
        told.git_url = self.repo.file_url();
        told.git_ref = git_ref.to_owned();
        told.verify = verify;
        let known = Known { metadata: Some(told), trouble: None };
        self.git.fetch(&known, commit).await.err().map(|failure| (failure.category, failure.message))
    }
}

/// Mounts keys as the kubelet does: files are links into a directory that is swapped as a whole.
fn mount(dir: &Path, version: &str, files: &[(&str, String)]) {
    std::fs::create_dir_all(dir.join(format!("..{version}"))).unwrap();
    for (name, content) in files {
        std::fs::write(dir.join(format!("..{version}")).join(name), content).unwrap();
        let _ = std::fs::remove_file(dir.join(name));
        std::os::unix::fs::symlink(format!("..data/{name}"), dir.join(name)).unwrap();
    }
    let link = dir.join("..data_tmp");
    std::os::unix::fs::symlink(format!("..{version}"), &link).unwrap();
    std::fs::rename(link, dir.join("..data")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_takes_only_commits_that_a_mounted_key_has_signed() {
    let bed = Bed::new();
    let (ada, bob) = (bed.key("ada"), bed.key("bob"));
    let public = |key: &Path| std::fs::read_to_string(key.with_extension("pub")).unwrap();
    let unsigned = bed.repo.commit_files("unsigned", &[("a", "1")]).unwrap();
    let by_ada = bed.signed(&ada, &["commit", "-q", "--allow-empty", "-S", "-m", "by ada"]);
    bed.signed(&ada, &["tag", "-s", "-m", "one", "v1"]);
    let by_bob = bed.signed(&bob, &["commit", "-q", "--allow-empty", "-S", "-m", "by bob"]);
    let head = Some(VerifyMode::Head);

    assert_eq!(bed.judge(&unsigned, "main", None).await, None);
    let (reason, message) = bed.judge(&unsigned, "main", head).await.unwrap();
    assert_eq!(reason, "CredentialsNotMounted");
    assert!(message.contains("restart it"), "{message}");

    // The Secret is not there yet, and then it is: no restart.
    let dir = bed.git.signing_keys.clone();
    std::fs::create_dir(&dir).unwrap();
    let (reason, message) = bed.judge(&by_ada, "main", head).await.unwrap();
    assert_eq!(reason, "SigningKeysInvalid");
    assert!(message.contains("there is no file of keys"), "{message}");
    mount(&dir, "1", &[("ada.pub", format!("ada@plant.example {}", public(&ada)))]);
    assert_eq!(bed.judge(&by_ada, "main", head).await, None);
    let (reason, message) = bed.judge(&unsigned, "main", head).await.unwrap();
    assert_eq!(reason, "Unsigned");
    assert!(message.contains(&format!("commit {}", &unsigned[..7])), "{message}");
    let (reason, message) = bed.judge(&by_bob, "main", head).await.unwrap();
    assert_eq!(reason, "UnknownSigningKey");
    assert!(message.contains("SHA256:"), "{message}");

    assert_eq!(bed.judge(&by_ada, "v1", Some(VerifyMode::TagAndHead)).await, None);
    let (reason, _) = bed.judge(&by_ada, "main", Some(VerifyMode::Tag)).await.unwrap();
    assert_eq!(reason, "Unsigned", "a branch is no tag");

    // A key is added, another goes.
    mount(&dir, "2", &[("ada.pub", format!("bob@plant.example {}", public(&bob)))]);
    assert_eq!(bed.judge(&by_bob, "main", head).await, None);
    assert_eq!(bed.judge(&by_ada, "main", head).await.unwrap().0, "UnknownSigningKey");
    mount(&dir, "3", &[("ada.pub", "no key at all\n".to_owned())]);
    let (reason, message) = bed.judge(&by_bob, "main", head).await.unwrap();
    assert_eq!(reason, "SigningKeysInvalid");
    assert!(message.contains("ada.pub: line 1"), "{message}");
}
