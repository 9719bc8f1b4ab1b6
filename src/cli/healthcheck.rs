//! `healthcheck`: for images without curl.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;

use super::desk::client;
use super::{Done, output};
use crate::serve::reachable;

/// Ask a running bridge whether it is ready; made for containers.
///
/// Exits with 0 if `/readyz` says so, and with 1 and the reason if not.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Where the bridge listens.
    #[arg(
        long,
        env = "ENGAGEMENT_BRIDGE_LISTEN",
        default_value = "127.0.0.1:8080",
        value_name = "ADDRESS"
    )]
    listen: SocketAddr,

    /// Given where the bridge speaks HTTPS, and not read: whatever certificate it shows is taken, for it
    /// is told nothing, and asked only how it is.
    #[arg(long, env = "ENGAGEMENT_BRIDGE_TLS_CERTIFICATE_FILE", value_name = "PATH")]
    tls_certificate_file: Option<PathBuf>,
}

pub(super) async fn run(arguments: Arguments) -> Done {
    let address = reachable(arguments.listen);
    let scheme = if arguments.tls_certificate_file.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{address}/readyz");
    let response = client(None, Duration::from_secs(4))?
        .get(&url)
        .send()
        .await
        .map_err(reqwest::Error::without_url)
        .with_context(|| format!("no answer from {url}"))?;
    let is_ready = response.status().is_success();
    let text = response.text().await.map_err(reqwest::Error::without_url)?;
    output::line(text)?;
    Ok(if is_ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
