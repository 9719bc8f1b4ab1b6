//! `connections`: the Graph identities that callers ask by.

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;
use zeroize::Zeroizing;

use super::Done;
use super::callers::segment;
use super::desk::Desk;
use super::output::{STRONG, is_json, json, line, table};
use crate::config::{self, DatabaseSettings};

/// Add and list connections: the Graph identities that callers ask by.
///
/// A connection is an app registration of Entra with a client secret. It needs the application
/// permission `Community.Read.All` with an administrator's consent. Works on the database
/// itself, or through the bridge that has it open.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Add a connection. The first one of a caller becomes its default.
    Add {
        /// The caller's name for it: 1 to 64 of a-z, 0-9, `.`, `_` and `-`.
        name: String,
        /// Whose connection it is.
        #[arg(long, value_name = "NAME")]
        caller: String,
        /// The directory: its GUID or one of its domain names.
        #[arg(long, value_name = "TENANT")]
        tenant: String,
        /// The app registration's application (client) id.
        #[arg(long, value_name = "GUID")]
        client_id: String,
        /// A file with the app registration's client secret. Or give the secret itself in
        /// `ENGAGEMENT_BRIDGE_CLIENT_SECRET`. [default: asked for]
        #[arg(long, env = "ENGAGEMENT_BRIDGE_CLIENT_SECRET_FILE", value_name = "PATH")]
        client_secret_file: Option<PathBuf>,
        /// Print JSON, as is done where the output is piped.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        database: DatabaseSettings,
    },
    /// List a caller's connections by name, without their secrets.
    List {
        /// Whose connections.
        #[arg(long, value_name = "NAME")]
        caller: String,
        /// Print JSON, as is done where the output is piped.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        database: DatabaseSettings,
    },
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Connection {
    name: String,
    tenant: String,
    client_id: String,
    is_default: bool,
    created_at: String,
}

#[derive(Deserialize)]
struct Listed {
    connections: Vec<Connection>,
}

pub(super) async fn run(arguments: Arguments) -> Done {
    match arguments.action {
        Action::Add { name, caller, tenant, client_id, client_secret_file, json, database } => {
            let secret = client_secret(client_secret_file)?;
            let body = json!({
                "name": name,
                "tenant": tenant,
                "clientId": client_id,
                "clientSecret": &*secret,
            });
            let desk = Desk::open(&database).await?;
            let path = path(&caller);
            let made: Connection = desk.ask(Method::POST, &path, Some(&body)).await?;
            print_made(&caller, &made, json)?;
        }
        Action::List { caller, json, database } => {
            let desk = Desk::open(&database).await?;
            let listed: Listed = desk.ask(Method::GET, &path(&caller), None).await?;
            print_list(&caller, &listed.connections, json)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn path(caller: &str) -> String {
    format!("/v1/admin/callers/{}/connections", segment(caller))
}

/// From the file, from the environment, or from whoever sits at the terminal.
fn client_secret(file: Option<PathBuf>) -> anyhow::Result<Zeroizing<String>> {
    if let Some(path) = file {
        let secret = config::read_secret(&path)?;
        return secret.with_context(|| format!("there is no file {}", path.display()));
    }
    if let Some(secret) = config::client_secret() {
        return Ok(secret);
    }
    if !io::stdin().is_terminal() {
        bail!("give the client secret by --client-secret-file or ENGAGEMENT_BRIDGE_CLIENT_SECRET");
    }
    let secret = rpassword::prompt_password("Client secret: ").context("cannot ask for it")?;
    Ok(Zeroizing::new(secret.trim().to_owned()))
}

fn print_made(caller: &str, made: &Connection, as_json: bool) -> anyhow::Result<()> {
    if is_json(as_json) {
        return json(made);
    }
    let Connection { name, tenant, client_id, .. } = made;
    line(format_args!(
        "Made the connection {STRONG}{name}{STRONG:#} of {caller}: {client_id} in {tenant}."
    ))?;
    if made.is_default {
        line("It is used wherever a registration names none.")?;
    }
    Ok(())
}

fn print_list(caller: &str, connections: &[Connection], as_json: bool) -> anyhow::Result<()> {
    if is_json(as_json) {
        return json(&json!({ "connections": connections }));
    }
    if connections.is_empty() {
        line(format_args!(
            "{caller} has no connections yet: engagement-bridge connections add NAME"
        ))?;
        return Ok(());
    }
    let rows: Vec<_> = connections
        .iter()
        .map(|it| {
            let default = if it.is_default { "default" } else { "" };
            let Connection { name, tenant, client_id, created_at, .. } = it;
            [
                name.clone(),
                tenant.clone(),
                client_id.clone(),
                default.to_owned(),
                created_at.clone(),
            ]
        })
        .collect();
    Ok(table(["NAME", "TENANT", "CLIENT ID", "", "MADE"], &rows)?)
}
