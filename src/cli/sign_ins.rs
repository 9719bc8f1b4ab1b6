//! `sign-ins`: the apps that sign in as callers, with tokens of Microsoft Entra.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Done;
use super::callers::segment;
use super::desk::Desk;
use super::output::{STRONG, is_json, json, line, table};
use crate::config::DatabaseSettings;

/// Add, list and remove apps that sign in as a caller, by tokens of Entra in place of an API key.
///
/// The bridge takes such tokens where it has an app registration of its own: see --sign-in-client-id and
/// --sign-in-tenants of `serve`. Works on the database itself, or through the bridge that has it open.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Let an app sign in as a caller. What it may do is in its tokens: `Operations.Register`,
    /// `Operations.Read` and `Operations.Manage`, as scopes of users or roles of the app.
    Add {
        #[command(flatten)]
        app: App,
        /// Print JSON, as is done where the output is piped.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        database: DatabaseSettings,
    },
    /// List the apps that sign in as a caller.
    List {
        /// The caller's name.
        #[arg(long, value_name = "NAME")]
        caller: String,
        /// Print JSON, as is done where the output is piped.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        database: DatabaseSettings,
    },
    /// Let an app sign in no more, from the next request on.
    Remove {
        #[command(flatten)]
        app: App,
        #[command(flatten)]
        database: DatabaseSettings,
    },
}

#[derive(Args, Debug)]
struct App {
    /// Whom it signs in as.
    #[arg(long, value_name = "NAME")]
    caller: String,
    /// The directory (tenant) that issues its tokens.
    #[arg(long, value_name = "GUID")]
    tenant: String,
    /// Its application (client) id: `azp` in its tokens.
    #[arg(long = "app", value_name = "GUID")]
    client_id: String,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct SignIn {
    tenant: String,
    app: String,
    created_at: String,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    sign_ins: Vec<SignIn>,
}

pub(super) async fn run(arguments: Arguments) -> Done {
    match arguments.action {
        Action::Add { app: App { caller, tenant, client_id }, json: as_json, database } => {
            let desk = Desk::open(&database).await?;
            let body = json!({ "tenant": tenant, "app": client_id });
            let made: SignIn = desk.ask(Method::POST, &path(&caller), Some(&body)).await?;
            if is_json(as_json) {
                json(&made)?;
            } else {
                let SignIn { tenant, app, .. } = &made;
                line(format_args!("{app} of {tenant} signs in as {STRONG}{caller}{STRONG:#}."))?;
            }
        }
        Action::List { caller, json, database } => {
            let desk = Desk::open(&database).await?;
            let listed: Listed = desk.ask(Method::GET, &path(&caller), None).await?;
            print_list(&caller, &listed, json)?;
        }
        Action::Remove { app: App { caller, tenant, client_id }, database } => {
            let desk = Desk::open(&database).await?;
            let path = format!("{}/{}/{}", path(&caller), segment(&tenant), segment(&client_id));
            desk.tell(Method::DELETE, &path, None).await?;
            line(format_args!("{client_id} signs in as {STRONG}{caller}{STRONG:#} no more."))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn path(caller: &str) -> String {
    format!("/v1/admin/callers/{}/sign-ins", segment(caller))
}

fn print_list(caller: &str, listed: &Listed, as_json: bool) -> anyhow::Result<()> {
    if is_json(as_json) {
        return json(listed);
    }
    if listed.sign_ins.is_empty() {
        line(format_args!(
            "No app signs in as {caller} yet: engagement-bridge sign-ins add --caller {caller}"
        ))?;
        return Ok(());
    }
    let row = |it: &SignIn| [it.tenant.clone(), it.app.clone(), it.created_at.clone()];
    let rows: Vec<_> = listed.sign_ins.iter().map(row).collect();
    Ok(table(["TENANT", "APP", "SINCE"], &rows)?)
}
