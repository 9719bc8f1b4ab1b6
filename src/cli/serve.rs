//! `serve`: runs the bridge until it is told to stop.

use std::process::ExitCode;

use clap::Args;

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
