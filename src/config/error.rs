//! What is said of settings that cannot be run with.

use std::io;
use std::path::PathBuf;

use super::SIGN_IN_SECRET;
use super::database::MASTER_KEY;
use crate::courier::InvalidProxy;
use crate::graph::{InvalidCertificate, InvalidMachineIdentity};
use crate::vault::VaultError;
use crate::worker;

/// A setting is not one that can be run with.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(
        "--min-poll-interval must be more than 30 s for {root}: Microsoft asks for it. \
         A shorter one is for the sandbox"
    )]
    TooQuickForMicrosoft { root: String },
    #[error("--min-poll-interval must be at least 10 ms")]
    TooQuick,
    #[error("--max-poll-interval must not be shorter than --min-poll-interval")]
    NoRoomBetween,
    #[error("--callback-schedule needs at least one entry, and none above 7 days")]
    Schedule,
    #[error("managed identities have no place to get tokens from: see --instance-metadata")]
    MachineIdentity(#[source] InvalidMachineIdentity),
    #[error("--login-root is needed for a Graph root that is none of Microsoft's")]
    NoLoginRoot,
    #[error(
        "--callback-handshake cloudEvents needs --callback-request-origin: the DNS name that receivers \
         know this bridge by"
    )]
    NoRequestOrigin,
    #[error("--tls-certificate-file and --tls-key-file belong together: give both, or neither")]
    Tls,
    #[error("--sign-in-client-id and --sign-in-tenants belong together: give both, or neither")]
    SignIn,
    #[error(
        "give one of --sign-in-client-secret-file, {SIGN_IN_SECRET}, --sign-in-certificate-file and \
         --sign-in-federated-token-file, and --sign-in-client-id with it"
    )]
    SignInProof,
    #[error("{path} does not hold the URL of a PostgreSQL: postgres://…", path = path.display())]
    NotAUrl { path: PathBuf },
    #[error("the certificate in {path} cannot be used", path = path.display())]
    SignInCertificate { path: PathBuf, source: InvalidCertificate },
    #[error("--sign-in-tenants has room for {most}")]
    TooManyTenants { most: usize },
    #[error(
        "the headers for the collector are not `name=value`, with commas between or one to a line"
    )]
    OtlpHeaders,
    #[error("--callback-proxy is not one that callbacks can go through")]
    CallbackProxy(#[source] InvalidProxy),
    #[error("cannot read {path}")]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot write {path}")]
    Unwritable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{database} is there, but its master key {path} is not: put it back, or give it by \
         --master-key-file or {MASTER_KEY}"
    )]
    KeyMissing { database: PathBuf, path: PathBuf },
    #[error("with a PostgreSQL, give {flag} or {variable}: the same to all bridges on it")]
    KeyNotGiven { flag: &'static str, variable: &'static str },
    #[error("the master key in {from} is not usable")]
    MasterKey {
        from: String,
        #[source]
        source: VaultError,
    },
    #[error("the admin key in {from} must be 16 to 256 visible ASCII characters")]
    AdminKey { from: String },
    #[error("the operating system has no random numbers")]
    NoRandomness(#[source] getrandom::Error),
    #[error(transparent)]
    Lease(#[from] worker::LeaseTooShort),
}
