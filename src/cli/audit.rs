//! `audit`: who has changed what.

use std::process::ExitCode;

use clap::Args;
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;
use url::form_urlencoded::Serializer;

use super::Done;
use super::desk::Desk;
use super::output::{is_json, json, line, table};
use crate::config::DatabaseSettings;

/// List who has changed what, from where, and what came of it, newest first.
///
/// Every change through the API or by a command is there, for as long as `--keep-audit` of `serve` says;
/// but for registrations, which are their own record. Works on the database itself, or through the
/// bridge that has it open.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Only changes of what is this caller's.
    #[arg(long, value_name = "NAME")]
    caller: Option<String>,
    /// Only changes by this one: the id of an API key, the `oid` of whoever signed in, or one of
    /// adminKey, apiKey, signIn.
    #[arg(long, value_name = "WHO")]
    by: Option<String>,
    /// Only changes that were begun then or later, such as 2027-01-15T08:00:00Z.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only changes that were begun before.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// How many at the most.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Print JSON, as is done where the output is piped.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    database: DatabaseSettings,
}

#[derive(Deserialize, Serialize)]
struct Entry {
    id: String,
    at: String,
    by: By,
    caller: Option<String>,
    method: String,
    resource: String,
    names: Vec<String>,
    address: Option<String>,
    result: Option<u16>,
}

#[derive(Deserialize, Serialize)]
struct By {
    via: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    app: Option<String>,
}

#[derive(Deserialize)]
struct Page {
    entries: Vec<Entry>,
    next: Option<String>,
}

/// Entries that are asked for at a time.
const PAGE: u32 = 200;

pub(super) async fn run(arguments: Arguments) -> Done {
    let Arguments { caller, by, since, until, limit, json: as_json, database } = arguments;
    let desk = Desk::open(&database).await?;
    let filters = [("caller", caller), ("by", by), ("since", since), ("until", until)];
    let given = filters.iter().filter_map(|(name, value)| Some((name, value.as_deref()?)));
    let mut query = Serializer::new(String::new());
    let query = query.extend_pairs(given).finish();
    let (mut entries, mut after) = (Vec::new(), String::new());
    let mut left = limit;
    while 0 < left {
        let path = format!("/v1/admin/audit?limit={}{after}&{query}", left.min(PAGE));
        let page: Page = desk.ask(Method::GET, &path, None).await?;
        left = left.saturating_sub(u32::try_from(page.entries.len()).unwrap_or(u32::MAX));
        entries.extend(page.entries);
        let Some(next) = page.next else { break };
        after = format!("&after={next}");
    }
    print(entries, as_json)?;
    Ok(ExitCode::SUCCESS)
}

fn print(entries: Vec<Entry>, as_json: bool) -> anyhow::Result<()> {
    if is_json(as_json) {
        return json(&json!({ "entries": entries }));
    }
    if entries.is_empty() {
        return Ok(line("Nothing was changed.")?);
    }
    let row = |entry: Entry| {
        let by = entry.by.key.or(entry.by.subject).unwrap_or(entry.by.via);
        [
            entry.at,
            by,
            entry.address.unwrap_or_else(|| "a command".to_owned()),
            entry.caller.unwrap_or_default(),
            format!("{} {}", entry.method, entry.resource),
            entry.names.join(" "),
            entry.result.map_or_else(|| "unknown".to_owned(), |status| status.to_string()),
        ]
    };
    let rows: Vec<_> = entries.into_iter().map(row).collect();
    Ok(table(["AT", "BY", "FROM", "CALLER", "CHANGE", "OF", "RESULT"], &rows)?)
}
