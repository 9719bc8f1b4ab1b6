//! The settings of `serve`: flags and environment variables, checked, and split into what each part
//! needs. With what is below it, the only place that reads the environment.
//!
//! Every setting is a flag, and an environment variable of the same name: `--min-poll-interval` is
//! `ENGAGEMENT_BRIDGE_MIN_POLL_INTERVAL`. Secrets are never flags, for flags show in process lists.

mod access;
mod database;
mod egress;
mod error;
mod handshake;
mod listen;
mod metrics;
mod sign_in;
mod traces;

use std::io;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use crate::api::{self, ListenerLimits};
use crate::courier::Form;
use crate::graph::{GraphRoot, LoginRoot, MachineIdentity};
use crate::sign_in::{Pace, Rules};
use crate::tls::CertificateFiles;
use crate::worker::{self, Retention};
use crate::{callback, graph, lane, operation};

pub use access::{AccessSettings, TrustedHeader};
pub use database::{Database, DatabaseName, DatabaseSettings};
pub use egress::{AllowedPort, EgressSettings};
pub use error::ConfigError;
pub use handshake::{HandshakeForm, HandshakeSettings};
pub use listen::ListenSettings;
pub use metrics::MetricsSettings;
pub use sign_in::SignInSettings;
pub use traces::{Collector, TraceSettings};

const CERTIFICATE_PASSWORD: &str = "ENGAGEMENT_BRIDGE_CERTIFICATE_PASSWORD";
const CLIENT_SECRET: &str = "ENGAGEMENT_BRIDGE_CLIENT_SECRET";
const SIGN_IN_SECRET: &str = "ENGAGEMENT_BRIDGE_SIGN_IN_CLIENT_SECRET";
const SIGNING_SECRET: &str = "ENGAGEMENT_BRIDGE_SIGNING_SECRET";

/// Which Graph a command asks, where no bridge runs that could ask it.
#[derive(Args, Clone, Debug)]
pub struct GraphSettings {
    /// The Graph to ask; where a bridge runs, its own setting counts.
    #[arg(
        long,
        env = "ENGAGEMENT_BRIDGE_GRAPH_ROOT",
        default_value = "https://graph.microsoft.com",
        value_name = "URL",
        value_parser = GraphRoot::parse
    )]
    pub graph_root: GraphRoot,

    /// The Entra to get tokens from. [default: the one that belongs to the Graph root]
    #[arg(long, env = "ENGAGEMENT_BRIDGE_LOGIN_ROOT", value_name = "URL", value_parser = LoginRoot::parse)]
    pub login_root: Option<LoginRoot>,

    #[command(flatten)]
    pub machine: MachineSettings,

    /// A file with root certificates (PEM) to believe besides Mozilla's.
    #[arg(long, env = "ENGAGEMENT_BRIDGE_CA_FILE", value_name = "PATH")]
    pub ca_file: Option<PathBuf>,
}

impl GraphSettings {
    /// Microsoft's own Graph, for commands that ask nothing of it.
    pub fn usual() -> Result<Self, graph::InvalidRoot> {
        Ok(Self {
            graph_root: GraphRoot::parse("https://graph.microsoft.com")?,
            login_root: None,
            machine: MachineSettings {
                instance_metadata: graph::INSTANCE_METADATA.to_owned(),
                identity_endpoint: None,
                identity_header: None,
            },
            ca_file: None,
        })
    }

    /// The Entra that tokens come from.
    pub fn login(&self) -> Result<LoginRoot, ConfigError> {
        login_root(self.login_root.as_ref(), &self.graph_root)
    }
}

/// Where tokens of the machine's own identities come from.
#[derive(Args, Clone, Debug)]
pub struct MachineSettings {
    /// Where managed identities get their tokens on a machine of Azure's.
    #[arg(
        long,
        env = "ENGAGEMENT_BRIDGE_INSTANCE_METADATA",
        default_value = graph::INSTANCE_METADATA,
        value_name = "URL"
    )]
    pub instance_metadata: String,

    /// The same in an App Service, a Function or a Container App, which comes first where Azure sets it.
    #[arg(long, env = "IDENTITY_ENDPOINT", value_name = "URL")]
    pub identity_endpoint: Option<String>,

    /// What a request to that must bear. Set by Azure, in the environment.
    #[arg(long, env = "IDENTITY_HEADER", hide = true, value_parser = secret)]
    pub identity_header: Option<SecretString>,
}

impl MachineSettings {
    /// Who hands out the tokens.
    pub fn machine(&self) -> Result<MachineIdentity, ConfigError> {
        let machine = match (&self.identity_endpoint, &self.identity_header) {
            (Some(endpoint), Some(header)) => {
                MachineIdentity::app_service(endpoint, header.clone())
            }
            _ => MachineIdentity::instance_metadata(&self.instance_metadata),
        };
        machine.map_err(ConfigError::MachineIdentity)
    }
}

