//! `demo`: everything at work on this machine, told as it happens.

mod app;
mod receiver;
mod tale;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Command, FromArgMatches as _};
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::Done;
use super::output::line;
use super::sandbox::until_told;
use crate::clock::SystemClock;
use crate::config::Settings;
use crate::sandbox::{Options, Sandbox};
use crate::serve::Bridge;
use crate::shutdown::Shutdown;
use app::App;
use receiver::{Deliveries, Receiver};
use tale::{Tale, Teller};

/// Show everything at work on this machine: Graph's stand-in, the bridge and a receiver.
///
/// Creates three communities, one of which fails and one of which is throttled on the way, and
/// registers their operations. Nothing leaves this machine, and nothing is left on it. Exits with
/// 0 if all callbacks came and were verified.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Leave everything running afterwards, and print commands to try.
    #[arg(long)]
    keep: bool,
}

/// The bridge polls an operation once a second in place of once in 31 s, and the sandbox's time
/// runs as much faster.
const SPEED: f64 = 31.0;

/// What communities are called; what is behind `#` tells the sandbox what to do.
const COMMUNITIES: [&str; 3] = ["Gardening", "Chess club #fails", "All hands #throttled"];

/// No demo takes longer.
const PATIENCE: Duration = Duration::from_mins(1);

pub(super) async fn run(arguments: Arguments) -> Done {
    let teller = Teller::start();
    let directory = tempfile::tempdir().context("cannot make a temporary directory")?;
    teller.tell(&Tale::Begins { speed: SPEED })?;

    let options = Options { speed: SPEED, ..Options::default() };
    let sandbox = Sandbox::start(options, Arc::new(SystemClock)).await?;
    let receiver = Receiver::bind().await?;
    let settings = settings(&directory, &sandbox)?;
    let bridge = Bridge::prepare(&settings).await?;
    let admin_key = settings.database.admin_key()?;
    let root = format!("http://{}", bridge.address());
    let mut app = App::new(root, sandbox.root().to_owned(), receiver.url())?;
    teller.tell(&Tale::Started {
        sandbox: sandbox.root(),
        bridge: &app.bridge,
        receiver: &app.callback_url,
    })?;

    let shutdown = Shutdown::default();
    let mut parts = JoinSet::new();
    parts.spawn(bridge.run(shutdown.clone()));
    let story = async {
        app.set_up(&admin_key).await?;
        teller.tell(&Tale::CallerAdded)?;
        let mut deliveries = receiver.serve(app.signing_secret()?);
        let told = tell(&teller, &sandbox, &mut app, &mut deliveries);
        let all_went_well = tokio::time::timeout(PATIENCE, told)
            .await
            .with_context(|| format!("the demo did not end within {} s", PATIENCE.as_secs()))??;
        if arguments.keep {
            Teller::commands(&app)?;
            line("Everything goes on running until Ctrl-C.")?;
            let mut told = std::pin::pin!(until_told());
            loop {
                tokio::select! {
                    told = told.as_mut() => break told?,
                    delivery = deliveries.next() => teller.tell(&Tale::Delivered(&delivery?))?,
                }
            }
        }
        anyhow::Ok(all_went_well)
    };
    let all_went_well = tokio::select! {
        all_went_well = story => all_went_well?,
        Some(ended) = parts.join_next() => {
            ended??;
            bail!("the bridge stopped before the demo was over");
        }
    };
    shutdown.stop.cancel();
    while let Some(ended) = parts.join_next().await {
        ended??;
    }
    sandbox.stop().await;
    directory.close().context("cannot remove the temporary directory")?;
    Ok(if all_went_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// From the first community to the last callback. Whether all went as it should.
async fn tell(
    teller: &Teller,
    sandbox: &Sandbox,
    app: &mut App,
    deliveries: &mut Deliveries,
) -> anyhow::Result<bool> {
    for name in COMMUNITIES {
        let tracked = app.create_community(name).await?;
        teller.tell(&Tale::Registered(&tracked))?;
        app.tracked.push(tracked);
    }
    let mut told = 0;
    // Looks often enough for each poll to be told about when it happens.
    let mut glance = tokio::time::interval(Duration::from_millis(20));
    while !app.tracked.iter().all(|tracked| tracked.delivery.is_some()) {
        let delivery = tokio::select! {
            delivery = deliveries.next() => Some(delivery?),
            _ = glance.tick() => None,
        };
        let record = sandbox.record();
        for request in record.iter().skip(told) {
            teller.tell_request(request, &app.tracked)?;
        }
        told = record.len();
        if let Some(delivery) = delivery {
            teller.tell(&Tale::Delivered(&delivery))?;
            app.take(delivery)?;
        }
    }
    let all_went_well = teller.sum_up(&app.tracked, &sandbox.record(), SPEED)?;
    Ok(all_went_well)
}

/// As somebody would run `serve` beside a sandbox, whatever this shell's environment says.
fn settings(directory: &TempDir, sandbox: &Sandbox) -> anyhow::Result<Settings> {
    let database = directory.path().join("bridge.db");
    let database = database.to_str().context("the temporary directory's name is not UTF-8")?;
    let arguments = [
        "demo",
        "--database",
        database,
        "--listen",
        "127.0.0.1:0",
        "--graph-root",
        sandbox.root(),
        "--login-root",
        sandbox.root(),
        "--min-poll-interval",
        "1s",
        "--allow-http-callbacks",
        "--allow-callback-cidr",
        "127.0.0.0/8",
        "--allow-callback-port",
        "any",
        "--shutdown-grace",
        "2s",
    ];
    let command = Settings::augment_args(Command::new("demo"))
        .mut_args(|argument| argument.env(clap::builder::Resettable::Reset));
    let matches = command.try_get_matches_from(arguments)?;
    Ok(Settings::from_arg_matches(&matches)?)
}
