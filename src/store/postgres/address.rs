//! Where the database is.

use std::borrow::Cow;
use std::fmt;
use std::iter::repeat;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};

/// For how long a server may leave what we send without a sign of life, before we ask for one.
const SILENCE: Duration = Duration::from_secs(15);

/// Between two such questions, the third of which is the last.
const BETWEEN_SIGNS: Duration = Duration::from_secs(5);

/// One of the hosts of an address.
#[derive(Clone)]
pub(super) struct Server {
    pub(super) host: Host,
    /// Names no other host.
    pub(super) config: Config,
}

/// Where a PostgreSQL is: `postgres://user:password@host:port/name`, with the parameters of libpq,
/// several hosts among them.
///
/// Where TLS is used, the server's certificate is always verified, whatever the `sslmode`. Without
/// one, it is used unless all hosts are on this machine.
#[derive(Clone)]
pub struct Address {
    servers: Vec<Server>,
    roots: Option<PathBuf>,
}

/// Why a text is not the address of a PostgreSQL.
#[derive(Debug, thiserror::Error)]
pub enum InvalidAddress {
    #[error("expected postgres://user:password@host:port/database, with parameters of libpq")]
    Malformed(#[source] tokio_postgres::Error),
    #[error("sslmode must be disable, require or verify-full; with TLS we always verify")]
    SslMode,
    #[error("name a host; and as many ports as hosts, or one for all of them, and so for hostaddr")]
    Hosts,
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        // What the library does not know is taken out before it reads the rest.
        let (base, query) = text.split_once('?').unwrap_or((text, ""));
        let (mut mode, mut roots, mut others) = (None, None, Vec::new());
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "sslmode" => mode = Some(value.into_owned()),
                "sslrootcert" => roots = Some(PathBuf::from(value.into_owned())),
                _ => others.push((name, value)),
            }
        }
        let all = parse(base, &others)?;
        others.retain(|(name, _)| !["host", "hostaddr", "port"].contains(&&**name));
        let mut rest = parse(&without_hosts(base), &others)?;
        let addresses = all.get_hostaddrs().iter().copied().map(Some).chain(repeat(None));
        let mut places = all.get_hosts().iter().zip(addresses);
        let is_here = places.all(|(host, address)| is_on_this_machine(host, address));
        rest.ssl_mode(match mode.as_deref() {
            Some("disable") => SslMode::Disable,
            Some("require" | "verify-full") => SslMode::Require,
            Some(_) => return Err(InvalidAddress::SslMode),
            None if is_here => SslMode::Disable,
            None => SslMode::Require,
        });
        rest.application_name("engagement-bridge")
            .tcp_user_timeout(SILENCE)
            .keepalives_idle(SILENCE)
            .keepalives_interval(BETWEEN_SIGNS)
            .keepalives_retries(3)
            // Of several hosts, the one that can be written to: the others are its standbys.
            .target_session_attrs(TargetSessionAttrs::ReadWrite);
        let servers = servers(&all, &rest).ok_or(InvalidAddress::Hosts)?;
        Ok(Self { servers, roots })
    }
}

fn parse(base: &str, query: &[(Cow<'_, str>, Cow<'_, str>)]) -> Result<Config, InvalidAddress> {
    let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
    // The library reads a plus sign as itself.
    let text = format!("{base}?{}", query.replace('+', "%20"));
    text.parse().map_err(InvalidAddress::Malformed)
}

/// What is left of `scheme://user:password@hosts/name`.
fn without_hosts(base: &str) -> String {
    let (scheme, rest) = base.split_once("://").unwrap_or_default();
    let (authority, name) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let user = authority.rfind('@').map_or("", |at| &authority[..=at]);
    format!("{scheme}://{user}{name}")
}

/// Each host by itself, with all that does not depend on it. `None` where they do not go together.
fn servers(all: &Config, rest: &Config) -> Option<Vec<Server>> {
    let (hosts, ports, addresses) = (all.get_hosts(), all.get_ports(), all.get_hostaddrs());
    let fits = |number: usize| number == hosts.len() || number == 0;
    if hosts.is_empty() || !fits(addresses.len()) || !(fits(ports.len()) || ports.len() == 1) {
        return None;
    }
    let server = |(index, host): (usize, &Host)| {
        let mut config = rest.clone();
        match host {
            Host::Tcp(name) => config.host(name),
            // A socket of this machine's knows no TLS, and nobody else can listen to it.
            Host::Unix(path) => config.host_path(path).ssl_mode(SslMode::Disable),
        };
        config.port(ports.get(index).or(ports.first()).copied().unwrap_or(5432));
        if let Some(address) = addresses.get(index) {
            config.hostaddr(*address);
        }
        Server { host: host.clone(), config }
    };
    Some(hosts.iter().enumerate().map(server).collect())
}

impl Address {
    /// A file of root certificates to be believed besides the usual ones: `sslrootcert`.
    pub fn roots(&self) -> Option<&Path> {
        self.roots.as_deref()
    }

    pub(super) fn servers(&self) -> &[Server] {
        &self.servers
    }
}