#[expect(clippy::unnecessary_wraps, reason = "as clap wants it")]
fn secret(text: &str) -> Result<SecretString, std::convert::Infallible> {
    Ok(SecretString::from(text))
}

fn login_root(given: Option<&LoginRoot>, graph: &GraphRoot) -> Result<LoginRoot, ConfigError> {
    given.cloned().or_else(|| graph.login()).ok_or(ConfigError::NoLoginRoot)
}

/// Everything that can be set about `serve`.
#[derive(Args, Clone, Debug)]
pub struct Settings {
    #[command(flatten)]
    pub database: DatabaseSettings,

    #[command(flatten)]
    pub listening: ListenSettings,

    #[command(flatten)]
    pub metrics: MetricsSettings,

    #[command(flatten)]
    pub traces: TraceSettings,

    /// The Graph to ask, and the only place that tokens are sent to.
    #[arg(
        long,
        env = "ENGAGEMENT_BRIDGE_GRAPH_ROOT",
        default_value = "https://graph.microsoft.com",
        value_name = "URL",
        value_parser = GraphRoot::parse
    )]
    pub graph_root: GraphRoot,

    /// The Entra to get tokens from. [default: the one that belongs to the Graph root]
    #[arg(long, env = "ENGAGEMENT_BRIDGE_LOGIN_ROOT", value_name = "URL", value_parser = LoginRoot::parse)]
    pub login_root: Option<LoginRoot>,

    #[command(flatten)]
    pub machine: MachineSettings,

    /// Between registration and the first poll.
    #[arg(long, env = "ENGAGEMENT_BRIDGE_FIRST_POLL_AFTER", value_name = "DURATION", value_parser = span)]
    #[arg(help = "Between registration and the first poll [default: 5s]")]
    pub first_poll_after: Option<Duration>,

    /// Between two polls of an operation at the least. Below 31s only for a Graph root that is not
    /// Microsoft's, such as the sandbox; all that follows Graph's clock is then shortened in
    /// proportion: the first poll, the longest interval, the budget's window, the grace for 404, the
    /// shortest deadline.
    #[arg(
        long,
        env = "ENGAGEMENT_BRIDGE_MIN_POLL_INTERVAL",
        default_value = "31s",
        value_name = "DURATION",
        value_parser = span
    )]
    pub min_poll_interval: Duration,

    /// Between two polls of an operation at the most, unless Graph asks for more.
    #[arg(long, env = "ENGAGEMENT_BRIDGE_MAX_POLL_INTERVAL", value_name = "DURATION", value_parser = span)]
    #[arg(help = "Between two polls at the most, unless Graph asks for more [default: 10m]")]
    pub max_poll_interval: Option<Duration>,

    /// Polls of one identity in any 30 s. Viva Engage grants 10; the rest is left to the app.
    #[arg(
        long,
        env = "ENGAGEMENT_BRIDGE_GRAPH_REQUESTS",
        default_value_t = 8,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=10)
    )]
    pub graph_requests: u32,

    /// How long a blocked operation waits for a credential before it ends as unauthorized.
    #[arg(
        long,
        env = "ENGAGEMENT_BRIDGE_CREDENTIAL_GRACE",
        default_value = "6h",
        value_name = "DURATION",
        value_parser = span
    )]
    pub credential_grace: Duration,

    #[command(flatten)]
    pub egress: EgressSettings,

    #[command(flatten)]
    pub handshake: HandshakeSettings,

    #[command(flatten)]
    pub sign_in: SignInSettings,

    /// How long to wait before each attempt of a callback, separated with commas; as many attempts
    /// as entries.
    #[arg(
        long,
        env = "ENGAGEMENT_BRIDGE_CALLBACK_SCHEDULE",
        default_value = "0s,5s,5m,30m,2h,5h,10h,14h,20h,24h",
        value_name = "DURATIONS",
        value_delimiter = ',',
        value_parser = span
    )]
    pub callback_schedule: Vec<Duration>,

    /// A file with root certificates (PEM) to believe besides Mozilla's.
    #[arg(long, env = "ENGAGEMENT_BRIDGE_CA_FILE", value_name = "PATH")]
    pub ca_file: Option<PathBuf>,

    /// Polls and attempts in progress at the most, beside up to four times as many that take longer
    /// than 2 s.
    #[arg(
        long,
        env = "ENGAGEMENT_BRIDGE_HANDS",
        default_value_t = 512,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=65_536)
    )]
    pub hands: u32,

    /// How long the contents of what was delivered are kept: bodies of callbacks, the record of their
    /// attempts, and Graph's last answer. Until then it can be sent again. What could not be delivered
    /// keeps them until it is forgotten.
    #[arg(
        long,
        env = "ENGAGEMENT_BRIDGE_KEEP_BODIES",
        default_value = "7d",
        value_name = "DURATION",
        value_parser = span
    )]
    pub keep_bodies: Duration,

    /// How long operations and callbacks at rest are remembered.
    #[arg(
        long,
        env = "ENGAGEMENT_BRIDGE_RETENTION",
        default_value = "30d",
        value_name = "DURATION",
        value_parser = span
    )]
    pub retention: Duration,

    /// Requests of one caller per second, with twice as many in a burst.
    #[arg(
        long,
        env = "ENGAGEMENT_BRIDGE_REQUESTS_PER_SECOND",
        default_value = "1000",
        value_name = "N"
    )]
    pub requests_per_second: NonZeroU32,

    #[command(flatten)]
    pub access: AccessSettings,

    /// Operations of one caller that are being watched at the most.
    #[arg(
        long,
        env = "ENGAGEMENT_BRIDGE_LIVE_OPERATIONS",
        default_value_t = 100_000,
        value_name = "N"
    )]
    pub live_operations: u64,

    /// How long requests and steps in progress may take to finish after a SIGTERM or SIGINT.
    #[arg(
        long,
        env = "ENGAGEMENT_BRIDGE_SHUTDOWN_GRACE",
        default_value = "25s",
        value_name = "DURATION",
        value_parser = span
    )]
    pub shutdown_grace: Duration,
}

