//! Other people's code judges us: callbacks of the running bridge, the README's own snippets, whether
//! the API is what its document says, and which addresses are of the open internet.
//!
//! `tests/run` installs the libraries, with pinned versions, below `tests/outside`.

mod addresses;
mod msal;
mod prometheus;
mod schemathesis;
mod sign_in;
mod traces;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::world::{Received, World};

const README: &str = include_str!("../../../README.md");

pub(crate) fn outside() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/outside")
}

pub(crate) fn python() -> Command {
    let python = outside().join(".venv/bin/python");
    assert!(python.exists(), "the Python libraries are missing: tests/run installs them");
    Command::new(python)
}

pub(crate) fn node() -> Command {
    let modules = outside().join("node_modules");
    assert!(modules.exists(), "the npm packages are missing: tests/run installs them");
    let mut node = Command::new("node");
    node.current_dir(outside());
    node
}

/// Runs a program on `input`; what it prints.
pub(crate) fn run(mut program: Command, input: &str) -> String {
    let mut child = program
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program:?} cannot be started: {error}"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program:?} ended with {}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

fn headers(received: &Received) -> BTreeMap<&str, &str> {
    ["webhook-id", "webhook-timestamp", "webhook-signature"]
        .map(|name| (name, received.header(name)))
        .into()
}

fn case(secret: &str, received: &Received) -> Value {
    let body = std::str::from_utf8(&received.body).unwrap();
    json!({ "secret": secret, "headers": headers(received), "body": body })
}

/// What every library says of each case.
fn judged(cases: &[Value]) -> BTreeMap<&'static str, Vec<Value>> {
    let input = json!(cases).to_string();
    let mut by_python = python();
    by_python.arg(outside().join("judge.py"));
    let mut verdicts = BTreeMap::from([("PyPI standardwebhooks", run(by_python, &input))]);
    for (name, library) in [("npm standardwebhooks", "standardwebhooks"), ("npm svix", "svix")] {
        let mut by_node = node();
        by_node.args(["judge.mjs", library]);
        verdicts.insert(name, run(by_node, &input));
    }
    let read = |text: String| serde_json::from_str::<Vec<Value>>(&text).unwrap();
    let mut verdicts: BTreeMap<_, _> =
        verdicts.into_iter().map(|(name, text)| (name, read(text))).collect();
    verdicts.insert("crates.io standardwebhooks", cases.iter().map(judged_here).collect());
    verdicts
}

