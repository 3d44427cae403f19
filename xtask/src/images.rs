//! `cargo xtask images`: the container images, assembled without a builder.
//!
//! `docker/Dockerfile` is the source of truth for the layout; a test compares.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;
use stoker_testkit::images::Image;

use crate::cluster::{target_folder, workspace};

/// Assemble the container images from this machine's binaries, without a builder, into target/images
#[derive(Debug, Args)]
pub(crate) struct Images {
    /// Images to assemble (stoker-controller, ...); all if none is named
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,

    /// The cargo profile of the binaries
    #[arg(long, default_value = "release")]
    profile: String,

    /// Leave symbols out of the binaries, which makes those of the profile `dev` small
    #[arg(long)]
    strip: bool,
}

/// A binary that has an image of its own.
struct Shipped {
    /// Package, binary and image have one name.
    name: &'static str,
    /// Arguments before those of the container.
    subcommand: &'static [&'static str],
    binary: &'static str,
    /// The user that it runs as unless the pod says otherwise.
    user: u32,
}

const SHIPPED: &[Shipped] = &[
    Shipped { name: "stoker-controller", binary: "stoker-controller", subcommand: &[], user: USER },
    Shipped { name: "stoker-webhook", binary: "stoker-webhook", subcommand: &[], user: USER },
    Shipped { name: "stoker-agent", binary: "stoker-agent", subcommand: &[], user: GATEWAY_USER },
    Shipped { name: "stoker", binary: "stoker", subcommand: &[], user: USER },
    Shipped { name: "fake-gateway", binary: "stoker", subcommand: &["fake-gateway"], user: USER },
];

/// The user of images that own no files.
const USER: u32 = 65532;
/// The user of the official gateway image: where a pod names none, the agent's files are the gateway's all the same.
const GATEWAY_USER: u32 = 2003;
const REPOSITORY: &str = "ghcr.io/stoker-io";

impl Images {
    /// All images, quickly: what `cargo test` has compiled anyway, without symbols.
    pub(crate) fn for_tests() -> Self {
        Self { images: Vec::new(), profile: "dev".to_owned(), strip: true }
    }

    /// All images, of one profile.
    pub(crate) fn of_profile(profile: &str) -> Self {
        Self { images: Vec::new(), profile: profile.to_owned(), strip: profile != "dist" }
    }

    pub(crate) fn run(self) -> Result<()> {
        for name in &self.images {
            if !SHIPPED.iter().any(|shipped| shipped.name == name) {
                let known: Vec<_> = SHIPPED.iter().map(|shipped| shipped.name).collect();
                bail!("there is no image `{name}`; known are {}", known.join(", "));
            }
        }
        let wanted: Vec<&Shipped> = SHIPPED
            .iter()
            .filter(|shipped| self.images.is_empty() || self.images.iter().any(|name| name == shipped.name))
            .collect();
        build_binaries(&wanted, &self.profile)?;
        let folder = images_folder()?;
        let stripped = tempfile::tempdir()?;
        let mut binaries = binaries(&self.profile);
        if self.strip {
            strip(&wanted, &binaries, stripped.path())?;
            binaries = stripped.path().to_owned();
        }
        for shipped in wanted {
            let start = Instant::now();
            let image = assemble(shipped, &binaries)?;
            let archive = folder.join(format!("{}.tar", shipped.name));
            image.write(&archive)?;
            let size = std::fs::metadata(&archive)?.len() as f64 / 1024.0 / 1024.0;
            let took = start.elapsed().as_secs_f64();
            println!("{:<48} {size:6.1} MiB  {took:.1} s  {}", image.name(), archive.display());
        }
        Ok(())
    }
}

/// The archive that a name or a path stands for.
pub(crate) fn archive(image: &str) -> Result<PathBuf> {
    let path = Path::new(image);
    if path.is_file() {
        return Ok(path.to_owned());
    }
    let short = image.rsplit('/').next().unwrap_or(image).split(':').next().unwrap_or(image);
    let assembled = images_folder()?.join(format!("{short}.tar"));
    if !assembled.is_file() {
        bail!("{image} is neither an archive nor an image of target/images: run `cargo xtask images`");
    }
    Ok(assembled)
}

