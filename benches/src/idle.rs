//! What ten gateways cost while nothing happens.
//!
//! ```text
//!  kube-apiserver (audit log) ◀── stoker-controller     as the chart's service account
//!            ▲
//!            └──────────────────── 10 × stoker-agent    each in namespaces of its own, as its own service account,
//!  git http-backend ◀───────────────────┘ │             with a gateway's data directory
//!                                         └──▶ fake gateway, https on loopback
//! ```
//!
//! The programs are the released ones; nothing in them knows that it is measured. When all gateways are Synced and the
//! `Stoker` is Ready, and everything is quiet, a window begins: what is asked of the API server and of the git server
//! within it, and the memory at its end, are the figures.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use stoker_testkit::api_server::AuditedRequest;
use stoker_testkit::wait;

use crate::figure::{Bound, Report, max, median};
use crate::process::{self, Cpu, Memory};

mod pod;
mod site;
mod traffic;

use site::Site;
use traffic::Traffic;

/// What an agent may take, in MiB: it sits beside a gateway that needs its memory.
const AGENT_RSS_MIB: f64 = 20.0;
/// What the controller may take with ten gateways, in MiB.
const CONTROLLER_RSS_MIB: f64 = 40.0;
/// The shortest pause between two heartbeats of an agent.
const HEARTBEAT: Duration = Duration::from_secs(60);
/// Nothing but renewals for this long is quiet.
const QUIET: Duration = Duration::from_secs(15);
const QUIET_LIMIT: Duration = Duration::from_secs(60);
const READY_LIMIT: Duration = Duration::from_secs(180);

/// What is measured, and for how long.
#[derive(Debug, Clone)]
pub struct Options {
    /// The root of the checkout, for its chart.
    pub workspace: PathBuf,
    /// The controller's program.
    pub controller: PathBuf,
    /// The agent's program.
    pub agent: PathBuf,
    /// How many gateways there are.
    pub gateways: usize,
    /// How many files each is given.
    pub files: usize,
    /// How long the window is.
    pub window: Duration,
}

/// What one look at everything finds.
struct Sight {
    at: Instant,
    requests: Vec<Vec<AuditedRequest>>,
    git: usize,
    controller: Cpu,
    agents: Vec<Cpu>,
}

/// Measures.
///
/// # Errors
///
/// This is not root (each gateway needs a network of its own), a part cannot be obtained or does not start, or the
/// gateways are not Ready in time.
pub async fn run(options: &Options) -> Result<Report> {
    if let Some(missing) = lacking() {
        bail!("{missing}");
    }
    eprintln!("Starting an API server, a controller and {} gateways.", options.gateways);
    let began = Instant::now();
    let mut site =
        Site::start(&options.workspace, &options.controller, &options.agent, options.files).await?;
    for number in 0..options.gateways {
        site.gateway(number).await.with_context(|| format!("gateway {number}"))?;
    }
    site.until_ready(READY_LIMIT).await?;
    eprintln!("All Synced, Ready=True after {:.1} s. Waiting for quiet.", began.elapsed().as_secs_f64());
    until_quiet(&site).await?;

    eprintln!("Watching for {} s.", options.window.as_secs());
    let before = Sight::now(&site)?;
    tokio::time::sleep(options.window).await;
    let after = Sight::now(&site)?;
    site.until_ready(Duration::from_secs(10)).await.context("at the end of the window")?;

    let mut report = Report::new("idle");
    memory(&site, &mut report)?;
    requests(&before, &after, &mut report);
    cpu(&before, &after, &mut report);
    Ok(report)
}

/// Why this machine cannot measure it.
pub fn lacking() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("root is needed: each gateway gets a network namespace, as a pod has");
    }
    let missing = |program: &str| stoker_testkit::tools::program(program).is_none();
    if ["unshare", "nsenter", "ip"].into_iter().any(missing) {
        return Some("unshare, nsenter (util-linux) and ip (iproute2) are needed");
    }
    None
}

impl Sight {
    fn now(site: &Site) -> Result<Self> {
        let requests = site.users().into_iter().map(|user| site.server.requests_of(&user));
        Ok(Self {
            requests: requests.collect::<Result<_>>()?,
            git: site.git.requests().len(),
            controller: process::cpu(site.controller.pid())?,
            agents: site.pods.iter().map(|(_, pod)| process::cpu(pod.agent.pid())).collect::<Result<_>>()?,
            at: Instant::now(),
        })
    }
}

/// Waits until nobody asks for anything but what is asked for regularly.
async fn until_quiet(site: &Site) -> Result<()> {
    let loud = || -> Result<Traffic> {
        let mut all = Traffic::default();
        for user in site.users() {
            all.add(&Traffic::of(&site.server.requests_of(&user)?));
        }
        Ok(all.without(&["get leases", "update leases"]))
    };
    let first = loud()?;
    let mut since = (first.clone(), Instant::now());
    let quiet = wait::until_true("the cluster to be quiet", QUIET_LIMIT, || {
        let quiet = loud().map(|now| {
            if now != since.0 {
                since = (now, Instant::now());
            }
            since.1.elapsed() >= QUIET
        });
        async move { quiet }
    });
    if quiet.await.is_err() {
        // The figures say it better than a failure would.
        let words = loud()?.since(&first).words();
        eprintln!("It does not become quiet: in {} s {words}.", QUIET_LIMIT.as_secs());
    }
    Ok(())
}

