//! `cargo xtask tour`: everything, once, with times.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use stoker_e2e::{Blueprint, Installation, Site, VIEW};
use stoker_k8s::api::SyncStatus;
use stoker_testkit::gitea::Gitea;
use stoker_testkit::node::{self, Node};

use crate::images::{Images, images_folder};

/// Show the whole product on a real node: chart, forge, gateways, a push with its timeline, a bad push
#[derive(Debug, Args)]
pub(crate) struct Tour {
    /// The cargo profile of the binaries
    #[arg(long, default_value = "release")]
    profile: String,
}

impl Tour {
    pub(crate) fn run(self) -> Result<ExitCode> {
        if let Some(missing) = node::lacking() {
            anyhow::bail!("the tour needs a node: {missing}");
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        println!("1. Images, assembled from this checkout (profile {})", self.profile);
        Images::of_profile(&self.profile).run()?;
        runtime.block_on(tour())?;
        Ok(ExitCode::SUCCESS)
    }
}

async fn tour() -> Result<()> {
    let began = Instant::now();
    let node = Node::start().await?;
    node.load_images(&images_folder()?)?;
    println!("2. A node of its own, with images loaded, after {:.1} s", began.elapsed().as_secs_f64());

    let began = Instant::now();
    let installation = Installation::install(&node)?;
    println!("3. helm install, everything ready after {:.1} s", began.elapsed().as_secs_f64());
    print!("{}", indented(&node.exec(&["kubectl", "get", "pods", "--namespace", "stoker-system"])?));

    let began = Instant::now();
    let forge = Gitea::start_in(&node).await?;
    println!("4. Gitea at {}, after {:.1} s", forge.url(), began.elapsed().as_secs_f64());

    let began = Instant::now();
    let site = Site::build(&installation, &forge, Blueprint::walking(2)).await?;
    site.follow(&site.head()?, Duration::from_secs(120)).await?;
    println!(
        "5. Two gateways of a StatefulSet, synced before they started, Ready after {:.1} s",
        began.elapsed().as_secs_f64()
    );
    print!("{}", indented(&site.kubectl(&["get", "pods"])?));
    print!("{}", indented(&site.kubectl(&["get", "stokers"])?));

    let changed = "{\n  \"custom\": {},\n  \"root\": {\n    \"meta\": {\n      \"name\": \"root\"\n    },\n    \"type\": \"ia.container.flex\"\n  }\n}";
    let second = site.push(VIEW, changed).await?;
    println!("6. A push of {}, and how far it is after how many milliseconds", &second.commit[..7]);
    let timeline = site.follow(&second, Duration::from_secs(60)).await?;
    for line in timeline.lines() {
        println!("   {line}");
    }
    for pod in site.pods() {
        ensure!(site.read(&pod, VIEW)? == changed, "{pod} has another file");
    }
    print!("{}", indented(&site.kubectl(&["get", "stokers"])?));

    let broken = site.push(VIEW, "{\n  \"custom\": {},\n").await?;
    println!("7. A push of {}, in which {VIEW} is cut off", &broken.commit[..7]);
    let messages = site.until_all(SyncStatus::Error, &broken.commit, Duration::from_secs(60)).await?;
    for (pod, message) in messages {
        println!("   {pod}: {message}");
    }
    for pod in site.pods() {
        ensure!(site.read(&pod, VIEW)? == changed, "the broken commit changed {pod}");
    }
    println!("   both gateways still run {}", &second.commit[..7]);
    print!("{}", indented(&site.kubectl(&["get", "stokers"])?));
    let slowest = timeline.confirmed.values().max().context("no gateway has confirmed")?;
    println!("Push to confirmed scan: {} ms.", slowest.as_millis());
    Ok(())
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("   {line}\n")).collect()
}
