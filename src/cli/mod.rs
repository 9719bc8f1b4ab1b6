//! The command line: one file for each command.

mod audit;
mod backup;
mod callbacks;
mod callers;
mod check_url;
mod connections;
mod copy;
mod demo;
mod desk;
mod healthcheck;
mod migrate;
mod output;
mod sandbox;
mod serve;
mod settings;
mod sign_ins;
mod vault;
mod verify;

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::telemetry::{self, LogSettings};

/// Tracks long-running Viva Engage operations of Microsoft Graph, and reports how each one ended
/// by one signed callback.
#[derive(Debug, Parser)]
#[command(name = "engagement-bridge", version, max_term_width = 100, after_help = FIRST_STEPS)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    logs: LogSettings,
}

const FIRST_STEPS: &str = "\
First steps:
  engagement-bridge demo                 see all of it work on this machine, in seconds
  engagement-bridge serve                run the bridge, on an SQLite file
  engagement-bridge callers add shop     give the app `shop` an API key and a signing secret
  engagement-bridge connections add …    give it an app registration of Entra to ask Graph by

Every setting is a flag, and an environment variable: --min-poll-interval is also
ENGAGEMENT_BRIDGE_MIN_POLL_INTERVAL. `engagement-bridge settings` lists them all. Secrets are read
from the environment, from files or from a prompt, and never from flags.";

// Each one's arguments say what it is for: a word about it here would be all that `--help` shows.
#[derive(Debug, Subcommand)]
enum Command {
    Serve(Box<serve::Arguments>),
    Demo(demo::Arguments),
    Sandbox(sandbox::Arguments),
    Callers(callers::Arguments),
    Connections(Box<connections::Arguments>),
    SignIns(sign_ins::Arguments),
    Callbacks(callbacks::Arguments),
    Audit(audit::Arguments),
    Vault(vault::Arguments),
    CheckUrl(Box<check_url::Arguments>),
    Verify(verify::Arguments),
    Healthcheck(healthcheck::Arguments),
    Migrate(migrate::Arguments),
    Copy(Box<copy::Arguments>),
    Backup(backup::Arguments),
    /// List every setting of `serve` as a Markdown table.
    Settings,
}

/// What a command came to.
type Done = anyhow::Result<ExitCode>;

/// Does what the command line says. Exits with 0 if that was done, with 1 if it could not be, and
/// with 2 if the command line itself is at fault.
pub fn run() -> ExitCode {
    let mut matches = Cli::command().get_matches();
    let cli = match Cli::from_arg_matches_mut(&mut matches) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    match cli.execute() {
        Ok(code) => code,
        Err(error) => {
            output::error(&error);
            ExitCode::FAILURE
        }
    }
}

impl Cli {
    fn execute(self) -> Done {
        let usual_logs = match self.command {
            Command::Serve(_) => "info",
            // Tells of its throttled poll by itself.
            Command::Demo(_) => "error",
            Command::Copy(_) => copy::LOGS,
            Command::Sandbox(_)
            | Command::Callers(_)
            | Command::Connections(_)
            | Command::SignIns(_)
            | Command::Callbacks(_)
            | Command::Audit(_)
            | Command::Vault(_)
            | Command::CheckUrl(_)
            | Command::Verify(_)
            | Command::Healthcheck(_)
            | Command::Migrate(_)
            | Command::Backup(_)
            | Command::Settings => "warn",
        };
        telemetry::init(&self.logs, usual_logs)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(async {
            match self.command {
                Command::Serve(arguments) => serve::run(*arguments).await,
                Command::Demo(arguments) => demo::run(arguments).await,
                Command::Sandbox(arguments) => sandbox::run(arguments).await,
                Command::Callers(arguments) => callers::run(arguments).await,
                Command::Connections(arguments) => connections::run(*arguments).await,
                Command::SignIns(arguments) => sign_ins::run(arguments).await,
                Command::Callbacks(arguments) => callbacks::run(arguments).await,
                Command::Audit(arguments) => audit::run(arguments).await,
                Command::Vault(arguments) => vault::run(arguments).await,
                Command::CheckUrl(arguments) => check_url::run(*arguments).await,
                Command::Verify(arguments) => verify::run(arguments),
                Command::Healthcheck(arguments) => healthcheck::run(arguments).await,
                Command::Migrate(arguments) => migrate::run(arguments).await,
                Command::Copy(arguments) => copy::run(*arguments).await,
                Command::Backup(arguments) => backup::run(arguments).await,
                Command::Settings => settings::run(),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
