//! `migrate`: brings a database up to date before bridges are.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use serde_json::json;

use super::Done;
use super::output::{is_json, json, line};
use crate::config::{Database, DatabaseName};
use crate::names::SystemNames;
use crate::serve::server;
use crate::store::{Migrated, postgres, sqlite};

/// Bring a database up to the schema of this program, before bridges of it are started.
///
/// Bridges do so at their start by themselves. With this, a role of PostgreSQL's that may make
/// tables does it once, and bridges run by one that may only read and write rows. Bridges of the
/// version before go on beside it; a database file must not be in use. Changes nothing where all is
/// up to date. Secrets stay sealed, so no key is needed.
#[derive(Args, Debug)]
#[command(after_help = "\
Example, with a role `owner` that owns the tables, and a role `bridge` that uses them:
  engagement-bridge migrate --database postgres://owner@db.example.com/bridge
  psql postgres://owner@db.example.com/bridge -c 'GRANT SELECT, INSERT, UPDATE, DELETE
      ON ALL TABLES IN SCHEMA public TO bridge'
  engagement-bridge serve --database postgres://bridge@db.example.com/bridge …")]
pub(super) struct Arguments {
    #[command(flatten)]
    name: DatabaseName,
    /// Print JSON, as is done where the output is piped.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: Arguments) -> Done {
    let (database, Migrated { had, has }) = match arguments.name.database()? {
        Database::File(path) => {
            let name = path.display().to_string();
            (name, tokio::task::spawn_blocking(move || sqlite::migrate(&path)).await??)
        }
        Database::Server(url) => {
            let (address, tls) = server(&url)?;
            let migrated = postgres::migrate(&address, tls, Arc::new(SystemNames::default())).await;
            (address.to_string(), migrated.with_context(|| format!("cannot use {address}"))?)
        }
    };
    if is_json(arguments.json) {
        json(&json!({ "database": database, "had": had, "has": has }))?;
    } else if had == has {
        line(format_args!("{database} has schema version {has}. Nothing had to be changed."))?;
    } else if had == 0 {
        line(format_args!("{database} was empty. It has schema version {has} now."))?;
    } else {
        line(format_args!("{database} had schema version {had}. It has {has} now."))?;
    }
    Ok(ExitCode::SUCCESS)
}
