//! `vault`: what is sealed under which master key, and the change to another one.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use http::Method;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::Done;
use super::desk::Desk;
use super::output::{BAD, FAINT, STRONG, is_json, is_watched, json, line, status, table};
use crate::config::DatabaseSettings;

/// See what is sealed under which master key, and change over to another one.
///
/// Of several master keys, the first seals and all of them open. To change over: add the new key behind
/// the old one and restart every bridge; put it in front and restart them again; run `vault rekey`, and
/// take the old key away once nothing is sealed under it. Works on the database itself, or through the
/// bridge that has it open.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show the ids of the master keys, and how much is sealed under each.
    Status {
        /// Print JSON, as is done where the output is piped.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        database: DatabaseSettings,
    },
    /// Seal everything anew under the first master key, while bridges go on serving. Broken off, it is
    /// gone on with by a running bridge, or by the next one.
    Rekey {
        /// Print JSON, as is done where the output is piped.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        database: DatabaseSettings,
    },
}

#[derive(Deserialize, Serialize)]
struct Vault {
    keys: Vec<Key>,
    values: Vec<Sealed>,
    rekeying: Option<Rekeying>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Key {
    id: String,
    is_given: bool,
    seals: bool,
    values: u64,
}

#[derive(Deserialize, Serialize)]
struct Sealed {
    table: String,
    column: String,
    key: Option<String>,
    values: u64,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Rekeying {
    key: String,
    asked_at: String,
    done_at: Option<String>,
    rewritten: u64,
    unreadable: u64,
}

const PATH: &str = "/v1/admin/vault";

/// How long to wait before looking again how far it has come.
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

pub(super) async fn run(arguments: Arguments) -> Done {
    match arguments.action {
        Action::Status { json, database } => {
            let desk = Desk::open(&database).await?;
            print(&desk.ask(Method::GET, PATH, None).await?, json)
        }
        Action::Rekey { json, database } => {
            let desk = Desk::open(&database).await?;
            let asked = desk.ask(Method::POST, &format!("{PATH}/rekey"), None).await?;
            // Where no bridge has the database open that could do it, or several may.
            let stop = CancellationToken::new();
            let sealing = async {
                if let Some(rekeyer) = desk.rekeyer() {
                    rekeyer.run(stop.clone()).await;
                }
            };
            let following = async {
                let vault = follow(&desk, asked).await;
                stop.cancel();
                vault
            };
            let ((), vault) = tokio::join!(sealing, following);
            print(&vault?, json)
        }
    }
}

/// Waits until it is done, and shows how far it has come meanwhile.
async fn follow(desk: &Desk, mut vault: Vault) -> anyhow::Result<Vault> {
    while let Some(rekeying) = vault.rekeying.as_ref().filter(|it| it.done_at.is_none()) {
        if is_watched() {
            let Rekeying { key, rewritten, .. } = rekeying;
            let others = vault.keys.iter().filter(|it| it.id != *key);
            let left: u64 = others.map(|it| it.values).sum();
            status(format_args!("{rewritten} sealed anew, {left} to go"));
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
        vault = desk.ask(Method::GET, PATH, None).await?;
    }
    if is_watched() {
        status("");
    }
    Ok(vault)
}

/// Fails where something cannot be opened.
fn print(vault: &Vault, as_json: bool) -> Done {
    let lost = |key: &&Key| !key.is_given && key.values > 0;
    let is_whole =
        !vault.keys.iter().any(|it| lost(&it)) && vault.values.iter().all(|it| it.key.is_some());
    let code = if is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    if is_json(as_json) {
        json(vault)?;
        return Ok(code);
    }
    let rows: Vec<_> = vault.keys.iter().map(row).collect();
    table(["MASTER KEY", "USE", "VALUES"], &rows)?;
    for key in vault.keys.iter().filter(|it| it.is_given && !it.seals && it.values == 0) {
        line(format_args!(
            "Nothing is sealed under {STRONG}{}{STRONG:#} any more: it can be taken away.",
            key.id
        ))?;
    }
    for key in vault.keys.iter().filter(lost) {
        line(format_args!(
            "{BAD}{} is not given: without it, these values are lost.{BAD:#}",
            key.id
        ))?;
    }
    for values in vault.values.iter().filter(|it| it.key.is_none()) {
        let Sealed { table, column, values, .. } = values;
        line(format_args!("{BAD}{values} in {table}.{column} are no sealed values.{BAD:#}"))?;
    }
    if let Some(rekeying) = &vault.rekeying {
        let Rekeying { key, asked_at, done_at, rewritten, unreadable } = rekeying;
        let so_far = match done_at {
            Some(at) => format!("done at {at}"),
            None => "under way".to_owned(),
        };
        line(format_args!(
            "{FAINT}Change to {key} asked for at {asked_at}, {so_far}: {rewritten} sealed anew, \
             {unreadable} that cannot be opened.{FAINT:#}"
        ))?;
    }
    Ok(code)
}

fn row(key: &Key) -> [String; 3] {
    let usage = match (key.seals, key.is_given) {
        (true, _) => "seals",
        (false, true) => "opens",
        (false, false) => "not given",
    };
    [key.id.clone(), usage.to_owned(), key.values.to_string()]
}
