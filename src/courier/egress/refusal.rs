//! Why callbacks are not sent somewhere: a code for programs, and a sentence for people.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Ports;
use super::addresses::Block;

/// The code of a refusal, at registration and in the record of an attempt alike. Codes never change;
/// new ones may come.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum RefusalCode {
    TooLong,
    NotAUrl,
    SchemeNotAllowed,
    NotHttps,
    UserInfo,
    Fragment,
    PortNotAllowed,
    HostDenied,
    HostNotAllowed,
    HostNotFound,
    AddressDenied,
    AddressRefused,
}

impl RefusalCode {
    pub const ALL: [Self; 12] = [
        Self::TooLong,
        Self::NotAUrl,
        Self::SchemeNotAllowed,
        Self::NotHttps,
        Self::UserInfo,
        Self::Fragment,
        Self::PortNotAllowed,
        Self::HostDenied,
        Self::HostNotAllowed,
        Self::HostNotFound,
        Self::AddressDenied,
        Self::AddressRefused,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooLong => "tooLong",
            Self::NotAUrl => "notAUrl",
            Self::SchemeNotAllowed => "schemeNotAllowed",
            Self::NotHttps => "notHttps",
            Self::UserInfo => "userInfo",
            Self::Fragment => "fragment",
            Self::PortNotAllowed => "portNotAllowed",
            Self::HostDenied => "hostDenied",
            Self::HostNotAllowed => "hostNotAllowed",
            Self::HostNotFound => "hostNotFound",
            Self::AddressDenied => "addressDenied",
            Self::AddressRefused => "addressRefused",
        }
    }
}

/// Why callbacks are not sent to a URL, to its host, or to an address of that.
///
/// A caller reads the sentence. It tells an address only where the caller gave it: what a name leads
/// to inside of the operator's network is not for callers to explore.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refusal {
    #[error("a callback URL has at most 2048 bytes, with all that is not ASCII percent-encoded")]
    TooLong,
    #[error("not an absolute URL with a host, such as https://app.example.com/hooks")]
    NotAUrl,
    #[error("a callback URL is http or https")]
    SchemeNotAllowed,
    #[error("callbacks are sent by https only")]
    NotHttps,
    #[error("a callback URL has no user name or password: the signature proves who sends it")]
    UserInfo,
    #[error("a callback URL has no fragment (#…)")]
    Fragment,
    #[error("callbacks go to {allowed} only, and not to port {port}")]
    PortNotAllowed { port: u16, allowed: Ports },
    #[error("the host is a metadata service of a cloud")]
    MetadataHost,
    #[error("the operator denies callbacks to this host")]
    HostDenied,
    #[error("the operator allows callbacks to certain hosts only, and this is none of them")]
    HostNotAllowed,
    #[error("the host does not exist, or has no address; it is looked up as a full name")]
    HostNotFound,
    /// The URL says the address.
    #[error("{} is {}", .0.address, .0.because)]
    Address(AddressRefusal),
    /// The URL says a name, which leads to the address.
    #[error("the host has an address that is {}", .0.because)]
    LeadsTo(AddressRefusal),
}

/// An address that callbacks do not go to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AddressRefusal {
    /// As it was given, whatever is embedded in it.
    pub address: IpAddr,
    pub because: Because,
}

/// What is against an address.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Because {
    #[error("{} ({}), and the operator does not allow it", .0.what, .0.source)]
    Special(&'static Block),
    /// The operator's own word.
    #[error("in a network that the operator denies")]
    Denied(IpNet),
}

impl Refusal {
    pub fn code(&self) -> RefusalCode {
        match self {
            Self::TooLong => RefusalCode::TooLong,
            Self::NotAUrl => RefusalCode::NotAUrl,
            Self::SchemeNotAllowed => RefusalCode::SchemeNotAllowed,
            Self::NotHttps => RefusalCode::NotHttps,
            Self::UserInfo => RefusalCode::UserInfo,
            Self::Fragment => RefusalCode::Fragment,
            Self::PortNotAllowed { .. } => RefusalCode::PortNotAllowed,
            Self::MetadataHost | Self::HostDenied => RefusalCode::HostDenied,
            Self::HostNotAllowed => RefusalCode::HostNotAllowed,
            Self::HostNotFound => RefusalCode::HostNotFound,
            Self::Address(refusal) | Self::LeadsTo(refusal) => refusal.because.code(),
        }
    }

    /// The address at fault, for the operator's eyes.
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Address(refusal) | Self::LeadsTo(refusal) => Some(refusal.address),
            Self::TooLong
            | Self::NotAUrl
            | Self::SchemeNotAllowed
            | Self::NotHttps
            | Self::UserInfo
            | Self::Fragment
            | Self::PortNotAllowed { .. }
            | Self::MetadataHost
            | Self::HostDenied
            | Self::HostNotAllowed
            | Self::HostNotFound => None,
        }
    }
}

impl Because {
    pub fn code(self) -> RefusalCode {
        match self {
            Self::Special(_) => RefusalCode::AddressRefused,
            Self::Denied(_) => RefusalCode::AddressDenied,
        }
    }
}
