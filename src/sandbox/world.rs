//! What the sandbox knows, behind one lock.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::entra::Trust;
use super::entra::signing::{Grants, SignInToken, Signing};
use super::record::{Record, RecordedRequest};
use super::script::{Answer, Fault, Script, TokenScript};
use super::throttle::Throttle;
use super::tokens::{Access, Audience, Grant, Issued};
use super::{Full, Options};
use crate::clock::Clock;

/// What every connection shares.
pub(super) struct Shared {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) options: Options,
    /// Where the sandbox listens, as in `http://127.0.0.1:8123`.
    pub(super) root: String,
    world: Mutex<World>,
}

/// What changes.
#[derive(Debug)]
pub(super) struct World {
    pub(super) operations: HashMap<String, Operation>,
    pub(super) access_tokens: Issued<Access>,
    pub(super) refresh_tokens: Issued<Grant>,
    pub(super) signing: Signing,
    pub(super) trust: Trust,
    token_script: VecDeque<Answer<Fault>>,
    pub(super) throttle: Throttle,
    pub(super) record: Record,
    dice: Dice,
}

/// An `engagementAsyncOperation`.
#[derive(Debug)]
pub(super) struct Operation {
    /// When its script began, by the clock.
    started_at: Timestamp,
    /// The same as Graph tells it: finer than any clock of ours.
    pub(super) created_at: Timestamp,
    script: Arc<Script>,
    polls: usize,
    /// The id of the community that it makes.
    pub(super) resource_id: String,
}

impl Shared {
    pub(super) fn new(clock: Arc<dyn Clock>, options: Options, root: String) -> io::Result<Self> {
        let world = Mutex::new(World::new(Dice::new()?));
        Ok(Self { clock, options, root, world })
    }

    /// Holds the lock for as long as the guard lives, so never over an await.
    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        // No invariant spans two of its fields, so a panic under the lock leaves a usable world.
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn record(&self, request: RecordedRequest) {
        self.world().record.push(request);
    }

    /// How long `span` of sandbox time takes in real time.
    pub(super) fn real(&self, span: Duration) -> Duration {
        span.div_f64(self.options.speed)
    }

    /// How much sandbox time has passed when `span` has in real time.
    fn sandbox_time(&self, span: Duration) -> Duration {
        span.mul_f64(self.options.speed)
    }
}

impl World {
    /// As many operations as are kept at a time; a gigabyte or so.
    const OPERATIONS: usize = 1_000_000;
    const TOKEN_ANSWERS: usize = 10 * Script::LONGEST;

    fn new(dice: Dice) -> Self {
        Self {
            operations: HashMap::new(),
            access_tokens: Issued::default(),
            refresh_tokens: Issued::default(),
            signing: Signing::default(),
            trust: Trust::default(),
            token_script: VecDeque::new(),
            throttle: Throttle::default(),
            record: Record::default(),
            dice,
        }
    }

    /// Forgets everything but what apps may prove themselves by. Tokens that were handed out before are
    /// worth nothing from then on.
    pub(super) fn reset(&mut self) {
        let trust = std::mem::take(&mut self.trust);
        *self = Self { trust, ..Self::new(Dice { ..self.dice }) };
    }

    /// Starts an operation that follows `script`, and returns its id.
    pub(super) fn create(&mut self, script: Arc<Script>, now: Timestamp) -> Result<String, Full> {
        if Self::OPERATIONS <= self.operations.len() {
            return Err(Full { what: "operations", limit: Self::OPERATIONS });
        }
        // Graph's ids have this inside, and are just as opaque to those who use them.
        let inside = serde_json::json!({
            "_type": "LongRunningOperation", "id": self.dice.uuid().to_string(), "operation": "CreateCommunity",
        });
        let id = URL_SAFE_NO_PAD.encode(inside.to_string());
        let group = u64::from_be_bytes(self.dice.draw()) % 1_000_000_000_000;
        let inside = serde_json::json!({"_type": "Group", "id": group.to_string()});
        let finer = Duration::from_nanos(u64::from(u16::from_be_bytes(self.dice.draw())) * 10);
        let operation = Operation {
            started_at: now,
            created_at: now.checked_add(finer).unwrap_or(now),
            script,
            polls: 0,
            resource_id: URL_SAFE_NO_PAD.encode(inside.to_string()),
        };
        self.operations.insert(id.clone(), operation);
        Ok(id)
    }

