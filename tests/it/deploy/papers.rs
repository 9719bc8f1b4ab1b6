//! What is written about the ways to run the bridge is true to the bridge.

use std::collections::BTreeSet;
use std::path::Path;

use super::{BINARY, files, printed, read, root, variables};

const MAIN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");

/// All that is written for whoever runs the bridge.
fn papers() -> Vec<(String, String)> {
    let paths = files("deploy").into_iter().chain([root().join("README.md")]);
    let read = paths.map(|path| (path.display().to_string(), read(path)));
    read.collect()
}

/// A text's blocks of shell, each command with what it goes on with on further lines.
fn commands(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut is_shell = false;
    let mut begun = String::new();
    for line in text.lines() {
        let line = line.trim();
        if let Some(language) = line.strip_prefix("```") {
            is_shell = language == "sh";
        } else if is_shell && let Some(part) = line.strip_suffix('\\') {
            begun.push_str(part);
        } else if is_shell {
            found.push(format!("{begun}{line}"));
            begun.clear();
        }
    }
    found
}

/// What the bridge itself is told in a command, whatever it is run by: a container, a cluster, or a
/// shell with variables for it.
fn order(command: &str) -> Option<Vec<&str>> {
    let words: Vec<&str> = command.split_whitespace().map(|it| it.trim_matches('"')).collect();
    let is_assignment = |word: &&&str| word.contains('=') && !word.starts_with('-');
    let first = words.iter().take_while(is_assignment).count();
    let begins = words.iter().position(|word| word.ends_with("/engagement-bridge"));
    let begins = begins.filter(|at| !words[*at].starts_with("deploy/") && 0 < *at);
    let begins =
        begins.or_else(|| (words.get(first) == Some(&"engagement-bridge")).then_some(first));
    let order = words.get(begins? + 1..)?.iter().copied();
    Some(order.take_while(|word| !["|", ">", "&&", ";", "#"].contains(word)).collect())
}

#[test]
fn every_variable_that_is_named_is_one_of_the_bridge() {
    let known = printed(BINARY, &["settings"]);
    let known: BTreeSet<_> = variables(&known);
    // The main README has variables of other commands as well.
    for (path, text) in papers().into_iter().filter(|(path, _)| path != MAIN) {
        for name in variables(&text) {
            assert!(known.contains(name), "{path} names {name}, which `serve` has not");
        }
    }
}

#[test]
fn every_command_that_is_written_is_one_of_the_bridge() {
    let mut seen = 0;
    for (path, text) in papers() {
        for command in commands(&text) {
            let Some(order) = order(&command) else { continue };
            seen += 1;
            let words = order.iter().take_while(|word| !word.starts_with('-')).copied();
            let help = printed(BINARY, &words.chain(["--help"]).collect::<Vec<_>>());
            for flag in order.iter().filter(|word| word.starts_with("--")) {
                let flag = flag.split('=').next().unwrap();
                assert!(help.contains(flag), "{path}: there is no {flag} for `{command}`");
            }
        }
    }
    assert!(10 < seen, "only {seen} commands were found");
}

#[test]
fn every_file_that_a_paper_leads_to_is_there() {
    let mut seen = 0;
    for (path, text) in papers().into_iter().filter(|(path, _)| path.ends_with("README.md")) {
        let here = Path::new(&path).parent().unwrap();
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.contains("://") && !link.starts_with('#')) {
            let file = link.split('#').next().unwrap();
            assert!(here.join(file).exists(), "{path} leads to {link}");
            seen += 1;
        }
    }
    assert!(5 < seen, "only {seen} links were found");
}
