//! The chart, as Helm renders it for several sets of values, judged by Kubernetes' own schemas.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{BINARY, SHUTDOWN_GRACE, judge, printed, program, read, said, variables, yaml};
use crate::outside::outside;

const CHART: &str = "deploy/helm/engagement-bridge";

/// The oldest that the chart is for, and the newest that the judge knows.
const KUBERNETES: [&str; 2] = ["1.30", "1.37"];

/// The sets of values that are tried: what there is without any, and each file of `ci`.
const SETS: [Option<&str>; 3] = [None, Some("postgres"), Some("file")];

/// Settings of `serve` that the chart gives itself.
const OF_THE_CHART: [&str; 8] = [
    "database",
    "database-url-file",
    "master-key-file",
    "admin-key-file",
    "listen",
    "metrics-listen",
    "tls-certificate-file",
    "tls-key-file",
];

fn helm() -> String {
    outside().join("node_modules/.helm/helm").display().to_string()
}

fn rendered(set: Option<&str>, more: &[&str]) -> String {
    let values = set.map(|set| format!("--values={CHART}/ci/{set}-values.yaml"));
    let mut arguments = vec!["template", "bridge", CHART, "--namespace", "bridges"];
    arguments.extend(values.as_deref());
    arguments.extend(more);
    printed(helm(), &arguments)
}

fn manifests(set: Option<&str>) -> Vec<Value> {
    yaml(&rendered(set, &[]))
}

/// The one manifest of a kind, if there is one.
fn manifest(set: Option<&str>, kind: &str) -> Option<Value> {
    let mut found = manifests(set).into_iter().filter(|it| it["kind"] == kind);
    let manifest = found.next();
    assert!(found.next().is_none(), "more than one {kind}");
    manifest
}

/// The workload, and the pod that it is made of.
fn workload(set: Option<&str>) -> (Value, Value) {
    let kinds = ["Deployment", "StatefulSet"];
    let workload = kinds.iter().find_map(|kind| manifest(set, kind)).unwrap();
    let pod = workload["spec"]["template"]["spec"].clone();
    (workload, pod)
}

fn names(list: &Value) -> BTreeSet<&str> {
    list.as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect()
}

/// The names of the settings of `serve`, as flags.
fn flags() -> BTreeSet<String> {
    let settings = printed(BINARY, &["settings"]);
    let flags = settings.lines().filter(|line| line.contains("`ENGAGEMENT_BRIDGE_"));
    let flags = flags.filter_map(|line| line.strip_prefix("| `--")?.split('`').next());
    flags.map(str::to_owned).collect()
}

#[test]
fn helm_has_no_complaint_of_the_chart() {
    for set in SETS {
        let values = set.map(|set| format!("--values={CHART}/ci/{set}-values.yaml"));
        let mut arguments = vec!["lint", "--strict", CHART];
        arguments.extend(values.as_deref());
        printed(helm(), &arguments);
    }
}

#[test]
fn kubernetes_knows_everything_that_the_chart_renders() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("manifests.yaml");
    std::fs::write(&path, SETS.map(|set| rendered(set, &[])).concat()).unwrap();
    for version in KUBERNETES {
        let arguments = ["-k", version, "--strict", "--quiet", path.to_str().unwrap()];
        let output = program(judge("kubernetes-validate"), &arguments);
        assert!(output.status.success(), "{}", said(&output));
        // What is defined by the operator of Prometheus, Kubernetes does not know.
        let complaints = said(&output);
        let others = complaints.lines().filter(|line| !line.contains("ServiceMonitor"));
        assert_eq!(others.collect::<Vec<_>>(), <[&str; 0]>::default());
    }
}

#[test]
fn values_are_what_their_schema_says_and_mistakes_are_refused() {
    let schema = format!("{CHART}/values.schema.json");
    printed(judge("check-jsonschema"), &["--check-metaschema", &schema]);
    for (mistake, word) in [
        ("settings.graph-request=6", "graph-request"),
        ("database.kind=postgres", "secretName"),
        ("autoscaling.enabled=true", "autoscaling"),
        ("image.digest=latest", "digest"),
        ("replica=3", "replica"),
        ("workloadIdentity.enabled=true", "workloadIdentity.clientId"),
        ("ingress.enabled=true", "ingress.host"),
        ("metrics.serviceMonitor.enabled=true", "metrics.enabled"),
    ] {
        let output = program(helm(), &["template", "bridge", CHART, "--set", mistake]);
        assert!(!output.status.success(), "{mistake} is taken");
        assert!(said(&output).contains(word), "{mistake}: {}", said(&output));
    }
}

