//! The deployments of `docs/examples`, as written there.

use std::process::Command;

use serde_json::{Value, json};
use stoker_e2e::{Blueprint, CR, HOOK_SECRET, Pushed, Role, SERVICE, Site, VIEW, view};
use stoker_k8s::conditions;
use stoker_testkit::gitserver::Ssh;
use stoker_testkit::ignition::{self, Tree};
use stoker_testkit::{require, wait};

use crate::bed::{PATIENCE, bed, started};

const SYSTEM: &str = "config/resources/core/ignition/system-properties/config.json";
const PROJECT: &str = "projects/line/project.json";

fn system_name(site: &Site<'_>, pod: &str) -> String {
    let config: Value = serde_json::from_str(&site.read(pod, SYSTEM).unwrap()).unwrap();
    config["systemName"].as_str().unwrap().to_owned()
}

/// Example 1, over ssh; the server is none of those whose keys are built in, and the condition says what to do.
#[tokio::test(flavor = "multi_thread")]
async fn one_gateway_over_ssh_after_its_host_key_is_made_known() {
    let Some(bed) = bed().await else { return };
    let _calm = bed.calm.read().await;
    let address = bed.installation.node().host_address();
    let ssh = Ssh::start_at(address.into()).await.unwrap();
    let mut blueprint = Blueprint::example("1-five-minutes.yaml", ignition::small_site()).unwrap();
    blueprint.objects[0]["spec"]["git"]["repo"] = json!(ssh.url("plant.git"));
    blueprint.objects.push(json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "git-sync-secret"},
        "stringData": {"ssh-privatekey": ssh.private_key().unwrap()},
    }));
    let stoker = blueprint.objects[0].clone();
    let blueprint = blueprint.role(Role::new("gw").annotation("service-path", "services/gateway"));
    let site = Site::build(&bed.installation, &bed.forge, blueprint).await.unwrap();
    ssh.shelf().publish(&site.clone, "plant.git").unwrap();

    let message = wait::until("the unknown host key to be reported", PATIENCE, || async {
        let status = site.stoker_now().await?.status.unwrap_or_default();
        let condition = conditions::find(&status.conditions, conditions::SSH_HOST_KEY);
        Ok(condition.filter(|c| c.status == "False").map(|c| c.message.clone()))
    })
    .await
    .unwrap();
    let offered = ssh.known_hosts().unwrap();
    assert!(
        offered.lines().any(|line| message.contains(line)),
        "the line to add is in the message\n{message}\n{offered}"
    );

    let mut known = stoker;
    known["spec"]["git"]["auth"]["sshKey"]["knownHosts"] =
        json!({"secretRef": {"name": "git-host", "key": "known_hosts"}});
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "git-host"},
        "stringData": {"known_hosts": offered},
    });
    site.apply(&[secret, known]).unwrap();
    started(&site).await;
    assert!(site.read("gw-0", PROJECT).unwrap().contains("Line"));
}

fn site_and_areas() -> Tree {
    let mut tree = ignition::site_and_areas();
    let tags = json!([{"name": "Power", "tagType": "AtomicTag", "valueSource": "memory"}]);
    let unary = json!({"scope": "G", "version": 1, "files": ["tags.json"], "attributes": {"config": {}}});
    tree.json("shared/tags/default/unary-resource.json", &unary).json("shared/tags/default/tags.json", &tags);
    for service in ["services/site", "services/area"] {
        tree.json(
            format!("{service}/udts/unary-resource.json"),
            &json!({"scope": "G", "version": 1, "files": ["udts.json"], "attributes": {"config": {}}}),
        );
        tree.json(
            format!("{service}/udts/udts.json"),
            &json!([{"name": "Motor", "tagType": "UdtType", "tags": []}]),
        );
    }
    tree
}

