//! `sandbox`: the stand-ins of Graph and Entra alone.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use tokio_util::sync::CancellationToken;

use super::Done;
use super::output::{NOTE, line};
use crate::clock::SystemClock;
use crate::sandbox::{Options, Sandbox};
use crate::shutdown::Shutdown;

/// Run the stand-ins of Graph and Entra alone, to develop and test against.
///
/// Hands out tokens to anybody, and creates communities whose operations end well, or as the end
/// of their `displayName` says: `#fails`, `#skipped`, `#slow`, `#endless`, `#throttled` or
/// `#unstable`. Keeps a record of all requests at `/sandbox/record`.
#[derive(Args, Debug)]
#[command(after_help = "\
Run a bridge against it:
  engagement-bridge sandbox --listen 127.0.0.1:8081 --speed 31
  engagement-bridge serve --graph-root http://127.0.0.1:8081 --login-root http://127.0.0.1:8081 \\
      --min-poll-interval 1s --allow-http-callbacks --allow-callback-cidr 127.0.0.0/8 \\
      --allow-callback-port any")]
pub(super) struct Arguments {
    /// Where to listen; port 0 takes any that is free.
    #[arg(
        long,
        env = "ENGAGEMENT_BRIDGE_SANDBOX_LISTEN",
        default_value = "127.0.0.1:8081",
        value_name = "ADDRESS"
    )]
    listen: SocketAddr,

    /// How many times faster than Graph's its time runs. A bridge with `--min-poll-interval 1s`
    /// keeps pace with 31.
    #[arg(long, env = "ENGAGEMENT_BRIDGE_SANDBOX_SPEED", default_value_t = 1.0, value_name = "N")]
    speed: f64,
}

pub(super) async fn run(arguments: Arguments) -> Done {
    let Arguments { listen, speed } = arguments;
    let options = Options { speed, listen, ..Options::default() };
    let sandbox = Sandbox::start(options, Arc::new(SystemClock))
        .await
        .with_context(|| format!("cannot start the sandbox on {listen}"))?;
    line(format_args!("{NOTE}sandbox{NOTE:#} listening on {}", sandbox.root()))?;
    until_told().await?;
    sandbox.stop().await;
    Ok(ExitCode::SUCCESS)
}

/// Waits for SIGTERM or SIGINT.
pub(super) async fn until_told() -> std::io::Result<()> {
    let shutdown = Shutdown::default();
    let told: CancellationToken = shutdown.stop.clone();
    tokio::select! {
        listened = shutdown.on_signals() => listened,
        () = told.cancelled() => Ok(()),
    }
}
