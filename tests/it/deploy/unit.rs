//! systemd's unit, judged by systemd.

use std::path::PathBuf;

use tempfile::TempDir;

use super::{BINARY, SHUTDOWN_GRACE, printed, program, read, said};

const UNIT: &str = "deploy/systemd/engagement-bridge.service";

/// The most of an exposure that is allowed, in tenths; systemd itself calls less than 20 fine.
const MOST_EXPOSURE: &str = "--threshold=13";

/// The unit, for a machine which has the program where it was built.
fn unit() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("engagement-bridge.service");
    let unit = read(UNIT).replace("/usr/local/bin/engagement-bridge", BINARY);
    std::fs::write(&path, unit).unwrap();
    (directory, path)
}

/// What the unit gives for a setting of systemd's.
fn setting(name: &str) -> String {
    let unit = read(UNIT);
    let value = unit.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    value.unwrap_or_else(|| panic!("no {name}")).to_owned()
}

#[test]
fn systemd_has_no_complaint_of_the_unit() {
    let (_directory, path) = unit();
    let output = program("systemd-analyze", &["verify", path.to_str().unwrap()]);
    // What it does not know it only mentions.
    assert_eq!(said(&output), "");
    assert!(output.status.success());
}

#[test]
fn the_unit_exposes_next_to_nothing() {
    let (_directory, path) = unit();
    let arguments = ["security", "--offline=yes", MOST_EXPOSURE, path.to_str().unwrap()];
    let told = printed("systemd-analyze", &arguments);
    assert!(told.contains("Overall exposure level"), "{told}");
}

#[test]
fn the_unit_leaves_time_for_a_stop() {
    let given: u64 = setting("TimeoutStopSec").parse().unwrap();
    assert!(SHUTDOWN_GRACE < given, "{given} s");
}

#[test]
fn the_unit_starts_what_there_is() {
    let start = setting("ExecStart");
    let (path, arguments) = start.split_once(' ').unwrap();
    assert_eq!(path, "/usr/local/bin/engagement-bridge");
    let mut arguments: Vec<&str> = arguments.split(' ').collect();
    arguments.push("--help");
    printed(BINARY, &arguments);
}