/// Example 2: the same files for every area, other names; the next site is the next namespace.
#[tokio::test(flavor = "multi_thread")]
async fn a_site_and_its_areas_differ_by_name_only() {
    let Some(bed) = bed().await else { return };
    let _calm = bed.calm.read().await;
    let area = |name: &str| {
        Role::new(name)
            .annotation("gateway-name", name)
            .annotation("service-path", "services/area")
            .annotation("tag-provider", "edge")
            .annotation("system-name-template", "site{{.SiteNumber}}-{{.GatewayName}}")
    };
    let central = Role::new("site")
        .annotation("gateway-name", "site")
        .annotation("service-path", "services/site")
        .annotation("deployment-mode", "prd-cloud")
        .annotation("tag-provider", "default")
        .annotation("system-name-template", "site{{.SiteNumber}}");
    let blueprint = |number: &str| {
        let mut blueprint = Blueprint::example("2-site-and-areas.yaml", site_and_areas()).unwrap();
        assert_eq!(blueprint.objects[0]["spec"]["siteNumber"], "12");
        blueprint.objects[0]["spec"]["siteNumber"] = json!(number);
        blueprint
    };
    let first = blueprint("12").role(central).role(area("area1")).role(area("area2"));
    let second = blueprint("13").role(area("area1"));
    let (first, second) = tokio::join!(
        Site::build(&bed.installation, &bed.forge, first),
        Site::build(&bed.installation, &bed.forge, second),
    );
    let (first, second) = (first.unwrap(), second.unwrap());
    tokio::join!(started(&first), started(&second));

    assert_eq!(system_name(&first, "site-0"), "site12", "the overlay's file, with the site's name");
    assert_eq!(system_name(&first, "area1-0"), "site12-area1");
    assert_eq!(system_name(&first, "area2-0"), "site12-area2");
    assert_eq!(system_name(&second, "area1-0"), "site13-area1");
    let types = "config/resources/core/ignition/tag-type-definition";
    assert!(first.read("site-0", &format!("{types}/default/udts.json")).unwrap().contains("Motor"));
    assert!(first.read("area1-0", &format!("{types}/edge/udts.json")).unwrap().contains("Motor"));
    assert!(!first.data_of("area1-0").join(types).join("default/udts.json").exists());
    assert_eq!(first.read("area1-0", PROJECT).unwrap(), first.read("area2-0", PROJECT).unwrap());
}

/// Example 3: one entry for each pod; scaling needs no edit and leaves no entry behind.
#[tokio::test(flavor = "multi_thread")]
async fn frontends_scale_without_an_edit() {
    let Some(bed) = bed().await else { return };
    let _calm = bed.calm.read().await;
    let mut tree = Tree::new();
    for service in ["services/ignition-frontend", "services/ignition-backend"] {
        tree.project(&format!("{service}/projects/line"), service);
    }
    let blueprint = Blueprint::example("3-frontends-and-backend.yaml", tree)
        .unwrap()
        .role(
            Role::new("frontend")
                .replicas(5)
                .volumes(7)
                .annotation("gateway-name", "frontend")
                .annotation("service-path", "services/ignition-frontend"),
        )
        .role(
            Role::new("backend")
                .annotation("gateway-name", "backend")
                .annotation("service-path", "services/ignition-backend"),
        );
    let mut site = Site::build(&bed.installation, &bed.forge, blueprint).await.unwrap();
    for replicas in [5, 7, 2] {
        site.scale("frontend", replicas).unwrap();
        started(&site).await;
        let gateways = site.gateways_now().await.unwrap();
        let mut expected = site.pods();
        expected.sort();
        assert_eq!(gateways.keys().cloned().collect::<Vec<_>>(), expected);
        assert!(gateways.iter().all(|(pod, g)| pod.starts_with(&g.name)), "replicas share their name");
    }
    assert!(site.read("frontend-1", PROJECT).unwrap().contains("ignition-frontend"));
    assert!(site.read("backend-0", PROJECT).unwrap().contains("ignition-backend"));
}

