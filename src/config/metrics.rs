//! Who watches over the bridge, and how.

use std::net::SocketAddr;

use clap::Args;

/// Where metrics can be read.
#[derive(Args, Clone, Debug)]
pub struct MetricsSettings {
    /// Where to listen for `/metrics` alone, without a key: an address that only your Prometheus
    /// reaches. Without it, it is read where the API listens, with the admin key.
    #[arg(long, env = "ENGAGEMENT_BRIDGE_METRICS_LISTEN", value_name = "ADDRESS")]
    pub metrics_listen: Option<SocketAddr>,
}
