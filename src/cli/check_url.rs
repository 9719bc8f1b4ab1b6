//! `check-url`: whether callbacks may go to a URL, and all that the verdict rests on.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use serde_json::{Value, json};

use super::Done;
use super::output::{BAD, CAUTION, GOOD, is_json, json, line, table};
use crate::clock::SystemClock;
use crate::config::{EgressSettings, HandshakeSettings};
use crate::courier::egress::{Explanation, Faced, Looked, Verdict};
use crate::courier::{Consent, Declined, Greeter as _, HttpGreeter, ProxyWay};
use crate::lane::Rate;
use crate::names::{Names, SystemNames};
use crate::serve::{self, egress};

/// Explain whether callbacks may go to a URL.
///
/// Looks at it as a registration and each attempt do, with the settings of `serve` about where
/// callbacks may go, from the flags below or the environment, and asks the name servers of this
/// machine. With --shake-hands, also asks the receiver whether it wants callbacks. Exits with 0 if it
/// is allowed and has agreed, and with 1 if it is refused, does not agree, or its name could not be
/// looked up.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// The callback URL.
    url: String,
    #[command(flatten)]
    egress: EgressSettings,
    /// Ask the receiver as --callback-handshake says, if the URL is allowed. Sends one request to it.
    #[arg(long)]
    shake_hands: bool,
    #[command(flatten)]
    handshake: HandshakeSettings,
    /// A file with root certificates (PEM) to believe besides Mozilla's.
    #[arg(long, env = "ENGAGEMENT_BRIDGE_CA_FILE", value_name = "PATH")]
    ca_file: Option<PathBuf>,
    /// Print JSON, as is done wherever the output is no terminal.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: Arguments) -> Done {
    // Even where nothing is sent: `serve` would not start with one that cannot be read.
    let proxy = arguments.egress.proxy()?;
    let names: Arc<dyn Names> = Arc::new(SystemNames::default());
    let guard = Arc::new(egress(&arguments.egress, Arc::clone(&names), Arc::new(SystemClock)));
    let explanation = guard.explain(&arguments.url).await;
    let is_allowed = matches!(explanation.verdict, Verdict::Allowed);
    let greeted = match arguments.handshake.form()? {
        None if arguments.shake_hands => {
            anyhow::bail!("--shake-hands needs --callback-handshake: graph or cloudEvents")
        }
        Some(form) if arguments.shake_hands && is_allowed => {
            let tls = serve::tls(arguments.ca_file.as_deref())?;
            let way = proxy.map(|proxy| ProxyWay { proxy, names });
            let url = guard.check_url(&arguments.url)?;
            Some(HttpGreeter::new(form, guard, &tls, way).greet(&url).await)
        }
        Some(_) | None => None,
    };
    if is_json(arguments.json) {
        json(&as_json(&explanation, greeted.as_ref()))?;
    } else {
        show(&explanation, greeted.as_ref())?;
    }
    let is_well = is_allowed && greeted.is_none_or(|greeted| greeted.is_ok());
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

type Greeted = Result<Consent, Declined>;

fn show(explanation: &Explanation, greeted: Option<&Greeted>) -> anyhow::Result<()> {
    let row = |looked: &Looked| {
        let code = looked.refusal.as_ref().map_or("ok", |refusal| refusal.code().as_str());
        [looked.at.as_str().to_owned(), code.to_owned(), looked.finding.clone()]
    };
    let rows: Vec<_> = explanation.looked.iter().map(row).collect();
    table(["STEP", "VERDICT", "FINDING"], &rows)?;
    line("")?;
    match &explanation.verdict {
        Verdict::Allowed => line(format_args!("{GOOD}allowed{GOOD:#}"))?,
        Verdict::Refused(refusal) => {
            line(format_args!("{BAD}refused{BAD:#}: {} ({refusal})", refusal.code().as_str()))?;
        }
        Verdict::Unknown(trouble) => line(format_args!(
            "{CAUTION}cannot be told{CAUTION:#}: {trouble}. It would be registered, and looked up again for \
             each attempt"
        ))?,
    }
    match greeted {
        None => {}
        Some(Ok(Consent { rate: None })) => line(format_args!("{GOOD}agreed{GOOD:#}"))?,
        Some(Ok(Consent { rate: Some(rate) })) => {
            line(format_args!("{GOOD}agreed{GOOD:#}, to {} a minute", rate.attempts()))?;
        }
        Some(Err(declined)) => {
            let (code, detail) = (declined.code(), &declined.detail);
            line(format_args!("{BAD}not agreed{BAD:#}: {code} ({detail})"))?;
        }
    }
    Ok(())
}

fn as_json(explanation: &Explanation, greeted: Option<&Greeted>) -> Value {
    let (verdict, code, detail) = match &explanation.verdict {
        Verdict::Allowed => ("allowed", None, None),
        Verdict::Refused(refusal) => {
            ("refused", Some(refusal.code().as_str()), Some(refusal.to_string()))
        }
        Verdict::Unknown(trouble) => ("unknown", None, Some(trouble.to_string())),
    };
    let steps: Vec<_> = explanation.looked.iter().map(step).collect();
    let handshake = greeted.map(|greeted| match greeted {
        Ok(Consent { rate }) => json!({ "agreed": true, "rate": rate.map(Rate::attempts) }),
        Err(declined) => {
            json!({ "agreed": false, "code": declined.code(), "detail": declined.detail })
        }
    });
    json!({
        "verdict": verdict,
        "code": code,
        "detail": detail,
        "steps": steps,
        "handshake": handshake,
    })
}

fn step(looked: &Looked) -> Value {
    let code = looked.refusal.as_ref().map(|refusal| refusal.code().as_str());
    let mut step = json!({ "step": looked.at.as_str(), "finding": looked.finding, "code": code });
    if !looked.faces.is_empty() {
        step["addresses"] = looked.faces.iter().map(address).collect();
    }
    step
}

fn address(Faced { face, block }: &Faced) -> Value {
    let block = block.map(|block| {
        json!({ "network": block.network.to_string(), "is": block.what, "source": block.source })
    });
    json!({ "address": face.address.to_string(), "form": face.form, "block": block })
}
