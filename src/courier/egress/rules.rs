//! What the operator allows, and what follows from it. Pure: a URL or an address in, a verdict out.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::addresses::{self, METADATA_NAMES};
use super::embedded::{Face, Nat64Prefix, faces};
use super::{AddressRefusal, Because, CallbackUrl, HostPattern, Refusal};

/// Where callbacks may go. By itself: by https, to ports 443 and 8443, to any host, at addresses of
/// the open internet.
///
/// Each part of a URL has to pass, and within a part the word against it counts first:
///
/// * **Ports** are those listed, and no others.
/// * **Hosts**: a denied host is refused, whatever allows it; so are the metadata services of clouds,
///   by their names. Once any host is allowed, only those are. Rules go by the host in the URL, not
///   by where a name leads to (`CNAME`).
/// * **Addresses**, each that a name resolves to: one in a denied network is refused, whatever allows
///   it. One in a special block is refused unless an allowed network holds it. The metadata service
///   of a cloud is refused unless a network is allowed that holds nothing else, so that neither
///   `169.254.0.0/16` nor `0.0.0.0/0` opens it. All others are allowed: a list of allowed networks
///   opens what is closed, and closes nothing.
///
/// What is embedded in an address is judged beside it (see `embedded`), and an IPv4 address
/// in any of its spellings as that.
///
/// Neither stands in for the other: an allowed host at a private address needs its network to be
/// allowed as well, or whoever answers for its name could point it at anything inside.
#[derive(Clone, Debug)]
pub struct Rules {
    pub allow_http: bool,
    pub ports: Ports,
    /// Empty for any host.
    pub allowed_hosts: Vec<HostPattern>,
    pub denied_hosts: Vec<HostPattern>,
    pub allowed_networks: Vec<IpNet>,
    pub denied_networks: Vec<IpNet>,
    /// By which this network translates to IPv4, besides `64:ff9b::/96`.
    pub nat64: Vec<Nat64Prefix>,
}

/// Ports that callbacks may go to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Ports {
    /// 1 to 65535.
    Any,
    Only(BTreeSet<u16>),
}

/// What is looked at in a URL once it is read, in this order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Part {
    Scheme,
    UserInfo,
    Fragment,
    Port,
    Host,
    Address,
}

type Check = fn(&Rules, &CallbackUrl) -> Result<(), Refusal>;

/// What has to pass of a URL before any name is looked up.
pub(super) const CHECKS: [(Part, Check); 6] = [
    (Part::Scheme, Rules::scheme),
    (Part::UserInfo, Rules::user_info),
    (Part::Fragment, Rules::fragment),
    (Part::Port, Rules::port),
    (Part::Host, Rules::host),
    (Part::Address, Rules::address),
];

impl Default for Rules {
    fn default() -> Self {
        Self {
            allow_http: false,
            ports: Ports::usual(false),
            allowed_hosts: Vec::new(),
            denied_hosts: Vec::new(),
            allowed_networks: Vec::new(),
            denied_networks: Vec::new(),
            nat64: Vec::new(),
        }
    }
}

impl Rules {
    /// Reads a callback URL, and refuses what the URL alone tells against.
    pub fn check_url(&self, text: &str) -> Result<CallbackUrl, Refusal> {
        let url = CallbackUrl::read(text)?;
        CHECKS.iter().try_for_each(|(_, check)| check(self, &url))?;
        Ok(url)
    }

    /// Whether callbacks may go to `address`, and to whatever is embedded in it.
    pub fn check_address(&self, address: IpAddr) -> Result<(), AddressRefusal> {
        let refuse = |because| AddressRefusal { address, because };
        if let Some(network) = self.denied_networks.iter().find(|it| it.contains(&address)) {
            return Err(refuse(Because::Denied(*network)));
        }
        self.faces(address).try_for_each(|face| self.check_face(face)).map_err(refuse)
    }

    pub(super) fn faces(&self, address: IpAddr) -> impl Iterator<Item = Face> {
        faces(address, &self.nat64)
    }

    fn check_face(&self, face: Face) -> Result<(), Because> {
        if let Some(network) = self.denied_networks.iter().find(|it| it.contains(&face.address)) {
            return Err(Because::Denied(*network));
        }
        let Some(block) = addresses::block(face.address) else { return Ok(()) };
        let opens = |network: &IpNet| {
            let holds_nothing_else = block.network.contains(network);
            network.contains(&face.address) && (holds_nothing_else || !block.is_metadata)
        };
        let is_open = self.allowed_networks.iter().any(opens);
        if is_open { Ok(()) } else { Err(Because::Special(block)) }
    }

    fn scheme(&self, url: &CallbackUrl) -> Result<(), Refusal> {
        let is_allowed = url.scheme() == "https" || self.allow_http;
        if is_allowed { Ok(()) } else { Err(Refusal::NotHttps) }
    }

    #[expect(clippy::unused_self, reason = "no rule changes it, and checks have one form")]
    fn user_info(&self, url: &CallbackUrl) -> Result<(), Refusal> {
        if url.has_user_info() { Err(Refusal::UserInfo) } else { Ok(()) }
    }

    #[expect(clippy::unused_self, reason = "no rule changes it, and checks have one form")]
    fn fragment(&self, url: &CallbackUrl) -> Result<(), Refusal> {
        if url.has_fragment() { Err(Refusal::Fragment) } else { Ok(()) }
    }

    fn port(&self, url: &CallbackUrl) -> Result<(), Refusal> {
        let port = url.port();
        if self.ports.contain(port) {
            return Ok(());
        }
        Err(Refusal::PortNotAllowed { port, allowed: self.ports.clone() })
    }

    fn host(&self, url: &CallbackUrl) -> Result<(), Refusal> {
        let is_among = |patterns: &[HostPattern]| patterns.iter().any(|it| it.matches(url));
        let name = url.name().map(|name| name.trim_end_matches('.'));
        if name.is_some_and(|name| METADATA_NAMES.contains(&name)) {
            return Err(Refusal::MetadataHost);
        }
        // A denied address is denied in whatever it is embedded, as those of a denied network are.
        let mut faces = url.address().into_iter().flat_map(|address| self.faces(address));
        let is_denied = |face: Face| self.denied_hosts.iter().any(|it| it.is(face.address));
        if is_among(&self.denied_hosts) || faces.any(is_denied) {
            return Err(Refusal::HostDenied);
        }
        let is_allowed = self.allowed_hosts.is_empty() || is_among(&self.allowed_hosts);
        if is_allowed { Ok(()) } else { Err(Refusal::HostNotAllowed) }
    }

    fn address(&self, url: &CallbackUrl) -> Result<(), Refusal> {
        let Some(address) = url.address() else { return Ok(()) };
        self.check_address(address).map_err(Refusal::Address)
    }
}

impl Ports {
    /// Unless the operator names others: those of https, and those of http where it is allowed.
    pub fn usual(allow_http: bool) -> Self {
        let http: &[u16] = if allow_http { &[80, 8080] } else { &[] };
        Self::Only([443, 8443].iter().chain(http).copied().collect())
    }

    fn contain(&self, port: u16) -> bool {
        match self {
            Self::Any => port != 0,
            Self::Only(ports) => ports.contains(&port),
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Only(ports) = self else { return f.write_str("ports 1 to 65535") };
        let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
        match ports.split_last() {
            Some((last, [])) => write!(f, "port {last}"),
            Some((last, rest)) => write!(f, "ports {} and {last}", rest.join(", ")),
            None => f.write_str("no port"),
        }
    }
}
