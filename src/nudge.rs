//! Wakes the worker early. A nudge carries urgency, never content: what is to be done stands in
//! the store, and the worker would find it by itself a little later.

use std::sync::atomic::{AtomicI64, Ordering};

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// Shared by those who make work and the one who does it.
#[derive(Debug)]
pub struct Nudge {
    wake: Notify,
    /// In milliseconds; until when the worker will not look by itself.
    asleep_until: AtomicI64,
    resend: Notify,
    rekeying: Notify,
    waking: Notify,
}

impl Default for Nudge {
    fn default() -> Self {
        Self {
            wake: Notify::new(),
            asleep_until: AtomicI64::new(i64::MAX),
            resend: Notify::new(),
            rekeying: Notify::new(),
            waking: Notify::new(),
        }
    }
}

impl Nudge {
    /// Something falls due at `at`. Wakes the worker if it means to sleep for longer, so that ten
    /// thousand registrations a second do not make ten thousand claims.
    pub fn due(&self, at: Timestamp) {
        if at.as_millisecond() < self.asleep_until.load(Ordering::SeqCst) {
            self.wake.notify_one();
        }
    }

    /// Looks for work now.
    pub fn now(&self) {
        self.wake.notify_one();
    }

    /// Looks for bulk resends now.
    pub fn resend(&self) {
        self.resend.notify_one();
    }

    /// For the one who grants bulk resends.
    pub(crate) fn resend_asked(&self) -> Notified<'_> {
        self.resend.notified()
    }

    /// Looks for a change of master keys now.
    pub fn rekeying(&self) {
        self.rekeying.notify_one();
    }

    /// Looks for blocked operations to wake now.
    pub fn waking(&self) {
        self.waking.notify_one();
    }

    /// For the one who wakes blocked operations.
    pub(crate) fn waking_asked(&self) -> Notified<'_> {
        self.waking.notified()
    }

    /// For the one who seals anew.
    pub(crate) fn rekeying_asked(&self) -> Notified<'_> {
        self.rekeying.notified()
    }

    /// For the worker: to be called before it looks for work, so that no nudge falls between
    /// looking and sleeping.
    pub(crate) fn nudged(&self) -> Notified<'_> {
        self.asleep_until.store(i64::MAX, Ordering::SeqCst);
        self.wake.notified()
    }

    /// For the worker: it has looked, and will look again at `until` at the latest.
    pub(crate) fn sleeping(&self, until: Timestamp) {
        self.asleep_until.store(until.as_millisecond(), Ordering::SeqCst);
    }
}
