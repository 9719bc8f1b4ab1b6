//! `copy`: moves an installation from a database file to a PostgreSQL.
//!
//! Rows go over in batches, in the order of their keys, and each batch is committed. So a copy that
//! is broken off, at whatever moment, goes on behind the last row that is there. Then all rows of both
//! databases are read again and compared.
//!
//! The master key is not asked for. What is sealed goes over sealed, so nothing here could use it; the
//! check goes over as well, so that a bridge with another key does not start; and a key that is not
//! brought here cannot be lost here.
//!
//! In the end the file is marked, before the PostgreSQL is: a bridge that were started on it again,
//! as by a machine that comes up with its old unit file, would poll the same operations beside the new
//! ones, too often and over each budget. What that looks like, and why earlier versions of the bridge
//! respect it, is told in [`handover`](crate::store::handover). Nothing else in the file changes, and
//! `--undo` takes the mark away.

mod progress;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use serde::Serialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use self::progress::Progress;
use super::Done;
use super::output::{FAINT, GOOD, STRONG, is_json, json, line, table};
use crate::config::Database;
use crate::names::SystemNames;
use crate::serve::server;
use crate::store::handover::{Table, Value};
use crate::store::postgres::{Address, Target};
use crate::store::sqlite::{Source, unmark};

/// What is logged unless asked for: how far it has come, where nobody watches.
pub(super) const LOGS: &str = "warn,engagement_bridge::cli::copy=info";

/// Move from a database file to a PostgreSQL, with everything that is in it.
///
/// Stop the bridge first: nothing may change meanwhile. The PostgreSQL has to be empty; the role
/// needs the right to make tables there. Everything goes over as it is: callers, keys, connections,
/// operations with the times that are planned for them, callbacks, idempotency keys. Secrets stay
/// sealed, so no key is needed here, and the bridge then needs the same ones as before.
///
/// At the end every value of both databases is compared. Until then no bridge starts on the
/// PostgreSQL, and from then on none on the file, which is kept. If it is broken off, the same
/// command goes on where it stopped.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  systemctl stop engagement-bridge
  export ENGAGEMENT_BRIDGE_COPY_TO=postgres://bridge:password@db.example.com/bridge
  engagement-bridge copy --from bridge.db
  engagement-bridge serve --database postgres://… --master-key-file bridge.db.master-key \\
      --admin-key-file bridge.db.admin-key

And back, as long as nothing has served the PostgreSQL:
  engagement-bridge copy --from bridge.db --undo")]
pub(super) struct Arguments {
    /// The database file to move from: a path, or `sqlite:PATH`.
    #[arg(long, env = "ENGAGEMENT_BRIDGE_COPY_FROM", hide_env_values = true, value_name = "PATH")]
    from: Database,
    /// The PostgreSQL to move to: `postgres://user@host/name`, with libpq's parameters. A password is
    /// best left to the environment, for flags show in process lists.
    #[arg(
        long,
        env = "ENGAGEMENT_BRIDGE_COPY_TO",
        hide_env_values = true,
        value_name = "URL",
        required_unless_present = "undo"
    )]
    to: Option<Database>,
    /// Let bridges use the file again after a copy. Only if none has served the PostgreSQL: what
    /// happened there would not be known here.
    #[arg(long)]
    undo: bool,
    /// Print JSON, as is done where the output is piped.
    #[arg(long)]
    json: bool,
}

const AGAIN: &str = "the copy is unfinished: run the same command again, and it goes on from here";

/// A table of which both databases hold the same.
#[derive(Serialize)]
struct Compared {
    table: String,
    rows: u64,
    /// Of all values, in the order of the keys.
    sha256: String,
}

