//! The ways to run the bridge that `deploy` offers, each judged by the tool that it is for, and by
//! what this repository knows and that tool cannot.
//!
//! `tests/run` installs the tools.

mod bicep;
mod bill;
mod chart;
mod compose;
mod papers;
mod proxy;
mod unit;
mod workflows;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::outside::{outside, python, run};

const BINARY: &str = env!("CARGO_BIN_EXE_engagement-bridge");

/// How long a stop takes at the most, in seconds: `--shutdown-grace`, as it is by default.
const SHUTDOWN_GRACE: u64 = 25;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A program of Debian's, or of a path.
fn program(name: impl AsRef<OsStr>, arguments: &[&str]) -> Output {
    let name = name.as_ref();
    let output = Command::new(name).args(arguments).current_dir(root()).output();
    output.unwrap_or_else(|error| panic!("{}: {error}; tests/run installs it", name.display()))
}

/// All that a program said, on both streams.
fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|it| String::from_utf8_lossy(it)).concat()
}

/// What a program printed that had no complaint.
fn printed(name: impl AsRef<OsStr>, arguments: &[&str]) -> String {
    let output = program(name, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// The files below a directory of the repository, those of other people left out.
fn files(below: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![root().join(below)];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "there is nothing in {below}");
    found
}

/// The environment variables of the bridge that a text names.
fn variables(text: &str) -> BTreeSet<&str> {
    let is_part = |letter: char| letter.is_ascii_uppercase() || letter == '_';
    let names = text.split(|letter| !is_part(letter));
    names.filter(|name| name.starts_with("ENGAGEMENT_BRIDGE_") && !name.ends_with('_')).collect()
}

/// The documents of a YAML.
fn yaml(text: &str) -> Vec<Value> {
    let mut reader = python();
    reader.arg(outside().join("yaml-to-json.py"));
    serde_json::from_str(&run(reader, text)).unwrap()
}

/// A judge that is installed with the Python libraries.
fn judge(name: &str) -> PathBuf {
    outside().join(".venv/bin").join(name)
}
