//! The guard at the exit, from the outside: tables of cases, laws, and a name server that means no good.

mod cases;
mod laws;
pub(crate) mod name_server;
mod resolving;

use std::collections::BTreeSet;
use std::sync::Arc;

use clap::{Args as _, Command, FromArgMatches as _};
use engagement_bridge::clock::SystemClock;
use engagement_bridge::config::EgressSettings;
use engagement_bridge::courier::Egress;
use engagement_bridge::courier::egress::Rules;
use engagement_bridge::names::SystemNames;

/// What `serve` would take from these flags, whatever the environment says.
fn settings(flags: &str) -> EgressSettings {
    let command = EgressSettings::augment_args(Command::new("serve").no_binary_name(true))
        .mut_args(|argument| argument.env(clap::builder::Resettable::Reset));
    let matches = command.try_get_matches_from(flags.split_whitespace()).unwrap();
    EgressSettings::from_arg_matches(&matches).unwrap()
}

fn rules(flags: &str) -> Rules {
    settings(flags).rules()
}

/// A guard with nobody to ask for names.
fn guard(rules: Rules) -> Egress {
    let nobody = SystemNames::asking("127.0.0.1:9".parse().unwrap());
    Egress::new(rules, Arc::new(nobody), Arc::new(SystemClock))
}

/// A table in a file, each row in `N` columns. Those behind the first are told apart from the end,
/// for a URL may hold what parts columns.
fn table<const N: usize>(text: &'static str) -> Vec<[&'static str; N]> {
    let rows = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let row = |line: &'static str| -> [&'static str; N] {
        let (name, rest) = line.split_once(" |").unwrap();
        let mut columns: Vec<_> = rest.rsplitn(N - 1, " |").map(str::trim).collect();
        columns.push(name.trim());
        columns.reverse();
        columns.try_into().unwrap_or_else(|_| panic!("{line}"))
    };
    let rows: Vec<_> = rows.map(row).collect();
    let names: BTreeSet<_> = rows.iter().map(|row| row[0]).collect();
    assert_eq!(names.len(), rows.len(), "a name twice");
    rows
}