fn judged_here(case: &Value) -> Value {
    let webhook = standardwebhooks::Webhook::new(case["secret"].as_str().unwrap()).unwrap();
    let headers: http::HeaderMap = case["headers"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, value)| {
            let name: http::HeaderName = name.parse().unwrap();
            (name, value.as_str().unwrap().parse().unwrap())
        })
        .collect();
    match webhook.verify(case["body"].as_str().unwrap().as_bytes(), &headers) {
        Ok(()) => json!(true),
        Err(refusal) => json!(refusal.to_string()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn four_libraries_verify_callbacks_by_one_secret_during_a_rotation_and_beside_a_key() {
    let world = World::begin().await;
    let first = world.shop.signing_secret().expose().to_string();
    let unicode =
        json!([{ "status": "failed", "statusDetail": "Größe 📏 <&>\u{2028} \"quoted\"" }]);
    let before = world.tell(&unicode).await;

    let rotated = world.shop.post("/v1/signing-secrets", &json!({})).await;
    assert!(rotated.status.is_success(), "{rotated:?}");
    let second = rotated.body["secret"].as_str().unwrap().to_owned();
    let during = world.tell(&json!([{ "status": "succeeded" }])).await;
    assert_eq!(during.header("webhook-signature").matches("v1,").count(), 2);

    let made = world.shop.post("/v1/signing-keys", &json!({})).await;
    let key = made.body["publicKey"].as_str().unwrap();
    let beside = world.tell(&unicode).await;
    assert_eq!(beside.header("webhook-signature").matches("v1a,").count(), 1);
    by_key_too(key, &beside, &during);

    let mut tampered = case(&first, &before);
    tampered["body"] = json!(tampered["body"].as_str().unwrap().replace("failed", "succeeded"));
    let mut redated = case(&first, &before);
    let timestamp: i64 = before.header("webhook-timestamp").parse().unwrap();
    redated["headers"]["webhook-timestamp"] = json!((timestamp + 1).to_string());
    let mut renamed = case(&first, &before);
    renamed["headers"]["webhook-id"] = json!(during.header("webhook-id"));
    let good = [
        case(&first, &before),
        case(&first, &during),
        case(&second, &during),
        case(&first, &beside),
        case(&second, &beside),
    ];
    let bad = [case(&second, &before), tampered, redated, renamed];

    let judged = judged(&[&good[..], &bad].concat());
    assert_eq!(judged.len(), 4);
    for (library, verdicts) in judged {
        let (of_good, of_bad) = verdicts.split_at(good.len());
        assert_eq!(of_good, [const { Value::Bool(true) }; 5], "{library}");
        assert_eq!(of_bad.len(), bad.len());
        assert!(of_bad.iter().all(Value::is_string), "{library} believes anything: {of_bad:?}");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn four_libraries_verify_callbacks_in_every_format() {
    let world = World::begin().await;
    let secret = world.shop.signing_secret().expose().to_string();
    let mut cases = Vec::new();
    for format in ["envelope", "operation", "cloudEvents"] {
        let script = json!([{ "status": "failed", "statusDetail": "Größe 📏 <&>\u{2028}" }]);
        let mut registration = world.registration(&world.start(&script));
        registration["format"] = json!(format);
        registration["clientState"] = json!("Größe, 100%");
        world.shop.register(&registration).await;
        cases.push(case(&secret, &world.receiver.next().await));
    }
    for (library, verdicts) in judged(&cases) {
        assert_eq!(verdicts, [const { Value::Bool(true) }; 3], "{library}");
    }
    world.end().await;
}

/// Node's own cryptography says the same of the signature by Ed25519, which no official library looks
/// at.
fn by_key_too(key: &str, signed: &Received, unsigned: &Received) {
    let case = |received: &Received| {
        let body = std::str::from_utf8(&received.body).unwrap();
        json!({ "key": key, "headers": headers(received), "body": body })
    };
    let (good, mut tampered, mut renamed) = (case(signed), case(signed), case(signed));
    tampered["body"] = json!(tampered["body"].as_str().unwrap().replace("failed", "succeeded"));
    renamed["headers"]["webhook-id"] = json!(unsigned.header("webhook-id"));
    let cases = json!([good, tampered, renamed, case(unsigned)]).to_string();
    let mut by_node = node();
    by_node.arg("judge-keys.mjs");
    assert_eq!(run(by_node, &cases), "[true,false,false,false]");
}

/// The README's snippet in this language.
fn snippet(language: &str) -> &'static str {
    let (_, section) = README.split_once("## Verify a callback in your app").unwrap();
    let (_, behind) = section.split_once(&format!("```{language}\n")).unwrap();
    behind.split_once("```").unwrap().0
}

/// The README's function `receive`, called with a good body and with one that was tampered with.
fn tried(language: &str, received: &Received, secret: &str, test: &str, mut program: Command) {
    let directory = tempfile::tempdir_in(outside()).unwrap();
    let extension = if language == "python" { "py" } else { "mjs" };
    let path = directory.path().join("snippet").with_extension(extension);
    std::fs::write(&path, format!("{}\n{test}", snippet(language))).unwrap();
    program.arg(path).env("SIGNING_SECRET", secret);
    let input = case(secret, received).to_string();
    assert_eq!(run(program, &input).trim(), "taken, refused", "the {language} snippet");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_snippets_of_the_readme_work() {
    let world = World::begin().await;
    let secret = world.shop.signing_secret().expose().to_string();
    let received = world.tell(&json!([{ "status": "succeeded" }])).await;
    let python_test = "\
import json, sys
case = json.load(sys.stdin)
receive(case['body'].encode(), case['headers'])
try:
    receive(case['body'].encode() + b' ', case['headers'])
    print('taken, taken')
except Exception as refusal:
    assert type(refusal).__name__ == 'WebhookVerificationError', refusal
    print('taken, refused')
";
    tried("python", &received, &secret, python_test, python());
    let node_test = "\
import { readFileSync } from 'node:fs';
const { body, headers } = JSON.parse(readFileSync(0, 'utf8'));
receive(Buffer.from(body), headers);
try {
  receive(Buffer.from(body + ' '), headers);
  console.log('taken, taken');
} catch (refusal) {
  if (refusal.constructor.name !== 'WebhookVerificationError') throw refusal;
  console.log('taken, refused');
}
";
    tried("javascript", &received, &secret, node_test, node());
    world.end().await;
}
