//! The bill of materials and the list of licences.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{printed, read, root};
use crate::outside::{outside, python, run};

/// Both, as `deploy/sbom` writes them.
fn written() -> (Value, String, String) {
    let directory = tempfile::tempdir().unwrap();
    printed(root().join("deploy/sbom"), &[directory.path().to_str().unwrap()]);
    let path = directory.path().join("engagement-bridge.cdx.json");
    let mut judge = python();
    judge.arg(outside().join("bill.py")).arg(&path);
    run(judge, "");
    let text = std::fs::read_to_string(path).unwrap();
    let licences = std::fs::read_to_string(directory.path().join("licences.txt")).unwrap();
    (serde_json::from_str(&text).unwrap(), text, licences)
}

#[test]
fn the_bill_of_materials_names_what_is_linked_and_where_it_is_from() {
    let (bill, text, licences) = written();
    assert_eq!(bill["metadata"]["component"]["version"], env!("CARGO_PKG_VERSION"));
    let components = bill["components"].as_array().unwrap();
    let names: BTreeSet<_> = components.iter().map(|it| it["name"].as_str().unwrap()).collect();
    for linked in ["axum", "ring", "rusqlite", "tokio-postgres", "webpki-roots", "sqlite"] {
        assert!(names.contains(linked), "{linked}");
    }
    for not_linked in ["proptest", "insta", "syn", "cc", "engagement-bridge"] {
        assert!(!names.contains(not_linked), "{not_linked}");
    }
    let lock = read("Cargo.lock");
    for component in components {
        let (name, version) =
            (component["name"].as_str().unwrap(), component["version"].as_str().unwrap());
        assert!(component["licenses"][0].is_object(), "{name}");
        assert!(licences.contains(&format!("{name} {version}")), "{name}");
        if name == "sqlite" {
            continue;
        }
        let locked = format!("name = \"{name}\"\nversion = \"{version}\"");
        let entry = lock.split_once(&locked).unwrap_or_else(|| panic!("{name}")).1;
        let digest = component["hashes"][0]["content"].as_str().unwrap();
        assert!(entry.split("[[package]]").next().unwrap().contains(digest), "{name}");
    }
    // Every edge leads to something that is named.
    let known: BTreeSet<_> =
        components.iter().map(|it| &it["bom-ref"]).map(Value::as_str).collect();
    for dependency in bill["dependencies"].as_array().unwrap() {
        for on in dependency["dependsOn"].as_array().into_iter().flatten() {
            assert!(known.contains(&on.as_str()), "{on}");
        }
    }
    assert_eq!(text, written().1, "the same commit gives the same bytes");
}
