//! Master keys: several at once, the change from one to another, and what none of them opens.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use engagement_bridge::clock::{Clock, SystemClock};
use engagement_bridge::courier::{ExtraHeader, SigningKey, SigningSecret};
use engagement_bridge::graph::{AccessToken, Credential, Proof};
use engagement_bridge::lane;
use engagement_bridge::nudge::Nudge;
use engagement_bridge::operation::OperationId;
use engagement_bridge::store::postgres::{self, PostgresStore};
use engagement_bridge::store::sqlite::{self, SqliteStore};
use engagement_bridge::store::{
    Amended, Amendment, Directory, Registration, Rekeying, Rotation, SEALED_COLUMNS, Safe, Store,
    Work,
};
use engagement_bridge::tls;
use engagement_bridge::vault::{KeyId, MasterKey, Vault};
use engagement_bridge::worker::Rekeyer;
use rusqlite::Connection;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::task;
use tokio_util::sync::CancellationToken;

use crate::support::postgres::Server;
use crate::support::{self, NOON, after, caller, registration, token};
use crate::world::{NoNames, PATIENCE};

/// More than two batches of each.
const OPERATIONS: u32 = 300;

trait All: Store + Directory + Safe {}
impl<T: Store + Directory + Safe> All for T {}

/// A database that can be opened by other keys each time.
enum Place {
    File(tempfile::TempDir),
    Server(String),
}

impl Place {
    fn file() -> Self {
        Self::File(tempfile::tempdir().unwrap())
    }

    fn server() -> Self {
        Self::Server(support::postgres::database())
    }

    async fn try_open(&self, keys: &[&MasterKey]) -> Result<Arc<dyn All>, String> {
        let keys: Vec<_> = keys.iter().map(|key| key.expose().to_string()).collect();
        let vault = Vault::with(&keys.join("\n").parse().unwrap());
        let lanes = lane::Policy { graph_requests: 1_000, ..lane::Policy::default() };
        match self {
            Self::File(directory) => {
                let opened = SqliteStore::open(&directory.path().join("bridge.db"), vault, lanes);
                match opened {
                    Ok(store) => Ok(Arc::new(store)),
                    Err(error @ sqlite::OpenError::OtherKeys(_)) => Err(in_full(&error)),
                    Err(error) => panic!("{error:?}"),
                }
            }
            Self::Server(url) => {
                let tls = tls::client_config(None).unwrap();
                let (address, names) = (url.parse().unwrap(), Arc::new(NoNames));
                match PostgresStore::open(&address, tls, names, vault, lanes).await {
                    Ok(store) => Ok(Arc::new(store)),
                    Err(error @ postgres::OpenError::OtherKeys(_)) => Err(in_full(&error)),
                    Err(error) => panic!("{error:?}"),
                }
            }
        }
    }

    async fn open(&self, keys: &[&MasterKey]) -> Arc<dyn All> {
        self.try_open(keys).await.unwrap()
    }

    /// Runs a statement as somebody else.
    fn tamper(&self, sql: &str) {
        match self {
            Self::File(directory) => {
                let file = Connection::open(directory.path().join("bridge.db")).unwrap();
                file.execute_batch(sql).unwrap();
            }
            Self::Server(url) => {
                task::block_in_place(|| Server::shared().ask(url, sql));
            }
        }
    }
}

