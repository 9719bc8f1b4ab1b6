//! `callers`: the apps that register operations.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Done;
use super::desk::Desk;
use super::output::{FAINT, STRONG, is_json, json, line, table};
use crate::config::{self, DatabaseSettings};

/// Add and list callers: the apps that register operations.
///
/// Works on the database itself, or through the bridge that has it open.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Add a caller, and print its first API key and signing secret, this once.
    Add {
        /// 1 to 64 of a-z, 0-9, `.`, `_` and `-`.
        name: String,
        /// Print JSON, as is done where the output is piped.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        database: DatabaseSettings,
    },
    /// Make another API key for a caller, as where it has lost its own, and print it, this once.
    AddKey {
        /// The caller's name.
        name: String,
        #[command(flatten)]
        wanted: WantedKey,
        /// Print JSON, as is done where the output is piped.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        database: DatabaseSettings,
    },
    /// List a caller's API keys, oldest first: what they are for, and when they were last used.
    Keys {
        /// The caller's name.
        name: String,
        /// Print JSON, as is done where the output is piped.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        database: DatabaseSettings,
    },
    /// Revoke an API key of a caller's, as where it has leaked. No bridge takes it any more after 5 s.
    RevokeKey {
        /// The caller's name.
        name: String,
        /// As the list of its keys has it: `key_…`.
        id: String,
        #[command(flatten)]
        database: DatabaseSettings,
    },
    /// Make another signing secret for a caller, and print it, this once.
    ///
    /// The older ones go on signing beside it for the overlap, so that the app can change over in its
    /// own time. With an overlap of 0s they stop at once, as they should where one has leaked.
    RotateSecret {
        /// The caller's name.
        name: String,
        /// For how long the older secrets go on signing, 7d at the most.
        #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = config::span)]
        overlap: Duration,
        /// Print JSON, as is done where the output is piped.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        database: DatabaseSettings,
    },
    /// List all callers by name.
    List {
        /// Print JSON, as is done where the output is piped.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        database: DatabaseSettings,
    },
}

