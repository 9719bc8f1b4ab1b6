//! `callbacks`: what receivers could not be given, sent again.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::{Args, Subcommand};
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Done;
use super::callers::segment;
use super::desk::Desk;
use super::output::{FAINT, STRONG, is_json, is_watched, json, line, status, table};
use crate::config::DatabaseSettings;

/// Send callbacks again, many at a time, and see how far that has come.
///
/// A running bridge does it, little by little and within each receiver's allowance; this only asks for
/// it, on the database itself or through the bridge that has it open.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Send callbacks again that are at rest: those of which all that is said is true.
    Resend {
        /// Only those of this caller. [default: of all callers]
        #[arg(long, value_name = "NAME")]
        caller: Option<String>,
        /// `undeliverable`, or `delivered` where a receiver has lost what it got.
        #[arg(long, value_name = "STATE", default_value = "undeliverable")]
        state: String,
        /// Only those undeliverable for this reason: gone, addressRefused, attemptsSpent or tooOld.
        #[arg(long, value_name = "REASON")]
        reason: Option<String>,
        /// Only those to this origin, such as `https://app.example.com`.
        #[arg(long, value_name = "ORIGIN")]
        origin: Option<String>,
        /// Only those that came to rest then or later, such as 2027-01-15T08:00:00Z.
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
        /// Only those that came to rest before.
        #[arg(long, value_name = "TIME")]
        until: Option<String>,
        /// Stay until it is done, and show how far it has come.
        #[arg(long)]
        wait: bool,
        /// Print JSON, as is done where the output is piped.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        database: DatabaseSettings,
    },
    /// List what was asked to be sent again, by the operator or by callers, newest first.
    Resends {
        /// Print JSON, as is done where the output is piped.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        database: DatabaseSettings,
    },
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Resend {
    id: String,
    asked_by: Option<String>,
    asked_at: String,
    state: String,
    matched: u64,
    resent: u64,
    skipped: Option<u64>,
    done_at: Option<String>,
}

#[derive(Deserialize)]
struct Listed {
    resends: Vec<Resend>,
}

/// How long to wait before looking again how far it has come.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

pub(super) async fn run(arguments: Arguments) -> Done {
    match arguments.action {
        Action::Resend { caller, state, reason, origin, since, until, wait, json, database } => {
            let desk = Desk::open(&database).await?;
            let wanted = json!({
                "caller": caller,
                "state": state,
                "reason": reason,
                "origin": origin,
                "since": since,
                "until": until,
            });
            let path = "/v1/admin/callbacks/resend";
            let asked: Resend = desk.ask(Method::POST, path, Some(&wanted)).await?;
            if wait && desk.is_alone {
                bail!("{} is kept, and granted by the next bridge to run on this file", asked.id);
            }
            let resend = if wait { follow(&desk, asked).await? } else { asked };
            print(&resend, json)?;
        }
        Action::Resends { json, database } => {
            let desk = Desk::open(&database).await?;
            let path = "/v1/admin/callbacks/resends?limit=200";
            let listed: Listed = desk.ask(Method::GET, path, None).await?;
            print_list(&listed.resends, json)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Waits until it is done.
async fn follow(desk: &Desk, mut resend: Resend) -> anyhow::Result<Resend> {
    let path = format!("/v1/admin/callbacks/resends/{}", segment(&resend.id));
    while resend.done_at.is_none() {
        if is_watched() {
            status(format_args!("{} of {} sent again", resend.resent, resend.matched));
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
        resend = desk.ask(Method::GET, &path, None).await?;
    }
    if is_watched() {
        status("");
    }
    Ok(resend)
}

fn print(resend: &Resend, as_json: bool) -> anyhow::Result<()> {
    if is_json(as_json) {
        return json(resend);
    }
    let Resend { id, matched, resent, .. } = resend;
    if let Some(skipped) = resend.skipped {
        line(format_args!(
            "Done: {STRONG}{resent}{STRONG:#} of {matched} are on their way, {skipped} skipped."
        ))?;
    } else {
        line(format_args!("{matched} callbacks will be sent again: {STRONG}{id}{STRONG:#}."))?;
        line(format_args!(
            "{FAINT}See how far it has come: engagement-bridge callbacks resends{FAINT:#}"
        ))?;
    }
    Ok(())
}

fn print_list(resends: &[Resend], as_json: bool) -> anyhow::Result<()> {
    if is_json(as_json) {
        return json(&json!({ "resends": resends }));
    }
    if resends.is_empty() {
        line("Nothing was asked to be sent again.")?;
        return Ok(());
    }
    let rows: Vec<_> = resends
        .iter()
        .map(|it| {
            [
                it.id.clone(),
                it.asked_by.clone().unwrap_or_else(|| "the operator".to_owned()),
                it.asked_at.clone(),
                it.state.clone(),
                format!("{} of {}", it.resent, it.matched),
            ]
        })
        .collect();
    Ok(table(["ID", "ASKED BY", "ASKED", "STATE", "SENT AGAIN"], &rows)?)
}
