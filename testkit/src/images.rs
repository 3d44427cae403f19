//! Container images assembled without a builder: a tar of files and three JSON documents.
//!
//! The result is an OCI image layout in a tar, which `ctr images import`, `docker load` and `podman load` take.
//! Equal input gives equal bytes.
//! Format: <https://github.com/opencontainers/image-spec>, `image-layout.md`, `config.md`, `manifest.md`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// What an image shall hold and how it starts.
#[derive(Debug, Clone, Default)]
pub struct Image {
    name: String,
    entrypoint: Vec<String>,
    user: Option<String>,
    environment: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
    /// By absolute path, so that parents come before children.
    entries: BTreeMap<PathBuf, Entry>,
}

#[derive(Debug, Clone)]
enum Entry {
    Folder { mode: u32 },
    File { mode: u32, content: Content },
    Link { target: PathBuf },
}

#[derive(Debug, Clone)]
enum Content {
    Bytes(Vec<u8>),
    At(PathBuf),
}

/// Where distributions keep the certificates of public authorities.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

impl Image {
    /// An empty image with this full name, such as `ghcr.io/stoker-io/stoker-agent:0.1.0`.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// The full name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What runs when a container starts, before its arguments.
    #[must_use]
    pub fn entrypoint<S: Into<String>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.entrypoint = words.into_iter().map(Into::into).collect();
        self
    }

    /// The user (and group) that it runs as, unless the pod says otherwise.
    #[must_use]
    pub fn user(mut self, id: u32) -> Self {
        self.user = Some(format!("{id}:{id}"));
        self
    }

    /// An environment variable.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// A label, such as `org.opencontainers.image.source`.
    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.labels.insert(name.to_owned(), value.to_owned());
        self
    }

    /// A folder.
    #[must_use]
    pub fn folder(mut self, path: impl Into<PathBuf>, mode: u32) -> Self {
        self.entries.insert(path.into(), Entry::Folder { mode });
        self
    }

    /// A file with this text.
    #[must_use]
    pub fn text(mut self, path: impl Into<PathBuf>, mode: u32, text: &str) -> Self {
        let content = Content::Bytes(text.as_bytes().to_vec());
        self.entries.insert(path.into(), Entry::File { mode, content });
        self
    }

    /// A copy of a file of this machine; its content is read when the archive is written.
    #[must_use]
    pub fn copy(mut self, path: impl Into<PathBuf>, mode: u32, from: impl Into<PathBuf>) -> Self {
        self.entries.insert(path.into(), Entry::File { mode, content: Content::At(from.into()) });
        self
    }

    /// A symbolic link.
    #[must_use]
    pub fn link(mut self, path: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        self.entries.insert(path.into(), Entry::Link { target: target.into() });
        self
    }

    /// A program of this machine at `path`, with the shared libraries that it loads.
    ///
    /// # Errors
    ///
    /// The program is absent, or a library of it is.
    pub fn program(mut self, path: impl Into<PathBuf>, from: &Path) -> Result<Self> {
        self = self.copy(path, 0o755, from);
        for library in shared_libraries(from)? {
            self = self.copy(library.clone(), 0o755, library);
        }
        Ok(self)
    }

    /// The certificates of public authorities, as this machine has them.
    #[must_use]
    pub fn public_authorities(self) -> Self {
        if Path::new(CERTIFICATES).is_file() { self.copy(CERTIFICATES, 0o644, CERTIFICATES) } else { self }
    }

    /// Writes the archive.
    ///
    /// # Errors
    ///
    /// A file cannot be read, or the archive cannot be written.
    pub fn write(&self, archive: &Path) -> Result<()> {
        let staging =
            tempfile::NamedTempFile::new_in(archive.parent().context("an archive lies in a folder")?)?;
        let mut layer = tempfile::tempfile()?;
        let (layer_digest, layer_size) = self.write_layer(&mut layer)?;

        let config = self.config(&layer_digest);
        let config = Blob::json("application/vnd.oci.image.config.v1+json", &config)?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config.descriptor(),
            "layers": [{
                "mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": layer_digest,
                "size": layer_size,
            }],
        });
        let manifest = Blob::json("application/vnd.oci.image.manifest.v1+json", &manifest)?;
        let mut entry = manifest.descriptor();
        entry["annotations"] = json!({"io.containerd.image.name": self.name, "org.opencontainers.image.ref.name": tag(&self.name)});
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [entry],
        });
        // Docker before version 25 reads this instead of the index.
        let docker = json!([{
            "Config": config.path(),
            "RepoTags": [self.name],
            "Layers": [blob_path(&layer_digest)],
        }]);

        let mut tar = tar::Builder::new(staging.as_file());
        append(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        append(&mut tar, "index.json", &serde_json::to_vec(&index)?)?;
        append(&mut tar, "manifest.json", &serde_json::to_vec(&docker)?)?;
        append(&mut tar, &config.path(), &config.bytes)?;
        append(&mut tar, &manifest.path(), &manifest.bytes)?;
        std::io::Seek::rewind(&mut layer)?;
        tar.append_data(&mut header(layer_size, 0o644), blob_path(&layer_digest), layer)?;
        tar.finish()?;
        drop(tar);
        staging.persist(archive).with_context(|| format!("writing {}", archive.display()))?;
        Ok(())
    }

    /// The root file system; returns the digest and the size of the tar.
    fn write_layer(&self, layer: &mut File) -> Result<(String, u64)> {
        let mut hashing = Hashing { inner: layer, hash: Sha256::new(), size: 0 };
        let mut tar = tar::Builder::new(&mut hashing);
        let mut folders: BTreeMap<PathBuf, u32> = BTreeMap::new();
        for (path, entry) in &self.entries {
            for parent in path.ancestors().skip(1).filter(|parent| *parent != Path::new("/")) {
                folders.entry(parent.to_owned()).or_insert(0o755);
            }
            if let Entry::Folder { mode } = entry {
                folders.insert(path.clone(), *mode);
            }
        }
        for (path, mode) in &folders {
            let mut header = header(0, *mode);
            header.set_entry_type(tar::EntryType::Directory);
            tar.append_data(&mut header, in_tar(path)?, std::io::empty())?;
        }
        for (path, entry) in &self.entries {
            match entry {
                Entry::Folder { .. } => {}
                Entry::Link { target } => {
                    let mut header = header(0, 0o777);
                    header.set_entry_type(tar::EntryType::Symlink);
                    tar.append_link(&mut header, in_tar(path)?, target)?;
                }
                Entry::File { mode, content: Content::Bytes(bytes) } => {
                    tar.append_data(&mut header(bytes.len() as u64, *mode), in_tar(path)?, &**bytes)?;
                }
                Entry::File { mode, content: Content::At(from) } => {
                    let file = File::open(from).with_context(|| format!("opening {}", from.display()))?;
                    let size = file.metadata()?.len();
                    tar.append_data(&mut header(size, *mode), in_tar(path)?, file)
                        .with_context(|| format!("adding {}", from.display()))?;
                }
            }
        }
        tar.finish()?;
        drop(tar);
        Ok((digest(hashing.hash), hashing.size))
    }

    fn config(&self, layer: &str) -> Value {
        let environment: Vec<String> = std::iter::once("PATH=/usr/local/bin:/usr/bin:/bin".to_owned())
            .chain(self.environment.iter().map(|(name, value)| format!("{name}={value}")))
            .collect();
        json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "config": {
                "User": self.user.clone().unwrap_or_default(),
                "Env": environment,
                "Entrypoint": self.entrypoint,
                "WorkingDir": "/",
                "Labels": self.labels,
            },
            "rootfs": {"type": "layers", "diff_ids": [layer]},
        })
    }
}

