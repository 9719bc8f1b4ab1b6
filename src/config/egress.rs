//! Where callbacks may go: what `serve` and `check-url` take alike.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use ipnet::IpNet;
use secrecy::{ExposeSecret, SecretString};

use super::{ConfigError, secret_in};
use crate::courier::Proxy;
use crate::courier::egress::{HostPattern, Nat64Prefix, Ports, Rules};

/// What the operator sets about where callbacks may go.
#[derive(Args, Clone, Debug)]
pub struct EgressSettings {
    /// Allow callback URLs with plain http.
    #[arg(long, env = "ENGAGEMENT_BRIDGE_ALLOW_HTTP_CALLBACKS")]
    pub allow_http_callbacks: bool,

    /// The ports that callback URLs may have: these and no others, or `any`. Repeat it, or separate
    /// several with commas. [default: 443, 8443, and with --allow-http-callbacks also 80, 8080]
    #[arg(
        long,
        env = "ENGAGEMENT_BRIDGE_ALLOW_CALLBACK_PORT",
        value_name = "N or any",
        value_delimiter = ','
    )]
    pub allow_callback_port: Vec<AllowedPort>,

    /// Allow callbacks to these hosts only: a name, `*.example.com` for all names below example.com,
    /// or an address. Opens no private address by itself: see --allow-callback-cidr. Repeat it, or
    /// separate several with commas. [default: any host]
    #[arg(
        long,
        env = "ENGAGEMENT_BRIDGE_ALLOW_CALLBACK_HOST",
        value_name = "HOST",
        value_delimiter = ','
    )]
    pub allow_callback_host: Vec<HostPattern>,

    /// Deny callbacks to these hosts, named in the same ways, whatever allows them.
    #[arg(
        long,
        env = "ENGAGEMENT_BRIDGE_DENY_CALLBACK_HOST",
        value_name = "HOST",
        value_delimiter = ','
    )]
    pub deny_callback_host: Vec<HostPattern>,

    /// Allow callbacks to addresses in this network, which would else be refused: private,
    /// loopback and the like. The metadata service of a cloud is opened by its own address alone, and
    /// by no wider network. Repeat it, or separate several with commas.
    #[arg(
        long,
        env = "ENGAGEMENT_BRIDGE_ALLOW_CALLBACK_CIDR",
        value_name = "CIDR",
        value_delimiter = ',',
        value_parser = network
    )]
    pub allow_callback_cidr: Vec<IpNet>,

    /// Deny callbacks to addresses in this network, whatever allows them.
    #[arg(
        long,
        env = "ENGAGEMENT_BRIDGE_DENY_CALLBACK_CIDR",
        value_name = "CIDR",
        value_delimiter = ',',
        value_parser = network
    )]
    pub deny_callback_cidr: Vec<IpNet>,

    /// A prefix by which this network translates IPv6 to IPv4 (NAT64), besides `64:ff9b::/96`:
    /// addresses in it are judged by the IPv4 address that they hold.
    #[arg(
        long,
        env = "ENGAGEMENT_BRIDGE_CALLBACK_NAT64_PREFIX",
        value_name = "CIDR",
        value_delimiter = ','
    )]
    pub callback_nat64_prefix: Vec<Nat64Prefix>,

    /// Send callbacks through this proxy: `http://` or `https://` for CONNECT, or `socks5://`. Names
    /// are resolved and judged here, and the proxy is told the address. A password is best left to
    /// the environment, for flags show in process lists.
    #[arg(
        long,
        env = "ENGAGEMENT_BRIDGE_CALLBACK_PROXY",
        hide_env_values = true,
        group = "proxy",
        value_name = "URL"
    )]
    pub callback_proxy: Option<SecretString>,

    /// A file with the URL of the callback proxy, in place of `--callback-proxy`.
    #[arg(
        long,
        env = "ENGAGEMENT_BRIDGE_CALLBACK_PROXY_FILE",
        group = "proxy",
        value_name = "PATH"
    )]
    pub callback_proxy_file: Option<PathBuf>,

    /// Leave names to the callback proxy, where the bridge has no name server or the proxy rules by
    /// names. Which addresses they lead to is then not judged here: the proxy has to refuse those
    /// inside your network.
    #[arg(long, env = "ENGAGEMENT_BRIDGE_CALLBACK_PROXY_RESOLVES", requires = "proxy")]
    pub callback_proxy_resolves: bool,
}

/// A port from 1 to 65535, or all of them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AllowedPort {
    Any,
    Port(u16),
}

impl FromStr for AllowedPort {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text.trim(), text.trim().parse()) {
            ("any", _) => Ok(Self::Any),
            (_, Ok(port @ 1..)) => Ok(Self::Port(port)),
            (_, Ok(0) | Err(_)) => Err("give a port from 1 to 65535, or `any`"),
        }
    }
}

impl EgressSettings {
    /// The rules, as the guard takes them.
    pub fn rules(&self) -> Rules {
        let ports: Option<_> = self
            .allow_callback_port
            .iter()
            .map(|allowed| match allowed {
                AllowedPort::Any => None,
                AllowedPort::Port(port) => Some(*port),
            })
            .collect();
        let ports = match ports {
            _ if self.allow_callback_port.is_empty() => Ports::usual(self.allow_http_callbacks),
            Some(ports) => Ports::Only(ports),
            None => Ports::Any,
        };
        Rules {
            allow_http: self.allow_http_callbacks,
            ports,
            allowed_hosts: self.allow_callback_host.clone(),
            denied_hosts: self.deny_callback_host.clone(),
            allowed_networks: self.allow_callback_cidr.clone(),
            denied_networks: self.deny_callback_cidr.clone(),
            nat64: self.callback_nat64_prefix.clone(),
        }
    }