    /// A token for Graph, or for an app, that lives for `life`.
    pub(super) fn access_token(
        &mut self,
        access: Access,
        life: Duration,
        now: Timestamp,
    ) -> Result<SecretString, Full> {
        let token = self.dice.token();
        let expires_at = now.checked_add(life).unwrap_or(Timestamp::MAX);
        self.access_tokens.add(token.expose_secret(), access, expires_at, now)?;
        Ok(token)
    }

    /// A token for an app that signs in to another one. A user's can be exchanged by that one; no app
    /// can act on behalf of an app.
    pub(super) fn sign_in_token(
        &mut self,
        token: &SignInToken,
        root: &str,
        life: Duration,
        now: Timestamp,
    ) -> Result<SecretString, Full> {
        let expires_at = now.checked_add(life).unwrap_or(Timestamp::MAX);
        let unique = self.dice.uuid().to_string();
        let signed = self.signing.sign(token, root, &unique, (now, expires_at));
        let signed = signed.ok_or(Full { what: "random numbers", limit: 0 })?;
        if let Grants::Scopes(_) = token.grants {
            let audience = Audience::App(token.audience.to_ascii_lowercase());
            let access = Access { identity: token.object_id.as_str().into(), audience };
            self.access_tokens.add(&signed, access, expires_at, now)?;
        }
        Ok(signed.into())
    }

    pub(super) fn refresh_token(
        &mut self,
        grant: Grant,
        life: Duration,
        now: Timestamp,
    ) -> Result<SecretString, Full> {
        let token = self.dice.token();
        let expires_at = now.checked_add(life).unwrap_or(Timestamp::MAX);
        self.refresh_tokens.add(token.expose_secret(), grant, expires_at, now)?;
        Ok(token)
    }

    /// Lets the token endpoint answer `script` once those before it are used up. Of a queue that is
    /// too long the end is cut off.
    pub(super) fn script_tokens(&mut self, script: TokenScript) {
        self.token_script.extend(script.0);
        self.token_script.truncate(Self::TOKEN_ANSWERS);
    }

    /// What the token endpoint is to answer to this request, if it is not to behave.
    pub(super) fn next_token_fault(&mut self) -> Option<Answer<Fault>> {
        self.token_script.pop_front()
    }

    pub(super) fn uuid(&mut self) -> Uuid {
        self.dice.uuid()
    }
}

impl Operation {
    /// Counts one poll, and says what the script answers to it.
    pub(super) fn poll(&mut self, shared: &Shared, now: Timestamp) -> Answer {
        let age = Duration::try_from(now.duration_since(self.started_at)).unwrap_or_default();
        let answer = self.script.answer(self.polls, shared.sandbox_time(age)).clone();
        self.polls = self.polls.saturating_add(1);
        answer
    }
}

/// Draws what nobody shall guess, from one seed: only the start can find the system without
/// randomness.
struct Dice {
    seed: [u8; 32],
    drawn: u64,
}

impl Dice {
    /// Draws that make up a token. Those of Entra are about as long, and it is in their length
    /// that they try columns, headers and buffers.
    const DRAWS_OF_TOKEN: usize = 36;

    fn new() -> io::Result<Self> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| io::Error::other(error.to_string()))?;
        Ok(Self { seed, drawn: 0 })
    }

    /// At most 32 bytes.
    fn draw<const N: usize>(&mut self) -> [u8; N] {
        const { assert!(N <= 32, "a draw is one digest") };
        self.drawn += 1;
        let digest = Sha256::new().chain_update(self.seed).chain_update(self.drawn.to_be_bytes());
        let mut bytes = [0; N];
        bytes.copy_from_slice(&digest.finalize()[..N]);
        bytes
    }

    fn uuid(&mut self) -> Uuid {
        uuid::Builder::from_random_bytes(self.draw()).into_uuid()
    }

    fn token(&mut self) -> SecretString {
        let bytes: Vec<u8> = (0..Self::DRAWS_OF_TOKEN).flat_map(|_| self.draw::<32>()).collect();
        URL_SAFE_NO_PAD.encode(bytes).into()
    }
}

impl std::fmt::Debug for Dice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dice").field("drawn", &self.drawn).finish_non_exhaustive()
    }
}
