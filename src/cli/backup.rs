//! `backup`: copies a database file while the bridge runs.

use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::json;

use super::Done;
use super::output::{STRONG, is_json, json, line};
use crate::config::Database;
use crate::store::sqlite;

/// In place of a file to make: what the command prints.
const OUTPUT: &str = "-";

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
  kubectl exec bridge-0 -- /engagement-bridge backup --to - > bridge.db

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
    /// The file to make; it must not be there yet. `-` for standard output, where a container has no
    /// other way out; the copy is made beside the database first.
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
    if to == Path::new(OUTPUT) {
        tokio::task::spawn_blocking(move || print(&from)).await??;
        return Ok(ExitCode::SUCCESS);
    }
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

/// Prints a backup of the database at `from`, once it is whole.
fn print(from: &Path) -> anyhow::Result<()> {
    if io::stdout().is_terminal() {
        bail!("a database is nothing to look at: send the output to a file");
    }
    let beside = from.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Removed again whatever happens.
    let directory = tempfile::Builder::new().prefix(".backup-").tempdir_in(beside);
    let directory = directory.with_context(|| format!("cannot write to {}", beside.display()))?;
    let copy = directory.path().join("bridge.db");
    sqlite::backup(from, &copy)?;
    io::copy(&mut File::open(&copy)?, &mut io::stdout().lock())
        .context("cannot print the backup")?;
    Ok(())
}