fn in_full(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |it| it.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn keys() -> (MasterKey, MasterKey) {
    (MasterKey::generate().unwrap(), MasterKey::generate().unwrap())
}

/// With a token and a secret of its own.
fn sealed_registration(n: u32) -> Registration {
    Registration {
        credential: token(&format!("token-{n}"), after(86_000)),
        callback_secret: Some(support::SECRET.parse().unwrap()),
        ..registration(n)
    }
}

/// Something in every column of sealed values.
async fn plant(store: &dyn All) {
    let (contoso, secret) = (caller("contoso"), support::SECRET.parse().unwrap());
    assert!(store.add_caller(&contoso, support::api_key("a"), &secret, NOON).await.unwrap());
    store.add_connection(&contoso, &support::connection("contoso"), NOON).await.unwrap();
    let rotation = Rotation { now: NOON, older_until: after(60), most_live: 4 };
    let (secret, key) = (SigningSecret::generate().unwrap(), SigningKey::generate().unwrap());
    store.rotate_secret(&contoso, &secret, rotation).await.unwrap();
    store.rotate_signing_key(&contoso, &key, rotation).await.unwrap();
    let header = ExtraHeader::new("x-gate", SecretString::from("let me in")).unwrap();
    assert_eq!(store.set_extra_header(&contoso, &header, 8).await.unwrap(), Some(true));
    store.register((1..=OPERATIONS).map(sealed_registration).collect()).await.unwrap();

    let planted: BTreeSet<_> = store.sealed().await.unwrap().iter().map(|it| it.column).collect();
    assert_eq!(planted, BTreeSet::from(SEALED_COLUMNS), "plant a new kind here as well");
}

/// How many values are sealed under each key.
async fn census(store: &dyn All) -> BTreeMap<KeyId, u64> {
    let mut census = BTreeMap::new();
    for sealed in store.sealed().await.unwrap() {
        *census.entry(sealed.key.unwrap()).or_default() += sealed.values;
    }
    census
}

/// One value of each operation's two, two secrets, a key, a header, a connection, and the check.
const PLANTED: u64 = 2 * OPERATIONS as u64 + 6;

/// Somebody seals anew until what is written down of it is as wanted.
async fn rekey_until(store: &Arc<dyn All>, wanted: impl Fn(&Rekeying) -> bool) -> Rekeying {
    let rekeyer = Rekeyer {
        safe: Arc::clone(store) as Arc<dyn Safe>,
        clock: Arc::new(SystemClock),
        nudge: Arc::new(Nudge::default()),
    };
    let stop = CancellationToken::new();
    let watching = async {
        loop {
            let latest = store.rekeyings(1).await.unwrap()[0];
            if wanted(&latest) {
                stop.cancel();
                return latest;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let both = async { tokio::join!(rekeyer.run(stop.clone()), watching).1 };
    tokio::time::timeout(PATIENCE, both).await.expect("it is not done in time")
}

fn is_done(rekeying: &Rekeying) -> bool {
    rekeying.done_at.is_some()
}

/// The tokens that operations would be polled with.
async fn tokens(store: &dyn All) -> BTreeMap<OperationId, String> {
    let mut tokens = BTreeMap::new();
    for claimed in store.claim(after(60), Duration::from_secs(90), 1_000).await.unwrap() {
        let Work::Poll { tracked, credential: Credential::Token(AccessToken { secret, .. }) } =
            claimed.work
        else {
            panic!("a poll by token");
        };
        tokens.insert(tracked.operation.id, secret.expose_secret().to_owned());
    }
    tokens
}

async fn everything_is_sealed_anew(place: Place) {
    let (old, new) = keys();
    let store = place.open(&[&old]).await;
    plant(&*store).await;
    assert_eq!(census(&*store).await, BTreeMap::from([(old.id(), PLANTED)]));
    drop(store);

    let store = place.open(&[&new, &old]).await;
    let asked = store.ask_rekeying(NOON).await.unwrap().unwrap();
    assert_eq!((asked.key, asked.rewritten, asked.done_at), (new.id(), 0, None));
    let done = rekey_until(&store, is_done).await;
    assert_eq!((done.rewritten, done.unreadable), (PLANTED, 0));
    assert_eq!(census(&*store).await, BTreeMap::from([(new.id(), PLANTED)]));
    drop(store);

    let refused = place.try_open(&[&old]).await.err().unwrap();
    assert!(refused.contains(&format!("{}", new.id())), "{refused}");
    let store = place.open(&[&new]).await;
    let contoso = caller("contoso");
    let connection = store.connection(&contoso, Some("contoso")).await.unwrap().unwrap();
    let Proof::Secret(secret) = &connection.proof else { panic!("{connection:?}") };
    assert_eq!(secret.expose_secret(), "client-secret");
    let expected = (1..=OPERATIONS).map(|n| (registration(n).operation.id, format!("token-{n}")));
    assert_eq!(tokens(&*store).await, expected.collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_sealed_anew_and_the_old_key_can_be_taken_away_in_a_file() {
    everything_is_sealed_anew(Place::file()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_sealed_anew_and_the_old_key_can_be_taken_away_on_postgres() {
    everything_is_sealed_anew(Place::server()).await;
}

async fn it_goes_on_where_it_was_broken_off(place: Place) {
    let (old, new) = keys();
    let store = place.open(&[&old]).await;
    plant(&*store).await;
    drop(store);
    let store = place.open(&[&new, &old]).await;
    store.ask_rekeying(NOON).await.unwrap();
    let so_far = rekey_until(&store, |it| it.rewritten > 0).await;
    assert!(so_far.done_at.is_none() && so_far.rewritten < PLANTED, "{so_far:?}");
    drop(store);
    let store = place.open(&[&new, &old]).await;
    let again = store.ask_rekeying(after(1)).await.unwrap().unwrap();
    assert_eq!((again.asked_at, again.done_at), (NOON, None), "it is under way");
    let done = rekey_until(&store, is_done).await;
    assert_eq!(done.rewritten, PLANTED, "each once");
    // Asked for when all is done, it finds nothing to do.
    let asked = store.ask_rekeying(after(2)).await.unwrap().unwrap();
    assert_eq!((asked.asked_at, asked.rewritten), (after(2), 0));
    assert_eq!(rekey_until(&store, is_done).await.rewritten, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn sealing_anew_goes_on_where_it_was_broken_off_in_a_file() {
    it_goes_on_where_it_was_broken_off(Place::file()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sealing_anew_goes_on_where_it_was_broken_off_on_postgres() {
    it_goes_on_where_it_was_broken_off(Place::server()).await;
}

/// Hands in other tokens while everything is sealed anew.
async fn renew_tokens(store: &dyn All, numbers: impl Iterator<Item = u32>) {
    for n in numbers {
        let tracked = store.operation(registration(n).operation.id).await.unwrap().unwrap();
        let (before, after_it) = (tracked.operation.clone(), tracked.operation);
        let credential = Some(token(&format!("newer-{n}"), after(86_000)));
        let amendment = Amendment::Operation { before, after: after_it, owed: None, credential };
        assert_eq!(store.amend(amendment).await.unwrap(), Amended::Saved);
    }
}

async fn nothing_that_is_written_meanwhile_is_lost(
    old: &MasterKey,
    new: &MasterKey,
    bridges: [Arc<dyn All>; 2],
) {
    let [one, other] = bridges;
    one.ask_rekeying(NOON).await.unwrap();
    let renewing = async {
        let even = (1..=OPERATIONS).filter(|n| n % 2 == 0);
        let odd = (1..=OPERATIONS).filter(|n| n % 3 == 0 && n % 2 == 1);
        tokio::join!(renew_tokens(&*one, even), renew_tokens(&*other, odd));
    };
    let ((), first, second) =
        tokio::join!(renewing, rekey_until(&one, is_done), rekey_until(&other, is_done));
    assert!(first.unreadable == 0 && second.unreadable == 0);
    // One that begins with the old key has sealed what came last under that.
    one.ask_rekeying(after(1)).await.unwrap();
    rekey_until(&one, is_done).await;
    let census = census(&*one).await;
    assert_eq!(census, BTreeMap::from([(new.id(), PLANTED)]), "of {old:?}");
    let expected = (1..=OPERATIONS).map(|n| {
        let kind = if n % 2 == 0 || n % 3 == 0 { "newer" } else { "token" };
        (registration(n).operation.id, format!("{kind}-{n}"))
    });
    assert_eq!(tokens(&*one).await, expected.collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_while_all_is_sealed_anew_is_not_lost_in_a_file() {
    let (place, (old, new)) = (Place::file(), keys());
    plant(&*place.open(&[&old]).await).await;
    let store = place.open(&[&new, &old]).await;
    let bridges = [Arc::clone(&store), store];
    nothing_that_is_written_meanwhile_is_lost(&old, &new, bridges).await;
}

/// Two replicas, to each of which the new key comes first.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_while_two_replicas_seal_anew_is_not_lost_on_postgres() {
    let (place, (old, new)) = (Place::server(), keys());
    plant(&*place.open(&[&old]).await).await;
    let bridges = [place.open(&[&new, &old]).await, place.open(&[&new, &old]).await];
    nothing_that_is_written_meanwhile_is_lost(&old, &new, bridges).await;
}

async fn start_refuses_with_a_list(place: Place) {
    let (old, new) = keys();
    let store = place.open(&[&old]).await;
    plant(&*store).await;
    drop(store);
    // Half of a change, and then the old key is lost.
    let store = place.open(&[&new, &old]).await;
    store.register(vec![sealed_registration(OPERATIONS + 1)]).await.unwrap();
    drop(store);
    let refused = place.try_open(&[&new]).await.err().unwrap();
    let first = registration(1).operation.id;
    for expected in [
        "the master key does not open this database".to_owned(),
        "Nothing was changed".to_owned(),
        format!(
            "300 in operations.sealed_token under master key {} (operations/{first}/token",
            old.id()
        ),
        "300 in operations.sealed_callback_secret under".to_owned(),
        "2 in signing_secrets.sealed_secret under".to_owned(),
        "(signing_secrets/contoso/1, signing_secrets/contoso/2)".to_owned(),
        "1 in connections.sealed_proof under".to_owned(),
        "1 in installation.sealed_check under".to_owned(),
    ] {
        assert!(refused.contains(&expected), "{expected}: {refused}");
    }
    assert!(!refused.contains(&new.id().to_string()), "that one is given: {refused}");
    assert!(!refused.contains(old.expose().as_str()) && !refused.contains(new.expose().as_str()));
    place.open(&[&new, &old]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_a_key_that_is_in_use_is_refused_with_a_list_in_a_file() {
    start_refuses_with_a_list(Place::file()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_a_key_that_is_in_use_is_refused_with_a_list_on_postgres() {
    start_refuses_with_a_list(Place::server()).await;
}

async fn a_broken_value_hurts_its_own_step_only(place: Place) {
    let (old, new) = keys();
    let store = place.open(&[&old]).await;
    plant(&*store).await;
    let (one, two) = (registration(7).operation.id, registration(8).operation.id);
    // Sealed for another row, so it does not open there.
    place.tamper(&format!(
        "UPDATE operations SET sealed_token = \
         (SELECT sealed_token FROM operations WHERE id = '{two}') WHERE id = '{one}'"
    ));
    let found = tokens(&*store).await;
    assert_eq!(found.len(), OPERATIONS as usize - 1);
    assert!(!found.contains_key(&one) && found[&two] == "token-8");
    drop(store);

    let store = place.open(&[&new, &old]).await;
    store.ask_rekeying(NOON).await.unwrap();
    let done = rekey_until(&store, is_done).await;
    assert_eq!((done.rewritten, done.unreadable), (PLANTED - 1, 1));
    assert_eq!(census(&*store).await, BTreeMap::from([(old.id(), 1), (new.id(), PLANTED - 1)]));
    assert!(SystemClock.now() - Duration::from_mins(5) < done.done_at.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_cannot_be_opened_hurts_its_own_step_only_in_a_file() {
    a_broken_value_hurts_its_own_step_only(Place::file()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_cannot_be_opened_hurts_its_own_step_only_on_postgres() {
    a_broken_value_hurts_its_own_step_only(Place::server()).await;
}