#[test]
fn every_setting_can_be_given_by_the_chart_and_there_are_no_others() {
    let schema: Value = serde_json::from_str(&read(format!("{CHART}/values.schema.json"))).unwrap();
    let listed = schema["properties"]["settings"]["properties"].as_object().unwrap();
    let listed: BTreeSet<_> = listed.keys().cloned().collect();
    let mut known = flags();
    known.retain(|flag| !OF_THE_CHART.contains(&flag.as_str()));
    let wanting: Vec<_> = known.difference(&listed).collect();
    assert!(wanting.is_empty(), "add {wanting:?} to `settings` in {CHART}/values.schema.json");
    let left: Vec<_> = listed.difference(&known).collect();
    assert!(left.is_empty(), "take {left:?} out of `settings` in {CHART}/values.schema.json");
}

#[test]
fn pods_are_told_settings_that_the_bridge_has_in_words_that_it_reads() {
    let known = printed(BINARY, &["settings"]);
    let known = variables(&known);
    for set in SETS {
        let (_, pod) = workload(set);
        let environment = pod["containers"][0]["env"].clone();
        for name in names(&environment).iter().filter(|name| name.starts_with("ENGAGEMENT_")) {
            assert!(known.contains(name), "{name}");
        }
    }
    let (_, pod) = workload(Some("postgres"));
    let environment = pod["containers"][0]["env"].as_array().unwrap();
    let value = |name: &str| {
        environment.iter().find(|it| it["name"] == format!("ENGAGEMENT_BRIDGE_{name}")).unwrap()
    };
    assert_eq!(value("LIVE_OPERATIONS")["value"], "1000000");
    assert_eq!(value("ALLOW_HTTP_CALLBACKS")["value"], "true");
    assert_eq!(value("DATABASE")["valueFrom"]["secretKeyRef"]["name"], "bridge-database");
}

#[test]
fn pods_have_no_right_that_they_do_not_need() {
    for set in SETS {
        let (_, pod) = workload(set);
        assert_eq!(pod["automountServiceAccountToken"], false);
        assert_eq!(pod["enableServiceLinks"], false);
        for shared in ["hostNetwork", "hostPID", "hostIPC"] {
            assert!(pod[shared].is_null());
        }
        let context = &pod["securityContext"];
        assert_eq!(context["runAsNonRoot"], true);
        // Whom the image's own files belong to.
        for id in ["runAsUser", "runAsGroup", "fsGroup"] {
            assert_eq!(context[id], 65_532, "{id}");
        }
        assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault");
        let [container] = &pod["containers"].as_array().unwrap()[..] else {
            panic!("more than one container")
        };
        let context = &container["securityContext"];
        assert_eq!(context["allowPrivilegeEscalation"], false);
        assert_eq!(context["readOnlyRootFilesystem"], true);
        assert_eq!(context["capabilities"], json!({ "drop": ["ALL"] }));
        assert!(context["privileged"].is_null());
        for resource in ["cpu", "memory"] {
            assert!(container["resources"]["requests"][resource].is_string());
        }
        assert!(container["resources"]["limits"]["memory"].is_string());
    }
}