pub(super) async fn run(arguments: Arguments) -> Done {
    let Database::File(from) = arguments.from else {
        bail!("--from must be a database file: copies are made from there to a PostgreSQL only");
    };
    if arguments.undo {
        let path = from.clone();
        let to = tokio::task::spawn_blocking(move || unmark(&path)).await??;
        if is_json(arguments.json) {
            json(&json!({ "from": from.display().to_string(), "undone": to }))?;
        } else {
            line(format_args!("{} can be used again. Drop what is in {to}.", from.display()))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let Some(Database::Server(url)) = &arguments.to else {
        bail!("--to must be the URL of a PostgreSQL: postgres://user@host/name");
    };
    let (address, tls) = server(url)?;
    let began = Instant::now();
    let path = from.clone();
    let source = tokio::task::spawn_blocking(move || Source::open(&path)).await??;
    let names = Arc::new(SystemNames::default());
    let opened = Target::open(&address, tls, names, source.origin(), source.tables()).await;
    let compared = match opened.with_context(|| format!("cannot copy to {address}"))? {
        None => Vec::new(),
        Some(target) => copy(&source, target, &address).await?,
    };
    print(&from, &address, &compared, began.elapsed(), arguments.json)?;
    Ok(ExitCode::SUCCESS)
}

async fn copy(
    source: &Source,
    mut target: Target,
    address: &Address,
) -> anyhow::Result<Vec<Compared>> {
    let mut total = 0;
    for table in source.tables() {
        total += source.count(table).await?;
    }
    let mut progress = Progress::begin("copying", total);
    for table in source.tables() {
        fill(source, &mut target, table, &mut progress).await.context(AGAIN)?;
    }
    let mut progress = Progress::begin("comparing", total);
    let mut compared = Vec::new();
    for table in source.tables() {
        compared.push(compare(source, &mut target, table, &mut progress).await?);
    }
    source.mark(target.copy(), address.to_string()).await.context(AGAIN)?;
    target.finish(source.origin(), source.tables()).await.context(AGAIN)?;
    Ok(compared)
}

/// Writes those rows of a table that are not there yet, and reads the next ones meanwhile.
async fn fill(
    source: &Source,
    target: &mut Target,
    table: &Table,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    let (rows, last) = target.reached(table).await?;
    progress.skip(rows);
    let mut page = source.page(table, last.as_deref()).await?;
    while let Some(row) = page.last() {
        let last = table.key_of(row);
        let (written, next) =
            tokio::join!(target.append(table, &page), source.page(table, Some(&last)));
        written?;
        progress.advance(&table.name, page.len());
        page = next?;
    }
    Ok(())
}

/// Reads a table from both databases, and fails at the first row that is not the same.
async fn compare(
    source: &Source,
    target: &mut Target,
    table: &Table,
    progress: &mut Progress,
) -> anyhow::Result<Compared> {
    let (mut rows, mut digest) = (0, Sha256::new());
    let (mut behind, mut here) = (None::<Vec<Value>>, source.page(table, None).await?);
    loop {
        let last = here.last().map(|row| table.key_of(row));
        let next = async {
            match &last {
                Some(_) => source.page(table, last.as_deref()).await,
                None => Ok(Vec::new()),
            }
        };
        // At the end, for one more than there should be.
        let limit = here.len().max(1);
        let there = target.page(table, behind.as_deref(), limit);
        let (there, next) = tokio::try_join!(there, next).context(AGAIN)?;
        let differs = (0..limit).find(|&row| here.get(row) != there.get(row));
        if let Some(row) = differs.and_then(|row| here.get(row).or(there.get(row))) {
            let key: Vec<_> = table.key_of(row).iter().map(Value::to_string).collect();
            bail!(
                "row {} of {} is not the same in both databases: somebody has changed what was \
                 copied. Copy again, to an empty database",
                key.join(" "),
                table.name
            );
        }
        for value in here.iter().flatten() {
            value.digest(&mut digest);
        }
        rows += here.len() as u64;
        progress.advance(&table.name, here.len());
        if last.is_none() {
            let sha256 = Value::Bytes(digest.finalize().to_vec()).to_string();
            return Ok(Compared { table: table.name.clone(), rows, sha256 });
        }
        (behind, here) = (last, next);
    }
}

fn print(
    from: &Path,
    to: &Address,
    compared: &[Compared],
    took: Duration,
    as_json: bool,
) -> anyhow::Result<()> {
    let from = from.display();
    let rows: u64 = compared.iter().map(|table| table.rows).sum();
    if is_json(as_json) {
        return json(&json!({
            "from": from.to_string(),
            "to": to.to_string(),
            "tables": compared,
            "rows": rows,
            "seconds": took.as_secs(),
        }));
    }
    if compared.is_empty() {
        line(format_args!("{GOOD}{from} was moved to {to} before{GOOD:#}: nothing was done."))?;
    } else {
        let cells = compared.iter().map(|Compared { table, rows, sha256 }| {
            [table.clone(), rows.to_string(), sha256[..16].to_owned()]
        });
        table(["TABLE", "ROWS", "SHA-256"], &cells.collect::<Vec<_>>())?;
        line(format_args!(
            "\n{GOOD}Moved{GOOD:#} {rows} rows from {from} to {to} in {} s. Every value of every \
             row was compared, and is the same.",
            took.as_secs()
        ))?;
    }
    line(format_args!(
        "{STRONG}Next:{STRONG:#}\n  \
         Start the bridge with ENGAGEMENT_BRIDGE_DATABASE=postgres://… and the same two keys;\n  \
         those that it made itself are in {from}.master-key and {from}.admin-key.\n  \
         Keep {from} until that works. No bridge starts on it any more, for two that know nothing\n  \
         of each other would poll too often.\n\
         {FAINT}To go back, as long as nothing has served the PostgreSQL: engagement-bridge copy \
         --from {from} --undo{FAINT:#}"
    ))?;
    Ok(())
}