    /// The proxy. Not read before it is needed, for what cannot be read is shown by those who read
    /// flags, and there may be a password in it.
    pub fn proxy(&self) -> Result<Option<Proxy>, ConfigError> {
        let text = match &self.callback_proxy_file {
            Some(path) => Some(secret_in(path)?),
            None => self.callback_proxy.clone(),
        };
        let proxy = text.map(|text| Proxy::parse(text.expose_secret())).transpose();
        proxy.map_err(ConfigError::CallbackProxy)
    }
}

/// Reads a network, or an address for the network of itself alone. Refuses what would hold another
/// spelling of IPv4 addresses, and not themselves: it would open nothing, and close nearly nothing.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    let network: IpNet =
        network.map_err(|_| "give a network such as 10.1.0.0/16, or an address".to_owned())?;
    let network = network.trunc();
    match network {
        IpNet::V6(spelling) if spelling.prefix_len() >= 96 => {
            match spelling.network().to_ipv4_mapped() {
                Some(inner) => Err(format!(
                    "an IPv4 address in an IPv6 one is judged as itself: give {inner}/{}",
                    spelling.prefix_len() - 96
                )),
                None => Ok(network),
            }
        }
        IpNet::V4(_) | IpNet::V6(_) => Ok(network),
    }
}

#[cfg(test)]
mod tests {
    use clap::{Command, FromArgMatches as _};

    use super::*;

    fn settings(flags: &[&str]) -> Result<EgressSettings, String> {
        let command = EgressSettings::augment_args(Command::new("serve"))
            .mut_args(|argument| argument.env(clap::builder::Resettable::Reset));
        let matches = command.try_get_matches_from([&["serve"], flags].concat());
        let matches = matches.map_err(|error| error.to_string())?;
        Ok(EgressSettings::from_arg_matches(&matches).unwrap())
    }

    fn ports(flags: &[&str]) -> String {
        settings(flags).unwrap().rules().ports.to_string()
    }

    #[test]
    fn ports_that_are_given_take_the_place_of_the_usual_ones() {
        assert_eq!(ports(&[]), "ports 443 and 8443");
        assert_eq!(ports(&["--allow-http-callbacks"]), "ports 80, 443, 8080 and 8443");
        assert_eq!(ports(&["--allow-callback-port", "9443"]), "port 9443");
        let http = ["--allow-http-callbacks", "--allow-callback-port", "8443, 443"];
        assert_eq!(ports(&http), "ports 443 and 8443");
        let repeated = ["--allow-callback-port", "1", "--allow-callback-port", "65535"];
        assert_eq!(ports(&repeated), "ports 1 and 65535");
        for any in ["any", "443,any", "any,443"] {
            assert_eq!(ports(&["--allow-callback-port", any]), "ports 1 to 65535");
        }
        for slip in ["0", "65536", "-1", "https", "443-500", ""] {
            let refusal = settings(&[&format!("--allow-callback-port={slip}")]).unwrap_err();
            assert!(refusal.contains("give a port from 1 to 65535, or `any`"), "{refusal}");
        }
    }

    #[test]
    fn networks_are_taken_with_and_without_a_length() {
        let given = "10.1.2.3/16, 192.0.2.7,fd00:7::/64 ,::1";
        let rules = settings(&["--allow-callback-cidr", given]).unwrap().rules();
        let networks: Vec<_> = rules.allowed_networks.iter().map(IpNet::to_string).collect();
        assert_eq!(networks, ["10.1.0.0/16", "192.0.2.7/32", "fd00:7::/64", "::1/128"]);
        for slip in ["10.0.0.0/33", "ten", "10.0.0", ""] {
            let refusal = settings(&[&format!("--deny-callback-cidr={slip}")]).unwrap_err();
            assert!(refusal.contains("give a network such as 10.1.0.0/16"), "{refusal}");
        }
    }

    #[test]
    fn what_would_open_or_close_nothing_is_answered_with_what_would() {
        for flag in ["--allow-callback-cidr", "--deny-callback-cidr"] {
            let refusal = settings(&[flag, "::ffff:10.0.0.0/104"]).unwrap_err();
            assert!(refusal.contains("give 10.0.0.0/8"), "{refusal}");
            let refusal = settings(&[flag, "::ffff:10.0.0.7"]).unwrap_err();
            assert!(refusal.contains("give 10.0.0.7/32"), "{refusal}");
        }
        let refusal = settings(&["--callback-proxy-resolves"]).unwrap_err();
        assert!(refusal.contains("--callback-proxy <URL>"), "{refusal}");
    }

    #[test]
    fn a_proxy_that_cannot_be_read_is_not_repeated() {
        let url = "https://bridge:s3cret@proxy.example:70000";
        let settings = settings(&["--callback-proxy", url]).unwrap();
        assert!(!format!("{settings:?}").contains("s3cret"));
        let refusal = settings.proxy().unwrap_err();
        assert!(!format!("{refusal:?} {refusal}").contains("s3cret"), "{refusal:?}");
    }
}
