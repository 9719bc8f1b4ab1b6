//! Two stages of stopping.

use tokio_util::sync::CancellationToken;

/// Stops at the first SIGTERM or SIGINT, and abandons what is in progress at the second.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// Take up nothing new, and let what is in progress finish.
    pub stop: CancellationToken,
    /// Finish nothing. Safe at any moment: leases see to what is left.
    pub abandon: CancellationToken,
}

impl Shutdown {
    /// Listens for signals for as long as it is polled.
    pub async fn on_signals(&self) -> std::io::Result<()> {
        let mut signals = Signals::new()?;
        let name = signals.next().await;
        tracing::info!(signal = name, "stopping; once more to abandon what is in progress");
        self.stop.cancel();
        let name = signals.next().await;
        tracing::warn!(signal = name, "abandoning what is in progress");
        self.abandon.cancel();
        Ok(())
    }
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let (interrupt, terminate) = (SignalKind::interrupt(), SignalKind::terminate());
        Ok(Self { interrupt: signal(interrupt)?, terminate: signal(terminate)? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}
