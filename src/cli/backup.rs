//! `backup`: copies a database file while the bridge runs.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use serde_json::json;

use super::Done;
use super::output::{STRONG, is_json, json, line};
use crate::config::Database;
use crate::store::sqlite;

/// Copy the database file while the bridge goes on using it.
///
/// The copy is the database as it is at one moment, read whole and checked before it gets its name.
/// Secrets stay sealed in it: it is worth nothing without the master key, which is not in it. Keep a
/// copy of that one too, somewhere else.
///
/// To restore, stop the bridge, put the copy in the place of the database, remove the database's
/// `-wal`, `-shm` and `.lock` files, and start the bridge with the master key that it had. What was
/// registered after the backup is not known then; what was told after it is told again, under the
/// same webhook-id.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  engagement-bridge backup --database /data/bridge.db --to /backups/bridge-$(date +%F).db

A PostgreSQL is backed up by its own means, such as pg_dump.")]
pub(super) struct Arguments {
    /// The database file.
    #[arg(
        long,
        env = "ENGAGEMENT_BRIDGE_DATABASE",
        hide_env_values = true,
        default_value = "bridge.db",
        value_name = "PATH"
    )]
    database: Database,
    /// The file to make; it must not be there yet.
    #[arg(long, value_name = "PATH")]
    to: PathBuf,
    /// Print JSON, as is done where the output is piped.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: Arguments) -> Done {
    let Database::File(from) = arguments.database else {
        bail!("only a database file is backed up here: a PostgreSQL has pg_dump for that");
    };
    let to = arguments.to;
    let name = to.display().to_string();
    let made = tokio::task::spawn_blocking(move || sqlite::backup(&from, &to)).await??;
    if is_json(arguments.json) {
        json(&json!({ "backup": name, "bytes": made.bytes, "operations": made.operations }))?;
    } else {
        let sqlite::Backup { bytes, operations } = made;
        line(format_args!("{STRONG}{name}{STRONG:#}: {operations} operations, {bytes} bytes"))?;
        line(
            "Keep a copy of the master key as well, somewhere else: without it this is worth nothing.",
        )?;
    }
    Ok(ExitCode::SUCCESS)
}