#[test]
fn probes_ask_what_the_bridge_answers_and_a_stop_has_its_time() {
    let routes = read("src/api/health.rs");
    for set in SETS {
        let (_, pod) = workload(set);
        let container = &pod["containers"][0];
        let ports = names(&container["ports"]);
        for (probe, path) in [
            ("startupProbe", "/healthz"),
            ("livenessProbe", "/healthz"),
            ("readinessProbe", "/readyz"),
        ] {
            let asked = &container[probe]["httpGet"];
            assert_eq!(asked["path"], path);
            assert!(routes.contains(&format!("path = \"{path}\"")));
            assert!(ports.contains(asked["port"].as_str().unwrap()));
            assert_eq!(asked["scheme"], if set == Some("postgres") { "HTTPS" } else { "HTTP" });
        }
        let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
        let before = container["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64().unwrap();
        assert!(before + SHUTDOWN_GRACE < grace, "{before} s and {SHUTDOWN_GRACE} s in {grace} s");
    }
}

#[test]
fn a_file_has_one_bridge_on_a_volume_and_a_database_has_several() {
    let (workload, pod) = workload(None);
    assert_eq!(workload["kind"], "StatefulSet");
    assert_eq!(workload["spec"]["replicas"], 1);
    let claim = &workload["spec"]["volumeClaimTemplates"][0];
    assert_eq!(claim["spec"]["accessModes"], json!(["ReadWriteOnce"]));
    let mounts = &pod["containers"][0]["volumeMounts"];
    assert_eq!(mounts[0], json!({ "name": claim["metadata"]["name"], "mountPath": "/data" }));
    for kind in ["PodDisruptionBudget", "HorizontalPodAutoscaler"] {
        assert!(manifest(None, kind).is_none(), "{kind} of one");
    }

    let (workload, _) = self::workload(Some("postgres"));
    assert_eq!(workload["kind"], "Deployment");
    assert!(workload["spec"]["replicas"].is_null(), "who scales says how many");
    assert_eq!(workload["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"], 0);
    let selector = &workload["spec"]["selector"];
    for kind in ["PodDisruptionBudget", "HorizontalPodAutoscaler"] {
        let manifest = manifest(Some("postgres"), kind).unwrap();
        let of = &manifest["spec"];
        assert!(of["selector"] == *selector || of["scaleTargetRef"]["kind"] == "Deployment");
    }
}

#[test]
fn a_bridge_reaches_the_internet_and_nothing_of_the_cluster() {
    let spec = manifest(None, "NetworkPolicy").unwrap()["spec"].take();
    assert_eq!(spec["policyTypes"], json!(["Ingress", "Egress"]));
    let egress = spec["egress"].as_array().unwrap();
    let [names, internet] = &egress[..] else { panic!("{egress:?}") };
    let ports = |rule: &Value| {
        let ports = rule["ports"].as_array().unwrap().iter();
        ports.map(|it| it["port"].as_u64().unwrap()).collect::<BTreeSet<_>>()
    };
    assert_eq!(ports(names), [53].into());
    assert_eq!(ports(internet), [443, 8443].into());
    for block in internet["to"].as_array().unwrap() {
        let block = &block["ipBlock"];
        let all: ipnet::IpNet = block["cidr"].as_str().unwrap().parse().unwrap();
        let except = block["except"].as_array().unwrap().iter();
        let except: Vec<ipnet::IpNet> =
            except.map(|it| it.as_str().unwrap().parse().unwrap()).collect();
        assert!(except.iter().all(|it| all.contains(it)), "{block}");
        for inside in [
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "::1/128",
            "fc00::/7",
            "fe80::/10",
        ] {
            let inside: ipnet::IpNet = inside.parse().unwrap();
            let is_open = all.contains(&inside) && !except.iter().any(|it| it.contains(&inside));
            assert!(!is_open, "some of {inside} can be reached");
        }
    }

    // The machine's identity is reached only by those who say that they have one.
    let metadata = "169.254.169.254/32";
    assert!(!rendered(None, &[]).contains(metadata));
    let asked = "networkPolicy.egress.instanceMetadata=true";
    assert!(rendered(None, &["--set", asked]).contains(metadata));
    // And a database is reached where there is one.
    let spec = manifest(Some("postgres"), "NetworkPolicy").unwrap()["spec"].take();
    assert!(spec["egress"].as_array().unwrap().iter().any(|rule| ports(rule) == [5432].into()));
}

#[test]
fn who_proves_itself_by_kubernetes_has_a_token_for_entra() {
    let account = manifest(Some("postgres"), "ServiceAccount").unwrap();
    let annotations = &account["metadata"]["annotations"];
    assert_eq!(
        annotations["azure.workload.identity/client-id"],
        "11111111-2222-3333-4444-555555555555"
    );
    let (workload, pod) = workload(Some("postgres"));
    let labels = &workload["spec"]["template"]["metadata"]["labels"];
    assert_eq!(labels["azure.workload.identity/use"], "true");
    assert_eq!(pod["serviceAccountName"], account["metadata"]["name"]);
    let volumes = pod["volumes"].as_array().unwrap();
    let volume = volumes.iter().find(|it| it["name"] == "entra").unwrap();
    let token = &volume["projected"]["sources"][0]["serviceAccountToken"];
    assert_eq!(token["audience"], "api://AzureADTokenExchange");
    let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
    let mount = mounts.iter().find(|it| it["name"] == "entra").unwrap();
    let path =
        format!("{}/{}", mount["mountPath"].as_str().unwrap(), token["path"].as_str().unwrap());
    assert!(read(format!("{CHART}/values.yaml")).contains(&path));
}

#[test]
fn an_ingress_leads_to_all_that_is_the_callers_and_to_nothing_of_the_operators() {
    let ingress = manifest(Some("postgres"), "Ingress").unwrap();
    let paths = ingress["spec"]["rules"][0]["http"]["paths"].as_array().unwrap();
    let led: BTreeSet<_> = paths.iter().map(|it| it["path"].as_str().unwrap().to_owned()).collect();
    let mut of_callers = routes();
    // For the operator, and for what watches.
    for inside in ["/v1/admin", "/healthz", "/readyz"] {
        assert!(of_callers.remove(inside), "{inside}");
    }
    of_callers.remove("/metrics");
    of_callers.insert("/openapi.json".to_owned());
    assert_eq!(led, of_callers);
}

/// The first two parts of each path of the API.
fn routes() -> BTreeSet<String> {
    let document = read(
        "tests/it/api/snapshots/it__api__document__the_document_is_reviewed_whenever_it_changes.snap",
    );
    let paths = document.lines().filter_map(|line| line.strip_prefix("    \"/")?.split('"').next());
    paths
        .map(|path| format!("/{}", path.splitn(3, '/').take(2).collect::<Vec<_>>().join("/")))
        .collect()
}

#[test]
fn a_certificate_is_read_where_it_is_and_followed_as_it_is_replaced() {
    let (_, pod) = workload(Some("postgres"));
    let volumes = pod["volumes"].as_array().unwrap();
    let volume = volumes.iter().find(|it| it["name"] == "tls").unwrap();
    assert_eq!(volume["secret"]["secretName"], "bridge-own-tls");
    let container = &pod["containers"][0];
    let mounts = container["volumeMounts"].as_array().unwrap();
    let mount = mounts.iter().find(|it| it["name"] == "tls").unwrap();
    // Kubernetes replaces what is in a directory, and never a file that was mounted by itself.
    assert!(mount["subPath"].is_null());
    let environment = container["env"].as_array().unwrap();
    for (name, file) in [("TLS_CERTIFICATE_FILE", "tls.crt"), ("TLS_KEY_FILE", "tls.key")] {
        let name = format!("ENGAGEMENT_BRIDGE_{name}");
        let given = environment.iter().find(|it| it["name"] == name.as_str()).unwrap();
        assert_eq!(given["value"], format!("{}/{file}", mount["mountPath"].as_str().unwrap()));
    }
    let service = manifest(Some("postgres"), "Service").unwrap();
    assert_eq!(service["spec"]["ports"][0]["appProtocol"], "https");
}

#[test]
fn metrics_are_asked_for_where_they_are() {
    assert!(manifest(None, "ServiceMonitor").is_none());
    let monitor = manifest(Some("postgres"), "ServiceMonitor").unwrap();
    let endpoint = &monitor["spec"]["endpoints"][0];
    assert_eq!(endpoint["path"], "/metrics");
    let service = manifest(Some("postgres"), "Service").unwrap();
    assert!(names(&service["spec"]["ports"]).contains(endpoint["port"].as_str().unwrap()));
    let wanted = monitor["spec"]["selector"]["matchLabels"].as_object().unwrap();
    for (label, value) in wanted {
        assert_eq!(&service["metadata"]["labels"][label], value);
    }
    // They need no key, so not everybody comes to them.
    let spec = manifest(Some("postgres"), "NetworkPolicy").unwrap()["spec"].take();
    let mut rules = spec["ingress"].as_array().unwrap().iter();
    let rule = rules.find(|it| it["ports"][0]["port"] == "metrics").unwrap();
    assert!(rule["from"][0]["namespaceSelector"].is_object());
    let open = program(
        helm(),
        &[
            "template",
            "bridge",
            CHART,
            "--set=metrics.enabled=true,metrics.serviceMonitor.enabled=true,service.type=LoadBalancer",
        ],
    );
    assert!(!open.status.success(), "metrics are led outside");
}

#[test]
fn the_chart_has_the_version_of_the_bridge() {
    let chart = yaml(&read(format!("{CHART}/Chart.yaml"))).remove(0);
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["description"], env!("CARGO_PKG_DESCRIPTION"));
}
