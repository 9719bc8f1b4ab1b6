//! Resolves names without libc, so that a static binary needs none, and so that whoever asks sees
//! every answer before anything is dialled.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::{ResolverBuilder, TokioResolver};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Knows the addresses of names.
#[async_trait]
pub trait Names: Send + Sync {
    /// All addresses of `host`, which is no literal; never none. A dot at its end says that the name is
    /// complete, and no search domain is tried.
    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, LookupError>;
}

/// Why no address was found.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LookupError {
    /// A name server says so, for good as far as it knows.
    #[error("the name does not exist, or has no address")]
    NotFound,
    #[error("name resolution took too long")]
    TimedOut,
    #[error("no name server could be asked: {0}")]
    Unavailable(String),
}

/// The name servers of `/etc/resolv.conf`, after the names of `/etc/hosts`.
///
/// Never asks anyone else: hickory by itself falls back to a public name server where the file
/// cannot be read, which would tell strangers whom our callers' receivers are.
#[derive(Default)]
pub struct SystemNames {
    resolver: OnceLock<Result<TokioResolver, String>>,
}

impl SystemNames {
    /// The same, but for asking this name server, and no file, whatever the machine's configuration.
    pub fn asking(name_server: SocketAddr) -> Self {
        let mut server = NameServerConfig::udp_and_tcp(name_server.ip());
        for connection in &mut server.connections {
            connection.port = name_server.port();
        }
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
        let mut builder =
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        builder.options_mut().use_hosts_file = ResolveHosts::Never;
        Self { resolver: OnceLock::from(built(builder)) }
    }

    /// Set up when it is first needed, for who calls literals only needs no name server.
    fn resolver(&self) -> Result<&TokioResolver, LookupError> {
        let made = self.resolver.get_or_init(|| {
            built(TokioResolver::builder_tokio().map_err(|error| error.to_string())?)
        });
        made.as_ref().map_err(|reason| LookupError::Unavailable(reason.clone()))
    }
}

fn built(mut builder: ResolverBuilder<TokioRuntimeProvider>) -> Result<TokioResolver, String> {
    builder.options_mut().timeout = Duration::from_secs(2);
    builder.build().map_err(|error| error.to_string())
}

#[async_trait]
impl Names for SystemNames {
    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, LookupError> {
        let found = self.resolver()?.lookup_ip(host).await.map_err(|error| {
            if error.is_no_records_found() {
                LookupError::NotFound
            } else if matches!(error, NetError::Timeout) {
                LookupError::TimedOut
            } else {
                LookupError::Unavailable(error.to_string())
            }
        })?;
        // All of them, for whoever judges them: a message of DNS has room for 4,000.
        let addresses: Vec<IpAddr> = found.iter().collect();
        if addresses.is_empty() { Err(LookupError::NotFound) } else { Ok(addresses) }
    }
}

/// Resolves for a client that calls an address of the operator's choice, so that there is nothing
/// to guard against.
pub struct Unguarded(pub Arc<dyn Names>);

impl Resolve for Unguarded {
    fn resolve(&self, name: Name) -> Resolving {
        let names = Arc::clone(&self.0);
        Box::pin(async move {
            let addresses = names.addresses(name.as_str()).await?;
            Ok(dialled(addresses))
        })
    }
}

/// The form in which reqwest wants addresses; it puts the port in.
fn dialled(addresses: Vec<IpAddr>) -> Addrs {
    Box::new(addresses.into_iter().map(|address| SocketAddr::new(address, 0)))
}