/// Where the archives are.
pub(crate) fn images_folder() -> Result<PathBuf> {
    let folder = target_folder().join("images");
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// Where cargo puts the binaries of a profile; `dev` is the one whose folder has another name.
fn binaries(profile: &str) -> PathBuf {
    target_folder().join(if profile == "dev" { "debug" } else { profile })
}

fn build_binaries(wanted: &[&Shipped], profile: &str) -> Result<()> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace()).args(["build", "--profile", profile]);
    for shipped in wanted {
        command.args(["--package", shipped.binary]);
    }
    let status = command.status().context("running cargo")?;
    if !status.success() {
        bail!("cargo build ended with {status}");
    }
    Ok(())
}

fn strip(wanted: &[&Shipped], from: &Path, to: &Path) -> Result<()> {
    for shipped in wanted {
        let target = to.join(shipped.binary);
        if target.exists() {
            continue;
        }
        let mut command = Command::new("strip");
        command.arg("-o").arg(target).arg(from.join(shipped.binary));
        let status = command.status().context("running strip (of the package binutils)")?;
        if !status.success() {
            bail!("strip of {} ended with {status}", shipped.binary);
        }
    }
    Ok(())
}

fn assemble(shipped: &Shipped, binaries: &Path) -> Result<Image> {
    let path = format!("/usr/local/bin/{}", shipped.binary);
    let name = format!("{REPOSITORY}/{}:{}", shipped.name, env!("CARGO_PKG_VERSION"));
    let entrypoint =
        std::iter::once(path.clone()).chain(shipped.subcommand.iter().map(|&word| word.to_owned()));
    Ok(Image::new(name)
        .entrypoint(entrypoint)
        .user(shipped.user)
        .label("org.opencontainers.image.source", "https://github.com/stoker-io/stoker")
        .label("org.opencontainers.image.licenses", "Apache-2.0 OR MIT")
        .program(&path, &binaries.join(shipped.binary))?
        .public_authorities()
        .folder("/tmp", 0o1777)
        .text(
            "/etc/passwd",
            0o644,
            &format!(
                "root:x:0:0:root:/:/sbin/nologin\nstoker:x:{0}:{0}:stoker:/:/sbin/nologin\n",
                shipped.user
            ),
        )
        .text("/etc/group", 0o644, &format!("root:x:0:\nstoker:x:{}:\n", shipped.user))
        .text("/etc/nsswitch.conf", 0o644, "hosts: files dns\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of a stage of the Dockerfile, without the `FROM`.
    fn stage(name: &str) -> Vec<String> {
        let text = std::fs::read_to_string(workspace().join("docker/Dockerfile")).unwrap();
        let from = format!(" AS {name}");
        text.lines()
            .skip_while(|line| !(line.starts_with("FROM ") && line.ends_with(&from)))
            .skip(1)
            .take_while(|line| !line.starts_with("FROM "))
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn images_are_laid_out_as_the_dockerfile_says() {
        assert!(stage("base").contains(&format!("USER {USER}:{USER}")));
        for shipped in SHIPPED {
            let path = format!("/usr/local/bin/{}", shipped.binary);
            let words: Vec<&str> =
                std::iter::once(&*path).chain(shipped.subcommand.iter().copied()).collect();
            let user = (shipped.user != USER).then(|| format!("USER {0}:{0}", shipped.user));
            let copy = [format!("COPY --from=build /out/{} {path}", shipped.binary)];
            let expected: Vec<String> = copy
                .into_iter()
                .chain(user)
                .chain([format!(
                    "ENTRYPOINT [{}]",
                    words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ")
                )])
                .collect();
            assert_eq!(stage(shipped.name), expected, "{}", shipped.name);
        }
    }

    #[test]
    fn the_dockerfile_has_no_image_that_we_do_not_assemble() {
        let text = std::fs::read_to_string(workspace().join("docker/Dockerfile")).unwrap();
        let targets = text.lines().filter_map(|line| line.strip_prefix("FROM base AS "));
        let known: Vec<&str> = SHIPPED.iter().map(|shipped| shipped.name).collect();
        assert_eq!(targets.collect::<Vec<_>>(), known);
    }
}
