//! `serve`: runs the bridge until it is told to stop.

use std::process::ExitCode;

use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::Done;
use crate::config::Settings;
use crate::serve::Bridge;
use crate::shutdown::Shutdown;

/// Run the bridge.
///
/// Listens for the API, polls Graph and sends callbacks, all in one process on one database file.
/// SIGTERM or SIGINT lets what is in progress finish; a second one leaves it to be resumed at the
/// next start. Nothing is lost either way.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    settings: Settings,
}

pub(super) async fn run(arguments: Arguments) -> Done {
    let files = open_files_allowed();
    tracing::debug!(files, "{files} files and connections may be open at a time");
    let bridge = Bridge::prepare(&arguments.settings).await?;
    let shutdown = Shutdown::default();
    let signals = shutdown.on_signals();
    let running = bridge.run(shutdown.clone());
    let mut running = std::pin::pin!(running);
    tokio::select! {
        // Signals first: whoever reads that it listens may stop it the next moment.
        biased;
        // Once both signals have come, there is nothing left to listen for.
        listened = signals => listened?,
        ended = running.as_mut() => return ended.map(|()| ExitCode::SUCCESS),
    }
    running.await.map(|()| ExitCode::SUCCESS)
}

/// Has as many files open as this process is allowed to, and says how many that are.
///
/// What a process starts with, 1,024 as a rule, is for programs that call `select` (`RLIMIT_NOFILE` in
/// setrlimit(2)): slow receivers alone may hold twice as many connections.
fn open_files_allowed() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // Where that is refused it stays as it was: things are tried again, and nothing is lost.
    let allowed = if setrlimit(Resource::Nofile, raised).is_ok() { raised } else { limit };
    allowed.current.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_files_may_be_open_as_are_allowed() {
        let limit = getrlimit(Resource::Nofile);
        let few = Rlimit { current: Some(512), maximum: limit.maximum };
        setrlimit(Resource::Nofile, few).unwrap();
        assert_eq!(open_files_allowed(), limit.maximum.unwrap_or(u64::MAX));
    }
}
