//! `check-url`: whether callbacks may go to a URL, and all that the verdict rests on.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use serde_json::{Value, json};

use super::Done;
use super::output::{BAD, CAUTION, GOOD, is_json, json, line, table};
use crate::clock::SystemClock;
use crate::config::EgressSettings;
use crate::courier::egress::{Explanation, Faced, Looked, Verdict};
use crate::names::SystemNames;
use crate::serve::egress;

/// Explain whether callbacks may go to a URL.
///
/// Looks at it as a registration and each attempt do, with the settings of `serve` about where
/// callbacks may go, from the flags below or the environment, and asks the name servers of this
/// machine. Exits with 0 if it is allowed, and with 1 if it is refused or its name could not be
/// looked up.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// The callback URL.
    url: String,
    #[command(flatten)]
    egress: EgressSettings,
    /// Print JSON, as is done wherever the output is no terminal.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: Arguments) -> Done {
    // Nothing is sent, but `serve` would not start with one that cannot be read.
    arguments.egress.proxy()?;
    let names = Arc::new(SystemNames::default());
    let guard = egress(&arguments.egress, names, Arc::new(SystemClock));
    let explanation = guard.explain(&arguments.url).await;
    if is_json(arguments.json) {
        json(&as_json(&explanation))?;
    } else {
        show(&explanation)?;
    }
    let is_allowed = matches!(explanation.verdict, Verdict::Allowed);
    Ok(if is_allowed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn show(explanation: &Explanation) -> anyhow::Result<()> {
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
    Ok(())
}

fn as_json(explanation: &Explanation) -> Value {
    let (verdict, code, detail) = match &explanation.verdict {
        Verdict::Allowed => ("allowed", None, None),
        Verdict::Refused(refusal) => {
            ("refused", Some(refusal.code().as_str()), Some(refusal.to_string()))
        }
        Verdict::Unknown(trouble) => ("unknown", None, Some(trouble.to_string())),
    };
    let steps: Vec<_> = explanation.looked.iter().map(step).collect();
    json!({ "verdict": verdict, "code": code, "detail": detail, "steps": steps })
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
