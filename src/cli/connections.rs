//! `connections`: the Graph identities that callers ask by.

mod proof;

use std::process::ExitCode;

use anyhow::anyhow;
use clap::{Args, Subcommand};
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::proof::ProofArguments;
use super::Done;
use super::callers::segment;
use super::desk::Desk;
use super::output::{FAINT, STRONG, is_json, json, line, table};
use crate::config::{DatabaseSettings, GraphSettings};

/// Add, list, test and renew connections: the Graph identities that callers ask by.
///
/// A connection is an app registration of Entra that proves itself by a client secret, a certificate or
/// a federated token, or the managed identity of the machine that the bridge runs on. It needs the
/// application permission `Community.Read.All` with an administrator's consent. Works on the database
/// itself, or through the bridge that has it open.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Add a connection. The first one of a caller becomes its default.
    ///
    /// It is tried out first, and not made where Entra or Graph refuses it.
    Add {
        /// The caller's name for it: 1 to 64 of a-z, 0-9, `.`, `_` and `-`.
        name: String,
        /// Whose connection it is.
        #[arg(long, value_name = "NAME")]
        caller: String,
        /// The directory: its GUID or one of its domain names.
        #[arg(long, value_name = "TENANT")]
        tenant: String,
        /// The application (client) id of the app registration, or that of the managed identity.
        #[arg(long, value_name = "GUID")]
        client_id: String,
        #[command(flatten)]
        proof: ProofArguments,
        /// Make it without trying it out.
        #[arg(long)]
        no_test: bool,
        /// Print JSON, as is done where the output is piped.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        graph: GraphSettings,
        #[command(flatten)]
        database: DatabaseSettings,
    },
    /// List a caller's connections by name, without their proofs.
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
    /// Get a token by a connection, ask Graph once with it, and say what is missing.
    ///
    /// Ends with 1 where the connection does not work.
    Test {
        /// The caller's name for it.
        name: String,
        /// Whose connection it is.
        #[arg(long, value_name = "NAME")]
        caller: String,
        /// Print JSON, as is done where the output is piped.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        graph: GraphSettings,
        #[command(flatten)]
        database: DatabaseSettings,
    },
    /// Let another caller use a connection, which sees its proof as little as it can change it.
    Share {
        /// Its own caller's name for it.
        name: String,
        /// Whose connection it is.
        #[arg(long, value_name = "NAME")]
        caller: String,
        /// Who may use it.
        #[arg(long, value_name = "NAME")]
        with: String,
        /// The other caller's name for it. [default: the same]
        #[arg(long = "as", value_name = "NAME")]
        as_name: Option<String>,
        #[command(flatten)]
        database: DatabaseSettings,
    },
    /// Take a connection back from another caller. Its operations are kept, and blocked.
    Withdraw {
        /// Its own caller's name for it.
        name: String,
        /// Whose connection it is.
        #[arg(long, value_name = "NAME")]
        caller: String,
        /// Who may use it no more.
        #[arg(long, value_name = "NAME")]
        from: String,
        #[command(flatten)]
        database: DatabaseSettings,
    },
    /// Give a connection another proof, of the same kind or another. No operation is lost by it.
    Renew {
        /// The caller's name for it.
        name: String,
        /// Whose connection it is.
        #[arg(long, value_name = "NAME")]
        caller: String,
        #[command(flatten)]
        proof: ProofArguments,
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
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    thumbprint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    is_default: bool,
    created_at: String,
}

#[derive(Deserialize)]
struct Listed {
    connections: Vec<Connection>,
}