/// Example 4: profiles by role, chosen by annotation; the areas wait for the site.
#[tokio::test(flavor = "multi_thread")]
async fn profiles_say_what_goes_where() {
    let Some(bed) = bed().await else { return };
    let _calm = bed.calm.read().await;
    let blueprint = Blueprint::example("4-profiles.yaml", site_and_areas())
        .unwrap()
        .role(Role::new("site").annotation("sync-profile", "site"))
        .role(Role::new("area").annotation("sync-profile", "area"));
    let site = Site::build(&bed.installation, &bed.forge, blueprint).await.unwrap();
    started(&site).await;
    let shared = "config/resources/core/ignition/tag-definition/default/tags.json";
    assert!(site.read("area-0", shared).unwrap().contains("Power"));
    assert!(!site.read("site-0", shared).unwrap().contains("Power"), "the site has its own tags only");
    assert_eq!(system_name(&site, "area-0"), "gateway-prd", "the overlay of the deployment mode");
    assert_eq!(system_name(&site, "site-0"), "gateway");
    let counted =
        site.kubectl(&["get", "syncprofiles", "--output", "jsonpath={.items[*].status.gatewayCount}"]);
    assert_eq!(counted.unwrap(), "1 1");

    // A profile that is edited badly disturbs nobody: the last accepted one stays in force.
    let bad =
        json!({"spec": {"mappings": [{"source": "services/area/projects", "destination": "../outside"}]}});
    let refused =
        site.kubectl(&["patch", "syncprofile", "area", "--type=merge", "--patch", &bad.to_string()]);
    assert!(refused.unwrap_err().to_string().contains(".."), "kubectl says why");
    // What the API server cannot judge: a variable that nobody defines.
    let mappings = json!([{"source": "services/{{.Vars.nope}}/projects", "destination": "projects"}]);
    let undefined = json!({"spec": {"mappings": mappings}}).to_string();
    site.kubectl(&["patch", "syncprofile", "area", "--type=merge", "--patch", &undefined]).unwrap();
    let wait = ["wait", "syncprofile/area", "--for=condition=Accepted=False", "--timeout=60s"];
    site.kubectl(&wait).unwrap();
    let title = "{\"title\": \"still followed\"}";
    site.push_files(&[("services/area/projects/line/project.json", title)]).await.unwrap();
    wait::until_true("the area to follow all the same", PATIENCE, || async {
        Ok(site.read("area-0", PROJECT)? == title)
    })
    .await
    .unwrap();
}

/// Example 5: a pipeline posts the tag, the `Stoker` goes to it, and a later edit of the spec wins again.
#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_promotes_a_tag_and_an_edit_takes_it_back() {
    let Some(bed) = bed().await else { return };
    let _calm = bed.calm.read().await;
    if require::program("openssl").is_none() {
        return;
    }
    let mut blueprint = Blueprint::walking(1);
    blueprint.objects[0]["spec"]["webhook"] = json!({"allowedRefs": ["v*"]});
    let site = Site::build(&bed.installation, &bed.forge, blueprint).await.unwrap();
    started(&site).await;
    let main = site.clone.head().unwrap();

    site.clone.switch("release").unwrap();
    let release =
        site.clone.commit_files("the release", &[(&format!("{SERVICE}/{VIEW}"), &view("v1.4.0"))]).unwrap();
    site.clone.tag("v1.4.0").unwrap();
    bed.forge.push(&site.clone, &site.remote, &["refs/tags/v1.4.0"]).unwrap();
    let receiver = bed.installation.receiver().await.unwrap();
    let url = format!("{receiver}/v1/namespaces/{}/stokers/{CR}/webhook", site.namespace);
    let post = |body: &'static str| {
        reqwest::Client::new()
            .post(&url)
            .header("content-type", "application/json")
            .header("x-signature", format!("sha256={}", signature(HOOK_SECRET, body)))
            .body(body)
            .send()
    };
    let refused = post(r#"{"ref": "release"}"#).await.unwrap();
    assert_eq!(refused.status(), 403, "a branch is not among the refs that may be requested");
    assert_eq!(post(r#"{"ref": "v1.4.0"}"#).await.unwrap().status(), 202);
    site.follow(&Pushed::now(&release), PATIENCE).await.unwrap();
    assert_eq!(site.read("gw-0", VIEW).unwrap(), view("v1.4.0"));

    // The spec is written anew: it wins, even with the value that it had before.
    let other = json!({"spec": {"git": {"ref": "refs/heads/main"}}}).to_string();
    site.kubectl(&["patch", "stoker", CR, "--type=merge", "--patch", &other]).unwrap();
    site.follow(&Pushed::now(&main), PATIENCE).await.unwrap();
}

/// The signature of a delivery, by OpenSSL: not by the code that checks it.
fn signature(secret: &str, body: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("body");
    std::fs::write(&file, body).unwrap();
    let output =
        Command::new("openssl").args(["dgst", "-sha256", "-hmac", secret, "-r"]).arg(&file).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().split_whitespace().next().unwrap().to_owned()
}
