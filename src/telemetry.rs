//! Logs, set up once: text with colours in a terminal, JSON lines where they are piped.

use std::io::IsTerminal as _;

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

/// What to log, and how.
#[derive(Args, Clone, Debug)]
pub struct LogSettings {
    /// What to log: error, warn, info, debug or trace, or a filter such as
    /// `info,engagement_bridge::graph=debug`. [default: info, and warn for all but `serve`]
    #[arg(
        long,
        global = true,
        env = "ENGAGEMENT_BRIDGE_LOG",
        value_name = "FILTER",
        help_heading = "Logs"
    )]
    pub log: Option<String>,

    /// What log lines look like: `text`, `json`, or `auto` for text in a terminal and JSON elsewhere.
    #[arg(
        long,
        global = true,
        env = "ENGAGEMENT_BRIDGE_LOG_FORMAT",
        default_value = "auto",
        value_name = "FORMAT",
        help_heading = "Logs",
        hide_possible_values = true
    )]
    pub log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum LogFormat {
    /// Text in a terminal, JSON elsewhere.
    Auto,
    Text,
    Json,
}

/// Sends logs to standard error from now on: what the settings say, or else what is `usual`.
pub fn init(settings: &LogSettings, usual: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::builder()
        .parse(settings.log.as_deref().unwrap_or(usual))
        .map_err(|error| anyhow::anyhow!("--log: {error}"))?;
    let json = match settings.log_format {
        LogFormat::Auto => !std::io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if json {
        subscriber.json().flatten_event(true).with_current_span(false).init();
    } else {
        subscriber.with_ansi(std::io::stderr().is_terminal()).with_target(false).init();
    }
    Ok(())
}