pub(super) async fn run(arguments: Arguments) -> Done {
    match arguments.action {
        Action::Add {
            name,
            caller,
            tenant,
            client_id,
            proof,
            no_test,
            json: as_json,
            graph,
            database,
        } => {
            let mut body = proof.read()?;
            body["name"] = json!(name);
            body["tenant"] = json!(tenant);
            body["clientId"] = json!(client_id);
            body["test"] = json!(!no_test);
            let desk = Desk::open_asking(&database, &graph).await?;
            let path = path(&caller);
            let made: Connection = desk.ask(Method::POST, &path, Some(&body)).await?;
            print_made(&caller, &made, as_json)?;
        }
        Action::List { caller, json, database } => {
            let desk = Desk::open(&database).await?;
            let listed: Listed = desk.ask(Method::GET, &path(&caller), None).await?;
            print_list(&caller, &listed.connections, json)?;
        }
        Action::Test { name, caller, json, graph, database } => {
            let desk = Desk::open_asking(&database, &graph).await?;
            let path = format!("{}/{}/test", path(&caller), segment(&name));
            let found: Value = desk.ask(Method::POST, &path, None).await?;
            return print_found(&name, &found, json);
        }
        Action::Share { name, caller, with, as_name, database } => {
            let desk = Desk::open(&database).await?;
            let body = json!({ "name": as_name.as_deref().unwrap_or(&name) });
            let path = share_path(&caller, &name, &with);
            desk.tell(Method::PUT, &path, Some(&body)).await?;
            line(format_args!("{with} may use {STRONG}{name}{STRONG:#} of {caller}."))?;
        }
        Action::Withdraw { name, caller, from, database } => {
            let desk = Desk::open(&database).await?;
            desk.tell(Method::DELETE, &share_path(&caller, &name, &from), None).await?;
            line(format_args!("{from} may use {STRONG}{name}{STRONG:#} of {caller} no more."))?;
        }
        Action::Renew { name, caller, proof, database } => {
            let body = proof.read()?;
            let desk = Desk::open(&database).await?;
            let path = format!("{}/{}/credential", path(&caller), segment(&name));
            desk.tell(Method::PUT, &path, Some(&body)).await?;
            line(format_args!("Renewed the proof of {STRONG}{name}{STRONG:#} of {caller}."))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn path(caller: &str) -> String {
    format!("/v1/admin/callers/{}/connections", segment(caller))
}

fn share_path(caller: &str, name: &str, with: &str) -> String {
    format!("{}/{}/shares/{}", path(caller), segment(name), segment(with))
}

fn print_made(caller: &str, made: &Connection, as_json: bool) -> anyhow::Result<()> {
    if is_json(as_json) {
        return json(made);
    }
    let Connection { name, tenant, client_id, .. } = made;
    line(format_args!(
        "Made the connection {STRONG}{name}{STRONG:#} of {caller}: {client_id} in {tenant}."
    ))?;
    if let Some(expires_at) = &made.expires_at {
        line(format_args!("Its certificate expires at {expires_at}."))?;
    }
    if made.is_default {
        line("It is used wherever a registration names none.")?;
    }
    Ok(())
}

fn print_found(name: &str, found: &Value, as_json: bool) -> Done {
    let works =
        found["works"].as_bool().ok_or_else(|| anyhow!("the API's answer is not as expected"))?;
    if is_json(as_json) {
        json(found)?;
    } else {
        let text = |member: &str| found[member].as_str().unwrap_or_default();
        line(format_args!("{STRONG}{name}{STRONG:#}: {}", text("advice")))?;
        let details: Vec<String> =
            ["error", "aadsts", "correlationId", "graphStatus", "graphCode", "requestId"]
                .iter()
                .filter_map(|member| found.get(*member).map(|value| format!("{member} {value}")))
                .collect();
        if !details.is_empty() {
            line(format_args!("{FAINT}{}{FAINT:#}", details.join(", ")))?;
        }
    }
    Ok(if works { ExitCode::SUCCESS } else { ExitCode::FAILURE })
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
            [
                it.name.clone(),
                it.tenant.clone(),
                it.client_id.clone(),
                it.kind.clone(),
                it.expires_at.clone().unwrap_or_default(),
                default.to_owned(),
                it.created_at.clone(),
            ]
        })
        .collect();
    Ok(table(["NAME", "TENANT", "CLIENT ID", "PROOF", "EXPIRES", "", "MADE"], &rows)?)
}
