//! Who may ask, and where a request comes from.

use std::num::NonZeroU32;
use std::time::Duration;

use clap::{Args, ValueEnum};
use ipnet::IpNet;

use super::egress::network;
use super::span;
use crate::api::{ForwardedBy, Proxies};

/// What the operator sets about keys, and about where they come from.
#[derive(Args, Clone, Debug)]
pub struct AccessSettings {
    /// Requests with a wrong key from one address per minute, with as many at once; further ones are
    /// answered by 429, and a key that could be guessed is not looked at among them. Keys made by the
    /// bridge cannot be guessed, and open all the same.
    #[arg(long, env = "ENGAGEMENT_BRIDGE_FAILED_ATTEMPTS", default_value = "60", value_name = "N")]
    pub failed_attempts: NonZeroU32,

    /// The network of a proxy in front of the bridge, which is believed about where a request comes
    /// from. Without it, all that comes by a proxy comes from the proxy. Repeat it, or separate several
    /// with commas.
    #[arg(
        long,
        env = "ENGAGEMENT_BRIDGE_TRUSTED_PROXY",
        value_name = "CIDR",
        value_delimiter = ',',
        value_parser = network
    )]
    pub trusted_proxy: Vec<IpNet>,

    /// The header in which the proxy says so: `x-forwarded-for` or `forwarded`. Name the one that it
    /// sets itself, for the other one is whatever the client has sent.
    #[arg(
        long,
        env = "ENGAGEMENT_BRIDGE_TRUSTED_HEADER",
        value_enum,
        default_value = "x-forwarded-for",
        hide_possible_values = true,
        value_name = "HEADER"
    )]
    pub trusted_header: TrustedHeader,

    /// How long the audit log is kept: who has changed what.
    #[arg(
        long,
        env = "ENGAGEMENT_BRIDGE_KEEP_AUDIT",
        default_value = "365d",
        value_name = "DURATION",
        value_parser = span
    )]
    pub keep_audit: Duration,
}

/// The headers that there are.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
#[value(rename_all = "kebab-case")]
pub enum TrustedHeader {
    XForwardedFor,
    Forwarded,
}

impl AccessSettings {
    pub fn proxies(&self) -> Proxies {
        let header = match self.trusted_header {
            TrustedHeader::XForwardedFor => ForwardedBy::XForwardedFor,
            TrustedHeader::Forwarded => ForwardedBy::Forwarded,
        };
        Proxies { trusted: self.trusted_proxy.clone(), header }
    }
}