/// The settings, checked, as each part takes them.
#[derive(Clone, Debug)]
pub struct Sections {
    pub graph_root: GraphRoot,
    pub login_root: LoginRoot,
    pub machine: MachineIdentity,
    /// Of a token that Graph refuses.
    pub shortest_service: Duration,
    pub operations: operation::Policy,
    pub callbacks: callback::Policy,
    /// What receivers are asked first, if anything.
    pub handshake: Option<Form>,
    /// What a token of Entra must be like, if anybody signs in by one.
    pub sign_in: Option<Rules>,
    /// By what this API acts for users who have signed in.
    pub api: Option<graph::ApiIdentity>,
    pub pace_of_keys: Pace,
    pub lanes: lane::Policy,
    pub worker: worker::Settings,
    pub retention: Retention,
    pub limits: api::Limits,
    pub listener: ListenerLimits,
    /// By what the API is known, where it speaks HTTPS.
    pub certificate: Option<CertificateFiles>,
    /// Where traces go, if anywhere.
    pub collector: Option<Collector>,
}

/// What Graph's own clock asks for; everything else on that clock is in proportion to it.
const GRAPHS_INTERVAL: Duration = Duration::from_secs(31);

impl Settings {
    /// Checks what can be checked without touching anything.
    pub fn sections(&self) -> Result<Sections, ConfigError> {
        let login_root = login_root(self.login_root.as_ref(), &self.graph_root)?;
        let worker = self.worker();
        worker.check()?;
        Ok(Sections {
            shortest_service: self.scaled(graph::SHORTEST_SERVICE),
            operations: self.operations()?,
            callbacks: self.callbacks()?,
            handshake: self.handshake.form()?,
            sign_in: self.sign_in.rules(&login_root)?,
            pace_of_keys: self.pace_of_keys(),
            api: self.sign_in.api()?,
            lanes: self.lanes(),
            worker,
            retention: Retention {
                contents: self.keep_bodies,
                operations: self.retention,
                audit: self.access.keep_audit,
                ..Retention::default()
            },
            limits: self.limits(),
            listener: self.listening.limits(),
            certificate: self.listening.certificate()?,
            collector: self.traces.collector()?,
            graph_root: self.graph_root.clone(),
            login_root,
            machine: self.machine.machine()?,
        })
    }

    fn operations(&self) -> Result<operation::Policy, ConfigError> {
        let shortest = self.min_poll_interval;
        if shortest < GRAPHS_INTERVAL && self.graph_root.is_microsoft() {
            return Err(ConfigError::TooQuickForMicrosoft { root: self.graph_root.to_string() });
        }
        if shortest < Duration::from_millis(10) {
            return Err(ConfigError::TooQuick);
        }
        let usual = operation::Policy::default();
        let longest = self.max_poll_interval.unwrap_or(self.scaled(usual.cadence.longest));
        let longest = longest.max(self.max_poll_interval.map_or(shortest, |_| longest));
        if longest < shortest {
            return Err(ConfigError::NoRoomBetween);
        }
        let first_poll_after =
            self.first_poll_after.unwrap_or(self.scaled(usual.cadence.first_poll_after));
        Ok(operation::Policy {
            cadence: operation::Cadence {
                first_poll_after,
                shortest,
                longest,
                last_look: self.scaled(usual.cadence.last_look),
                ..usual.cadence
            },
            not_found_grace: self.scaled(usual.not_found_grace),
            credential_grace: self.credential_grace,
            ..usual
        })
    }