/// What a key is to be.
#[derive(Args, Debug)]
struct WantedKey {
    /// What to call it where keys are listed.
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,
    /// What it is for: register (hand operations in and see to them), read, or manage (keys, secrets,
    /// connections). Repeat it, or separate several with commas. [default: all of them]
    #[arg(long = "scope", value_name = "SCOPE", value_delimiter = ',')]
    scopes: Vec<String>,
    /// For how long it is good, such as 90d. [default: until it is revoked]
    #[arg(long, value_name = "DURATION", value_parser = config::span)]
    expires_after: Option<Duration>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Added {
    caller: String,
    api_key: String,
    signing_secret: String,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct AddedKey {
    id: String,
    api_key: String,
    scopes: Vec<String>,
    expires_at: Option<String>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Key {
    id: String,
    label: Option<String>,
    scopes: Vec<String>,
    created_at: String,
    expires_at: Option<String>,
    last_used_at: Option<String>,
}

#[derive(Deserialize, Serialize)]
struct Keys {
    keys: Vec<Key>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct AddedSecret {
    id: u32,
    secret: String,
    older_until: String,
}

#[derive(Deserialize)]
struct Page {
    callers: Vec<String>,
    next: Option<String>,
}

pub(super) async fn run(arguments: Arguments) -> Done {
    match arguments.action {
        Action::Add { name, json, database } => add(&database, &name, json).await?,
        Action::AddKey { name, wanted, json, database } => {
            add_key(&database, &name, &wanted, json).await?;
        }
        Action::Keys { name, json, database } => keys(&database, &name, json).await?,
        Action::RevokeKey { name, id, database } => revoke_key(&database, &name, &id).await?,
        Action::RotateSecret { name, overlap, json, database } => {
            rotate_secret(&database, &name, overlap, json).await?;
        }
        Action::List { json, database } => list(&database, json).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn add(database: &DatabaseSettings, name: &str, as_json: bool) -> anyhow::Result<()> {
    let desk = Desk::open(database).await?;
    let body = json!({ "name": name });
    let added: Added = desk.ask(Method::POST, "/v1/admin/callers", Some(&body)).await?;
    if is_json(as_json) {
        return json(&added);
    }
    line(format_args!(
        "Added the caller {STRONG}{}{STRONG:#}. Keep these; they are not shown again.",
        added.caller
    ))?;
    line(format_args!("  API key         {}", added.api_key))?;
    line(format_args!("  signing secret  {}", added.signing_secret))?;
    line(format_args!(
        "{FAINT}Next: engagement-bridge connections add NAME --caller {} --tenant … --client-id …{FAINT:#}",
        added.caller
    ))?;
    Ok(())
}

async fn add_key(
    database: &DatabaseSettings,
    name: &str,
    wanted: &WantedKey,
    as_json: bool,
) -> anyhow::Result<()> {
    let desk = Desk::open(database).await?;
    let path = format!("/v1/admin/callers/{}/keys", segment(name));
    let mut body = json!({ "label": wanted.label });
    if !wanted.scopes.is_empty() {
        body["scopes"] = json!(wanted.scopes);
    }
    if let Some(life) = wanted.expires_after {
        body["expiresAfter"] = json!(format!("PT{}S", life.as_secs()));
    }
    let added: AddedKey = desk.ask(Method::POST, &path, Some(&body)).await?;
    if is_json(as_json) {
        return json(&added);
    }
    line(format_args!("Made {}. Keep it; it is not shown again.", added.id))?;
    line(format_args!("  API key  {}", added.api_key))?;
    line(format_args!("  is for   {}", added.scopes.join(", ")))?;
    if let Some(at) = added.expires_at {
        line(format_args!("  expires  {at}"))?;
    }
    Ok(())
}

async fn keys(database: &DatabaseSettings, name: &str, as_json: bool) -> anyhow::Result<()> {
    let desk = Desk::open(database).await?;
    let path = format!("/v1/admin/callers/{}/keys", segment(name));
    let listed: Keys = desk.ask(Method::GET, &path, None).await?;
    if is_json(as_json) {
        return json(&listed);
    }
    if listed.keys.is_empty() {
        line(format_args!("{name} has no keys: engagement-bridge callers add-key {name}"))?;
        return Ok(());
    }
    let or = |text: Option<String>, none: &str| text.unwrap_or_else(|| none.to_owned());
    let row = |key: Key| {
        [
            key.id,
            or(key.label, ""),
            key.scopes.join(","),
            key.created_at,
            or(key.expires_at, "when revoked"),
            or(key.last_used_at, "never"),
        ]
    };
    let rows: Vec<_> = listed.keys.into_iter().map(row).collect();
    Ok(table(["ID", "LABEL", "FOR", "MADE", "EXPIRES", "LAST USED"], &rows)?)
}

async fn revoke_key(database: &DatabaseSettings, name: &str, id: &str) -> anyhow::Result<()> {
    let desk = Desk::open(database).await?;
    let path = format!("/v1/admin/callers/{}/keys/{}", segment(name), segment(id));
    desk.tell(Method::DELETE, &path, None).await?;
    Ok(line(format_args!("Revoked {id}."))?)
}

async fn rotate_secret(
    database: &DatabaseSettings,
    name: &str,
    overlap: Duration,
    as_json: bool,
) -> anyhow::Result<()> {
    let desk = Desk::open(database).await?;
    let path = format!("/v1/admin/callers/{}/signing-secrets", segment(name));
    let body = json!({ "overlapSeconds": overlap.as_secs() });
    let added: AddedSecret = desk.ask(Method::POST, &path, Some(&body)).await?;
    if is_json(as_json) {
        return json(&added);
    }
    line("Made a signing secret. Keep it; it is not shown again.")?;
    line(format_args!("  signing secret        {}", added.secret))?;
    line(format_args!("  older ones sign until {}", added.older_until))?;
    Ok(())
}

async fn list(database: &DatabaseSettings, as_json: bool) -> anyhow::Result<()> {
    let desk = Desk::open(database).await?;
    let mut path = "/v1/admin/callers?limit=200".to_owned();
    let mut callers = Vec::new();
    loop {
        let page: Page = desk.ask(Method::GET, &path, None).await?;
        callers.extend(page.callers);
        let Some(next) = page.next else { break };
        path = format!("/v1/admin/callers?limit=200&after={}", segment(&next));
    }
    if is_json(as_json) {
        return json(&json!({ "callers": callers }));
    }
    if callers.is_empty() {
        line("There are no callers yet: engagement-bridge callers add NAME")?;
    }
    Ok(callers.iter().try_for_each(line)?)
}

/// `text` as one segment of a path, or one value of a query.
pub(super) fn segment(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}
