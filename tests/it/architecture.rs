//! Who may know whom, who may read the clock and the environment, and why.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Modules of the library, whom each may import, and why no others.
const MAY_IMPORT: &[(&str, &[&str], &str)] = &[
    ("operation", &[], "pure rules: they know nothing but themselves"),
    ("callback", &["operation"], "pure rules: its id is derived from the operation's"),
    ("lane", &["callback", "operation"], "pure rules: they read what an answer means"),
    ("clock", &[], "everybody may know it, so it knows nobody"),
    ("nudge", &[], "carries urgency, never content"),
    ("metrics", &[], "counts what others tell it, and writes it down"),
    ("names", &[], "resolves names, whoever asks"),
    ("tls", &["clock"], "the same for Graph and for receivers; looks after a certificate in time"),
    ("traces", &["metrics", "operation"], "tells a collector, whatever others have done"),
    ("vault", &[], "seals bytes, whatever they are"),
    (
        "graph",
        &["clock", "lane", "metrics", "operation", "tls"],
        "knows one outside system, and neither the store nor the courier",
    ),
    (
        "courier",
        &["callback", "clock", "lane", "names", "operation"],
        "knows one outside system, and neither the store nor Graph",
    ),
    (
        "store",
        &[
            "callback",
            "clock",
            "courier",
            "graph",
            "lane",
            "metrics",
            "names",
            "operation",
            "vault",
        ],
        "keeps what others define, the time that replicas share included, and finds its server; does \
         nothing by itself",
    ),
    (
        "worker",
        &[
            "callback",
            "clock",
            "courier",
            "graph",
            "lane",
            "metrics",
            "nudge",
            "operation",
            "store",
            "traces",
        ],
        "acts through traits, and never sees a request or names a database",
    ),
    (
        "handshake",
        &["clock", "courier", "lane", "operation", "store"],
        "has receivers asked through a trait, and keeps what they agreed to",
    ),
    (
        "api",
        &[
            "callback",
            "clock",
            "courier",
            "graph",
            "handshake",
            "metrics",
            "nudge",
            "operation",
            "provision",
            "sign_in",
            "store",
            "traces",
        ],
        "stores and nudges, and never takes a step or names a database",
    ),
    (
        "sign_in",
        &["graph"],
        "judges tokens, whoever asks, and has the authority asked through a trait",
    ),
    ("provision", &["api", "courier", "store"], "sets up callers through the directory"),
    (
        "config",
        &[
            "api",
            "callback",
            "courier",
            "graph",
            "lane",
            "operation",
            "sign_in",
            "tls",
            "vault",
            "worker",
        ],
        "splits the settings into what each part takes",
    ),
    ("sandbox", &["clock"], "an independent witness: shares no code with what it watches"),
    ("shutdown", &[], "two stages, whatever they stop"),
    ("telemetry", &[], "set up once, before anything else"),
];

/// These put everything together, so they may know all.
const MAY_KNOW_ALL: &[&str] = &["cli", "lib", "main", "serve"];

/// What may be named in few places only: the text, where, and why.
const ONLY_IN: &[(&str, &[&str], &str)] = &[
    ("Timestamp::now", &["clock"], "time is a parameter, so that tests can set it"),
    ("SystemTime::now", &[], "time is a parameter, so that tests can set it"),
    ("std::time::Instant", &[], "tokio's can be paused by tests, this one cannot"),
    ("env::var", &["config.rs"], "all settings are in one place, with their help"),
    ("HttpConnector", &["courier/exit"], "callbacks are dialled where the guard is asked"),
    ("SystemClock", &["clock", "cli"], "only those who put all together name it"),
    ("SteadyClock", &["clock", "serve"], "only those who put all together name it"),
    ("SqliteStore", &["store/sqlite", "serve"], "nobody else names a database"),
    ("PostgresStore", &["store/postgres", "serve"], "nobody else names a database"),
    ("MemoryStore", &["store/memory", "store/mod.rs"], "nobody else names a database"),
    ("unbounded_channel", &[], "every queue is bounded"),
    ("tokio::spawn(", &[], "what is spawned is waited for at the end"),
];

/// What is absent from the pure core.
const IMPURE: &[&str] =
    &["async ", ".await", "tokio", "tracing", "serde", "std::fs", "std::net", "std::env", "rand"];

fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut directories = vec![root.clone()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(&root).unwrap().to_owned(), product_code(&text)));
            }
        }
    }
    assert!(80 < found.len(), "the sources were not found");
    found
}