fn memory(site: &Site, report: &mut Report) -> Result<()> {
    let agents: Vec<Memory> =
        site.pods.iter().map(|(_, pod)| process::memory(pod.agent.pid())).collect::<Result<_>>()?;
    let of = |what: fn(&Memory) -> f64| agents.iter().map(what).collect::<Vec<f64>>();
    let note = format!("of {} agents", agents.len());
    let rss = of(|memory| memory.rss_mib);
    report.add("agent_rss_max", max(&rss), "MiB", Bound::AtMost(AGENT_RSS_MIB), &note);
    report.add("agent_rss_median", median(&rss), "MiB", Bound::AtMost(AGENT_RSS_MIB), &note);
    report.add("agent_pss_max", max(&of(|memory| memory.pss_mib)), "MiB", Bound::None, &note);
    report.add("agent_pss_median", median(&of(|memory| memory.pss_mib)), "MiB", Bound::None, &note);
    let anonymous = median(&of(|memory| memory.anonymous_mib));
    report.add("agent_anonymous_median", anonymous, "MiB", Bound::None, "heap and stacks");
    let controller = process::memory(site.controller.pid())?;
    let note = format!("with {} gateways", agents.len());
    report.add("controller_rss", controller.rss_mib, "MiB", Bound::AtMost(CONTROLLER_RSS_MIB), &note);
    report.add("controller_anonymous", controller.anonymous_mib, "MiB", Bound::None, "heap and stacks");
    Ok(())
}

fn requests(before: &Sight, after: &Sight, report: &mut Report) {
    let window = after.at - before.at;
    let heartbeats = (window.as_secs() / HEARTBEAT.as_secs() + 1) as f64;
    let traffic: Vec<Traffic> = before
        .requests
        .iter()
        .zip(&after.requests)
        .map(|(before, after)| Traffic::of(after.get(before.len()..).unwrap_or_default()))
        .collect();
    let Some((controller, agents)) = traffic.split_first() else { return };

    let worst = |count: &dyn Fn(&Traffic) -> u64| agents.iter().map(count).max().unwrap_or_default() as f64;
    let heartbeat = "patch configmaps";
    let renewal = "watch configmaps";
    let note = format!("the most of one gateway in {} s; one in 60 s is a heartbeat", window.as_secs());
    let beats = worst(&|traffic| traffic.count(heartbeat));
    report.add("agent_heartbeats_max", beats, "requests", Bound::AtMost(heartbeats), note);
    // A watch lasts 290 s.
    let renewals = (window.as_secs() / 290 + 1) as f64;
    let watches = worst(&|traffic| traffic.count(renewal));
    report.add("agent_watch_renewals_max", watches, "requests", Bound::AtMost(renewals), "each lasts 290 s");
    let others: Vec<Traffic> = agents.iter().map(|traffic| traffic.without(&[heartbeat, renewal])).collect();
    let loudest = others.iter().max_by_key(|traffic| traffic.total()).cloned().unwrap_or_default();
    let other = loudest.total() as f64;
    report.add("agent_other_requests_max", other, "requests", Bound::AtMost(0.0), loudest.words());

    for (name, count) in &controller.0 {
        let figure = format!("controller_{}", name.replace([' ', '/'], "_"));
        let note = if name.ends_with(traffic::LEASE) { "the Lease, every 2 s" } else { "" };
        report.add(figure, *count as f64, "requests", Bound::None, note);
    }
    let git = (after.git - before.git) as f64;
    // One look at the refs every 60 s; a server that wants a login is asked twice.
    let polls = 2.0 * (window.as_secs() as f64 / 60.0).ceil() + 2.0;
    report.add("git_requests", git, "requests", Bound::AtMost(polls), "the controller's polling, every 60 s");
}

fn cpu(before: &Sight, after: &Sight, report: &mut Report) {
    let window = (after.at - before.at).as_secs_f64();
    let spent = |before: &Cpu, after: &Cpu| (after.own - before.own).as_secs_f64() * 1000.0;
    let children = |before: &Cpu, after: &Cpu| (after.children - before.children).as_secs_f64() * 1000.0;
    let each: Vec<f64> = before.agents.iter().zip(&after.agents).map(|(b, a)| spent(b, a)).collect();
    let below: Vec<f64> = before.agents.iter().zip(&after.agents).map(|(b, a)| children(b, a)).collect();
    let note = |ms: f64| format!("in {window:.0} s, {:.2} % of a core", ms / window / 10.0);
    report.add("agent_cpu_max", max(&each), "ms", Bound::None, note(max(&each)));
    report.add("agent_cpu_median", median(&each), "ms", Bound::None, note(median(&each)));
    report.add("agent_children_cpu_median", median(&below), "ms", Bound::None, note(median(&below)));
    let controller = spent(&before.controller, &after.controller);
    report.add("controller_cpu", controller, "ms", Bound::None, note(controller));
    let below = children(&before.controller, &after.controller);
    report.add("controller_children_cpu", below, "ms", Bound::None, note(below));
}
