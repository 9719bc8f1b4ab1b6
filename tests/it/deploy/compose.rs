//! `deploy/compose.yaml`, as docker-compose reads it.

use std::process::Command;

use serde_json::{Value, json};

use super::{SHUTDOWN_GRACE, judge, printed, program, root, said, yaml};

const FILE: &str = "deploy/compose.yaml";

/// The services by name, with all that is shared between them filled in.
fn services() -> Value {
    let mut compose = Command::new("docker-compose");
    compose.args(["--file", FILE, "--profile", "postgres", "config"]).current_dir(root());
    let output = compose.output();
    let output =
        output.unwrap_or_else(|error| panic!("{error}; tests/run installs docker-compose"));
    assert!(output.status.success(), "{}", said(&output));
    yaml(&String::from_utf8(output.stdout).unwrap()).remove(0)["services"].take()
}

/// Those that run the bridge.
fn bridges() -> Vec<(String, Value)> {
    let Value::Object(services) = services() else { panic!("no services") };
    let bridges: Vec<_> =
        services.into_iter().filter(|(name, _)| name.starts_with("bridge")).collect();
    assert_eq!(bridges.len(), 3);
    bridges
}

fn seconds(duration: &Value) -> u64 {
    let text = duration.as_str().unwrap();
    text.strip_suffix('s').and_then(|it| it.parse().ok()).unwrap_or_else(|| panic!("{text}"))
}

#[test]
fn what_is_composed_is_well_formed() {
    let output = program("docker-compose", &["--file", FILE, "config", "--quiet"]);
    assert_eq!(said(&output), "");
    assert!(output.status.success());
    // What the specification says, and not only one implementation of it.
    printed(judge("check-jsonschema"), &["--builtin-schema", "vendor.compose-spec", FILE]);
}

#[test]
fn composed_bridges_have_no_right_that_they_do_not_need() {
    for (name, bridge) in bridges() {
        assert_eq!(bridge["read_only"], true, "{name}");
        assert_eq!(bridge["cap_drop"], json!(["ALL"]), "{name}");
        assert!(bridge["cap_add"].is_null() && bridge["privileged"].is_null(), "{name}");
        assert_eq!(bridge["security_opt"], json!(["no-new-privileges:true"]), "{name}");
        assert!(bridge["user"].is_null(), "{name}: the image says who it is");
        assert!(bridge["mem_limit"].is_string() && bridge["pids_limit"].is_u64(), "{name}");
        assert!(bridge["healthcheck"].is_null(), "{name}: the image knows how it is asked");
        assert!(SHUTDOWN_GRACE < seconds(&bridge["stop_grace_period"]), "{name}");
    }
}

#[test]
fn replicas_that_are_composed_share_a_database_and_have_their_secrets_in_files() {
    let services = services();
    let (one, other) = (&services["bridge-1"], &services["bridge-2"]);
    assert_eq!(one, other);
    let environment = one["environment"].as_object().unwrap();
    let is_handed = |service: &Value, secret: &str| {
        service["secrets"].as_array().unwrap().iter().any(|it| it["source"] == secret)
    };
    for secret in ["master-key", "admin-key", "database-url"] {
        let variable = secret.to_uppercase().replace('-', "_");
        let variable = format!("ENGAGEMENT_BRIDGE_{variable}_FILE");
        assert_eq!(environment[&variable], format!("/run/secrets/{secret}"));
        assert!(is_handed(one, secret), "{secret}");
    }
    let database = &services["database"];
    let password = &database["environment"]["POSTGRES_PASSWORD_FILE"];
    assert_eq!(*password, "/run/secrets/database-password");
    assert!(is_handed(database, "database-password"));
    assert!(!is_handed(one, "database-password"), "it has it in its URL");
    assert_eq!(one["depends_on"]["database"]["condition"], "service_healthy");
    assert!(services["database"]["healthcheck"]["test"].is_array());
    // Nobody reaches a replica or the database from outside but by the proxy.
    assert!(one["ports"].is_null() && services["database"]["ports"].is_null());
    assert_eq!(services["database"]["networks"].as_object().unwrap().len(), 1);
    for waited_for in ["bridge-1", "bridge-2"] {
        assert_eq!(services["proxy"]["depends_on"][waited_for]["condition"], "service_healthy");
    }
}

#[test]
fn a_bridge_that_is_composed_alone_listens_to_this_machine_only() {
    let services = services();
    let ports = services["bridge"]["ports"].as_array().unwrap();
    assert_eq!(ports, &[json!("127.0.0.1:8080:8080/tcp")]);
    assert!(services["bridge"]["profiles"].is_null());
    assert_eq!(services["bridge"]["volumes"], json!(["data:/data:rw"]));
}