/// Without comments and without tests.
fn product_code(text: &str) -> String {
    let until_tests = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines = until_tests.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

fn is_test(path: &Path) -> bool {
    path.ends_with("tests.rs") || path.components().any(|part| part.as_os_str() == "tests")
}

/// The module of the library that a file belongs to.
fn module(path: &Path) -> String {
    let first = path.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// The modules that follow `crate::` in a text, also in `use crate::{a, b::c}`.
fn imports(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (position, _) in text.match_indices("crate::") {
        let behind = &text[position + "crate::".len()..];
        let Some(group) = behind.strip_prefix('{') else {
            found.push(word(behind));
            continue;
        };
        let (mut depth, mut at_name) = (0, true);
        for (position, character) in group.char_indices() {
            match character {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => at_name = true,
                _ if at_name && character.is_alphabetic() => {
                    found.push(word(&group[position..]));
                    at_name = false;
                }
                _ => {}
            }
        }
    }
    found
}

fn word(text: &str) -> String {
    text.chars().take_while(|it| it.is_alphanumeric() || *it == '_').collect()
}

#[test]
fn each_module_imports_only_whom_it_may() {
    let allowed: BTreeMap<_, _> =
        MAY_IMPORT.iter().map(|(name, may, why)| (*name, (may, why))).collect();
    let mut complaints = String::new();
    for (path, text) in sources() {
        let module = module(&path);
        if MAY_KNOW_ALL.contains(&module.as_str()) || is_test(&path) {
            continue;
        }
        let Some((may, why)) = allowed.get(module.as_str()) else {
            writeln!(complaints, "{module} is new: say here whom it may import, and why").unwrap();
            continue;
        };
        for import in imports(&text) {
            if import != module
                && allowed.contains_key(import.as_str())
                && !may.contains(&import.as_str())
                || MAY_KNOW_ALL.contains(&import.as_str())
            {
                writeln!(complaints, "{} imports {import}, but {module} {why}", path.display())
                    .unwrap();
            }
        }
    }
    assert!(complaints.is_empty(), "\n{complaints}");
}

#[test]
fn no_permission_is_left_over() {
    let mut used: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (path, text) in sources() {
        used.entry(module(&path)).or_default().extend(imports(&text));
    }
    for (module, may, _) in MAY_IMPORT {
        for import in *may {
            assert!(
                used[*module].iter().any(|it| it == import),
                "{module} no longer imports {import}"
            );
        }
    }
}

#[test]
fn what_belongs_in_one_place_is_in_no_other() {
    let mut complaints = String::new();
    for (path, text) in sources() {
        for (wanted, places, why) in ONLY_IN {
            let is_there = places.iter().any(|place| path.starts_with(place));
            if !is_there && !is_test(&path) && text.contains(wanted) {
                writeln!(complaints, "{} names {wanted}: {why}", path.display()).unwrap();
            }
        }
    }
    assert!(complaints.is_empty(), "\n{complaints}");
}

#[test]
fn the_core_is_pure() {
    let mut looked_at = 0;
    for (path, text) in sources() {
        if !matches!(module(&path).as_str(), "operation" | "callback" | "lane") || is_test(&path) {
            continue;
        }
        looked_at += 1;
        for impure in IMPURE {
            assert!(
                !text.contains(impure),
                "{} holds {impure:?}: the core only decides",
                path.display()
            );
        }
    }
    assert!(8 <= looked_at);
}

/// What decides where callbacks may go, and what is absent from it beside [`IMPURE`].
const RULES_OF_THE_GUARD: &[&str] =
    &["addresses.rs", "embedded.rs", "hosts.rs", "refusal.rs", "rules.rs", "url.rs"];

#[test]
fn the_rules_of_the_guard_are_pure() {
    for (path, text) in sources() {
        let Ok(file) = path.strip_prefix("courier/egress") else { continue };
        if !RULES_OF_THE_GUARD.iter().any(|it| file == Path::new(it)) {
            continue;
        }
        // Addresses are values.
        let impure = IMPURE.iter().filter(|it| **it != "std::net").chain(&["crate::", "Egress"]);
        for impure in impure {
            assert!(!text.contains(impure), "{} holds {impure:?}: it only decides", path.display());
        }
    }
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/courier/egress");
    assert!(RULES_OF_THE_GUARD.iter().all(|file| directory.join(file).exists()));
}

#[test]
fn imports_are_found_in_every_spelling() {
    let text = "use crate::store::Store;\nuse crate::{callback, graph::{self, Poll}, lane};\nlet x = crate::api::y();";
    assert_eq!(imports(text), ["store", "callback", "graph", "lane", "api"]);
}