    fn callbacks(&self) -> Result<callback::Policy, ConfigError> {
        let a_week = Duration::from_hours(7 * 24);
        let fits = |schedule: &[Duration]| schedule.iter().all(|wait| *wait <= a_week);
        if self.callback_schedule.is_empty() || !fits(&self.callback_schedule) {
            return Err(ConfigError::Schedule);
        }
        let in_all: Duration = self.callback_schedule.iter().sum();
        let usual = callback::Policy::default();
        // Room for the jitter, and for a day of waiting in a paused lane.
        let longest_owed = usual.longest_owed.max(in_all + in_all / 10 + Duration::from_hours(24));
        Ok(callback::Policy { schedule: self.callback_schedule.clone(), longest_owed, ..usual })
    }

    fn lanes(&self) -> lane::Policy {
        let usual = lane::Policy::default();
        lane::Policy {
            graph_requests: self.graph_requests,
            graph_window: self.scaled(usual.graph_window),
            graph_pause: self.scaled(usual.graph_pause),
            ..usual
        }
    }

    fn limits(&self) -> api::Limits {
        let usual = api::Limits::default();
        api::Limits {
            requests_per_second: self.requests_per_second,
            failed_attempts: self.access.failed_attempts,
            live_operations: self.live_operations,
            shortest_deadline: self.scaled(usual.shortest_deadline),
            surveys_apart: self.scaled(usual.surveys_apart),
            ..usual
        }
    }

    fn worker(&self) -> worker::Settings {
        worker::Settings {
            hands: usize::try_from(self.hands).unwrap_or(usize::MAX),
            longest_sleep: Duration::from_secs(30),
            lease: Duration::from_secs(90),
            poll_takes: graph::HARD_DEADLINE,
            poll_apart: GRAPHS_INTERVAL,
            attempt_takes: crate::courier::HARD_DEADLINE,
        }
    }

    /// A span of Graph's clock, which the sandbox may run faster, never slower.
    fn scaled(&self, span: Duration) -> Duration {
        let pace = self.min_poll_interval.as_secs_f64() / GRAPHS_INTERVAL.as_secs_f64();
        let millis = (span.as_secs_f64() * pace.min(1.0) * 1_000.0).ceil();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a span of the policies, made smaller"
        )]
        Duration::from_millis(millis as u64)
    }
}

/// Reads `1500ms`, `31s`, `10m`, `24h`, `30d`, `PT31S`, or a plain number of seconds.
pub fn span(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let hint = "give a duration such as 31s, 1500ms, 10m, 24h or PT31S";
    if let Ok(seconds) = text.parse::<u32>() {
        return Ok(Duration::from_secs(seconds.into()));
    }
    let days = jiff::SpanRelativeTo::days_are_24_hours();
    let span = text.parse::<jiff::Span>().and_then(|span| span.to_duration(days));
    let span = span.map_err(|_| hint.to_owned())?;
    Duration::try_from(span).map_err(|_| hint.to_owned())
}

/// Reads a secret from a file, without what white space an editor may have left around it.
pub fn read_secret(path: &Path) -> Result<Option<Zeroizing<String>>, ConfigError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(Zeroizing::new(Zeroizing::new(text).trim().to_owned()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ConfigError::Unreadable { path: path.to_owned(), source }),
    }
}

/// What a file with a secret holds, which must be there.
fn secret_in(path: &Path) -> Result<SecretString, ConfigError> {
    let source = io::ErrorKind::NotFound.into();
    let missing = || ConfigError::Unreadable { path: path.to_owned(), source };
    let text = read_secret(path)?.ok_or_else(missing)?;
    Ok(SecretString::from(text.as_str()))
}

/// The client secret for `connections add`, where the environment has it.
pub fn client_secret() -> Option<Zeroizing<String>> {
    environment(CLIENT_SECRET).map(|secret| Zeroizing::new(secret.expose_secret().to_owned()))
}

/// The password of a PKCS#12 file for `connections`, where the environment has it.
pub fn certificate_password() -> Option<SecretString> {
    environment(CERTIFICATE_PASSWORD)
}

/// The signing secret for `verify`, where the environment has it.
pub fn signing_secret() -> Option<Zeroizing<String>> {
    environment(SIGNING_SECRET).map(|secret| Zeroizing::new(secret.expose_secret().to_owned()))
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
fn environment(name: &str) -> Option<SecretString> {
    std::env::var(name).ok().filter(|value| !value.is_empty()).map(SecretString::from)
}
