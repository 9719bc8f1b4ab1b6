//! What the tests of this module share: names that resolve as told, and a clock that is set.

use std::collections::HashMap;
use std::future::pending;
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::clock::Clock;
use crate::names::{LookupError, Names};

/// A clock that stands still until it is moved.
pub(super) struct SetClock(AtomicI64);

impl SetClock {
    pub(super) fn at(now: Timestamp) -> Self {
        Self(AtomicI64::new(now.as_millisecond()))
    }

    pub(super) fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_millis().try_into().unwrap(), Ordering::SeqCst);
    }
}

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millisecond(self.0.load(Ordering::SeqCst)).unwrap()
    }
}

/// Answers as it was last told; a name that it was never told of does not exist.
#[derive(Default)]
pub(super) struct ToldNames {
    known: Mutex<HashMap<String, Result<Vec<IpAddr>, LookupError>>>,
    asked: Mutex<Vec<String>>,
}

impl ToldNames {
    pub(super) fn tell(&self, name: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        self.known.lock().unwrap().insert(name.to_owned(), Ok(addresses));
    }

    pub(super) fn fail(&self, name: &str, error: LookupError) {
        self.known.lock().unwrap().insert(name.to_owned(), Err(error));
    }

    /// How often it was asked.
    pub(super) fn asked(&self) -> usize {
        self.asked_for().len()
    }

    /// What it was asked for, as it was asked.
    pub(super) fn asked_for(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// Never answers.
pub(super) struct SilentNames;

#[async_trait]
impl Names for SilentNames {
    async fn addresses(&self, _: &str) -> Result<Vec<IpAddr>, LookupError> {
        pending().await
    }
}

#[async_trait]
impl Names for ToldNames {
    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, LookupError> {
        self.asked.lock().unwrap().push(host.to_owned());
        let known = self.known.lock().unwrap();
        known.get(host.trim_end_matches('.')).cloned().unwrap_or(Err(LookupError::NotFound))
    }
}
