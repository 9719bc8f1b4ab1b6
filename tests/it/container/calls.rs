//! What a container asks of the kernel, within what systemd lets the unit ask.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::json;

use super::Volume;
use crate::world::sandbox;

const UNIT: &str = include_str!("../../../deploy/systemd/engagement-bridge.service");

/// The system calls of one of systemd's sets, those of the sets in it included.
fn calls(set: &str) -> BTreeSet<String> {
    let output = Command::new("systemd-analyze").args(["syscall-filter", set]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let words =
        text.lines().skip(1).map(str::trim).filter(|it| !it.is_empty() && !it.starts_with('#'));
    words
        .flat_map(|word| if word.starts_with('@') { calls(word) } else { [word.to_owned()].into() })
        .collect()
}

/// What the unit allows.
fn allowed() -> BTreeSet<String> {
    // Whatever else is said.
    let mut allowed = calls("@default");
    let filters = UNIT.lines().filter_map(|line| line.strip_prefix("SystemCallFilter="));
    for filter in filters {
        let (is_taken_away, sets) = match filter.strip_prefix('~') {
            Some(sets) => (true, sets),
            None => (false, filter),
        };
        for call in sets.split(' ').flat_map(calls) {
            if is_taken_away {
                allowed.remove(&call);
            } else {
                allowed.insert(call);
            }
        }
    }
    assert!(allowed.contains("write") && !allowed.contains("mount"));
    allowed
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bridge_needs_no_system_call_that_its_unit_forbids() {
    // What the unit refuses, kills here.
    let profile = json!({
        "defaultAction": "SCMP_ACT_KILL_PROCESS",
        "archMap": [{ "architecture": "SCMP_ARCH_X86_64", "subArchitectures": [] }],
        "syscalls": [{ "names": allowed(), "action": "SCMP_ACT_ALLOW" }],
    });
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("seccomp.json");
    std::fs::write(&path, profile.to_string()).unwrap();

    let sandbox = sandbox().await;
    let option = format!("--security-opt=seccomp={}", path.display());
    let container = Volume::new(sandbox.root()).await.option(option);
    let container = container.serve().await;
    container.add_shop().await;
    container.signal("TERM").await;
    assert_eq!(container.ended().await, Some(0));
}