/// Without the password.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts = self.servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let name = self.servers.first().and_then(|it| it.config.get_dbname());
        write!(f, "postgres://{hosts}/{}", name.unwrap_or_default())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn is_on_this_machine(host: &Host, address: Option<IpAddr>) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => match address.or_else(|| name.parse().ok()) {
            Some(address) => address.is_loopback(),
            None => name == "localhost",
        },
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Tcp(name) => f.write_str(name)?,
            Host::Unix(path) => path.display().fmt(f)?,
        }
        self.config.get_ports().iter().try_for_each(|port| write!(f, ":{port}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    #[test]
    fn tls_is_used_unless_it_is_refused_or_the_server_is_here() {
        let mode = |text: &str| address(text).servers[0].config.get_ssl_mode();
        assert_eq!(mode("postgres://db.example.com/bridge"), SslMode::Require);
        assert_eq!(mode("postgres://127.0.0.1,db.example.com/bridge"), SslMode::Require);
        assert_eq!(mode("postgres://db.example.com/bridge?sslmode=require"), SslMode::Require);
        assert_eq!(mode("postgres://db.example.com/bridge?sslmode=disable"), SslMode::Disable);
        assert_eq!(mode("postgres://127.0.0.1,[::1],localhost/bridge"), SslMode::Disable);
        assert_eq!(mode("postgres://127.0.0.1/bridge?sslmode=verify-full"), SslMode::Require);
        assert_eq!(mode("postgres://localhost/bridge?hostaddr=192.0.2.1"), SslMode::Require);
        assert_eq!(mode("postgres:///bridge?host=/run/postgresql"), SslMode::Disable);
        let at_a_socket = "postgres:///bridge?host=/run/postgresql&sslmode=require";
        assert_eq!(mode(at_a_socket), SslMode::Disable);
        for half_hearted in ["prefer", "allow", "verify-ca", ""] {
            let text = format!("postgres://db.example.com/bridge?sslmode={half_hearted}");
            let refused = text.parse::<Address>().unwrap_err();
            assert!(matches!(refused, InvalidAddress::SslMode), "{half_hearted}: {refused}");
        }
    }

    #[test]
    fn what_the_library_does_not_know_is_taken_out_and_the_rest_is_left() {
        let address = address(
            "postgresql://bridge@one.example.com:5433,two.example.com/bridge\
            ?sslrootcert=/etc/roots+ours.pem&options=-c%20geqo%3Doff&sslmode=require",
        );
        assert_eq!(address.roots(), Some(Path::new("/etc/roots ours.pem")));
        let config = &address.servers[1].config;
        assert_eq!(config.get_options(), Some("-c geqo=off"));
        assert_eq!(config.get_target_session_attrs(), TargetSessionAttrs::ReadWrite);
    }

    #[test]
    fn each_host_is_a_server_by_itself_with_all_else_the_same() {
        let servers = |text: &str| {
            let servers = address(text).servers;
            for Server { config, .. } in &servers {
                let login = (config.get_user(), config.get_password(), config.get_dbname());
                assert_eq!(login, (Some("u"), Some(&b"p:/@"[..]), Some("n")), "{text}");
                assert_eq!(config.get_hosts().len(), 1, "{text}");
            }
            servers.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(servers("postgres://u:p%3A%2F%40@one:5433,two/n"), ["one:5433", "two:5432"]);
        assert_eq!(servers("postgres://u:p%3A%2F%40@[::1]/n"), ["::1:5432"]);
        let by_parameters = "postgres://u:p%3A%2F%40@/n?host=/run/postgresql&port=5433";
        assert_eq!(servers(by_parameters), ["/run/postgresql:5433"]);
        let by_both = address("postgres://one:5433,two/n?hostaddr=192.0.2.1,192.0.2.2");
        assert_eq!(by_both.to_string(), "postgres://one:5433,two:5432/n");
        for (server, number) in by_both.servers.iter().zip([1, 2]) {
            assert_eq!(server.config.get_hostaddrs(), [IpAddr::from([192, 0, 2, number])]);
        }
        for wrong in
            ["postgres:///n", "postgres://a,b,c/n?port=1,2", "postgres://a,b/n?hostaddr=::1"]
        {
            let refused = wrong.parse::<Address>().unwrap_err();
            assert!(matches!(refused, InvalidAddress::Hosts), "{wrong}: {refused}");
        }
    }

    #[test]
    fn a_password_is_never_shown() {
        let address = address("postgres://bridge:hunter2@db.example.com/bridge");
        assert_eq!(address.to_string(), "postgres://db.example.com:5432/bridge");
        assert_eq!(format!("{address:?}"), address.to_string());
        for wrong in ["postgres://u:hunter2@db:x/n", "postgres://u:hunter2@db/n?sslmode=hunter2"] {
            let refused = anyhow::Error::new(wrong.parse::<Address>().unwrap_err());
            assert!(!format!("{refused:#} {refused:?}").contains("hunter2"), "{refused:?}");
        }
    }
}
