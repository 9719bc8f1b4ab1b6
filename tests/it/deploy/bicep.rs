//! The Bicep for Azure, as far as it can be judged without its compiler, which no registry of packages
//! has: whether it is Bicep, and whether Azure knows what is said in it.

use super::{SHUTDOWN_GRACE, read, variables};
use crate::outside::{outside, python, run};

const FILE: &str = "deploy/azure/main.bicep";

#[test]
fn azure_knows_every_property() {
    let mut judge = python();
    judge.arg(outside().join("bicep.py")).arg(FILE);
    assert_eq!(run(judge, ""), "");
}

#[test]
fn no_secret_is_in_the_file_or_in_plain_sight() {
    let bicep = read(FILE);
    for parameter in ["masterKey", "adminKey", "databasePassword"] {
        let declared = format!("@secure()\nparam {parameter} string = ''\n");
        assert!(bicep.contains(&declared), "{parameter}");
    }
    // What has a password is handed over by the vault.
    assert!(
        bicep.contains("name: 'ENGAGEMENT_BRIDGE_DATABASE'\n                secretRef: 'database'")
    );
    assert_eq!(bicep.matches("keyVaultUrl: '${vault.").count(), 3);
    let outputs = bicep.lines().filter(|line| line.starts_with("output "));
    for output in outputs {
        assert!(!output.contains("Key string") && !output.contains("assword"), "{output}");
    }
    assert_eq!(variables(&bicep).len(), 3);
}

#[test]
fn the_containers_of_azure_are_asked_and_stopped_as_the_bridge_wants_it() {
    let bicep = read(FILE);
    let of = |kind: &str| {
        let probe = bicep.split_once(&format!("type: '{kind}'")).unwrap().1;
        probe.split_once("path: '").unwrap().1.split('\'').next().unwrap().to_owned()
    };
    assert_eq!(of("Startup"), "/healthz");
    assert_eq!(of("Liveness"), "/healthz");
    assert_eq!(of("Readiness"), "/readyz");
    let grace = bicep.split_once("terminationGracePeriodSeconds: ").unwrap().1;
    let grace: u64 = grace.split_whitespace().next().unwrap().parse().unwrap();
    assert!(SHUTDOWN_GRACE < grace);
}
