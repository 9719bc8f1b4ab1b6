//! `healthcheck`: for images without curl.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;

use super::desk::{client, reachable};
use super::{Done, output};

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
}

pub(super) async fn run(arguments: Arguments) -> Done {
    let address = reachable(arguments.listen);
    let url = format!("http://{address}/readyz");
    let response = client(Duration::from_secs(4))?
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