/// The libraries that the dynamic linker would load for a program, by the paths it would load them from.
///
/// # Errors
///
/// `ldd` cannot be run, or a library is not found.
pub fn shared_libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("running ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        // "not a dynamic executable" is said on standard error and with a failure.
        let error = String::from_utf8_lossy(&output.stderr);
        if (error.to_string() + &text).contains("not a dynamic executable") {
            return Ok(Vec::new());
        }
        bail!("ldd {}: {}", program.display(), error.trim());
    }
    let mut libraries = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.ends_with("not found") {
            bail!("{} needs a library that is absent: {line}", program.display());
        }
        let path = line.split(" => ").last().unwrap_or(line).split(" (").next().unwrap_or_default();
        if path.starts_with('/') {
            libraries.push(PathBuf::from(path));
        }
    }
    Ok(libraries)
}

struct Blob {
    media_type: &'static str,
    bytes: Vec<u8>,
    digest: String,
}

impl Blob {
    fn json(media_type: &'static str, value: &Value) -> Result<Self> {
        let bytes = serde_json::to_vec(value)?;
        let digest = digest(Sha256::new_with_prefix(&bytes));
        Ok(Self { media_type, bytes, digest })
    }

    fn descriptor(&self) -> Value {
        json!({"mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len()})
    }

    fn path(&self) -> String {
        blob_path(&self.digest)
    }
}

struct Hashing<'a> {
    inner: &'a mut File,
    hash: Sha256,
    size: u64,
}

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

fn digest(hash: Sha256) -> String {
    let hex: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

fn tag(name: &str) -> &str {
    name.rsplit_once(':').map_or("latest", |(_, tag)| tag)
}

fn in_tar(path: &Path) -> Result<&Path> {
    path.strip_prefix("/").with_context(|| format!("{} is not absolute", path.display()))
}

fn header(size: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(mode);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn append<W: Write>(tar: &mut tar::Builder<W>, path: &str, bytes: impl AsRef<[u8]>) -> Result<()> {
    let bytes = bytes.as_ref();
    tar.append_data(&mut header(bytes.len() as u64, 0o644), path, bytes.take(bytes.len() as u64))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_input_gives_equal_bytes_and_a_blob_is_named_by_its_content() {
        let folder = tempfile::tempdir().unwrap();
        let image = Image::new("stoker.test/a:1")
            .entrypoint(["/a"])
            .text("/etc/deep/file", 0o644, "text")
            .folder("/tmp", 0o1777)
            .link("/a", "/etc/deep/file");
        let write = |name: &str| {
            let path = folder.path().join(name);
            image.write(&path).unwrap();
            std::fs::read(path).unwrap()
        };
        let bytes = write("one");
        assert_eq!(bytes, write("two"));

        let mut blobs = 0;
        for entry in tar::Archive::new(&*bytes).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().to_string_lossy().into_owned();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            if let Some(name) = path.strip_prefix("blobs/sha256/") {
                assert_eq!(digest(Sha256::new_with_prefix(&content)), format!("sha256:{name}"));
                blobs += 1;
            }
        }
        assert_eq!(blobs, 3, "configuration, manifest, layer");
    }

    #[test]
    fn the_libraries_of_a_program_are_found() {
        let program = std::env::current_exe().unwrap();
        let libraries = shared_libraries(&program).unwrap();
        assert!(libraries.iter().any(|path| path.to_string_lossy().contains("libc.so")), "{libraries:?}");
        assert!(libraries.iter().all(|path| path.is_file()), "{libraries:?}");
    }
}
