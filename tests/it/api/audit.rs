//! Who has changed what is written down before it is done.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use engagement_bridge::store::{AuditFilter, AuditLog, Ending, Entry, EntryId, Page, StoreError};
use jiff::Timestamp;
use reqwest::StatusCode;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::house::{ADMIN_KEY, House};
use super::{NOT_FOUND, Row, all_refused, assert_refused, delete, fault, get, quiet_world};
use crate::contract::{Backend, Bench};
use crate::support::caller;
use crate::world::World;

async fn audit(world: &World, query: &str) -> Vec<Value> {
    let answer = world.operator.get(&format!("/v1/admin/audit{query}")).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    answer.body["entries"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_says_who_has_changed_what_from_where_and_what_came_of_it() {
    let world = quiet_world().await;
    let made = world.shop.post("/v1/keys", &json!({ "label": "web" })).await.body;
    let id = made["id"].as_str().unwrap();
    let revoked = world.operator.delete(&format!("/v1/admin/callers/shop/keys/{id}")).await;
    assert_eq!(revoked.status, StatusCode::NO_CONTENT);

    let listed = audit(&world, "").await;
    let own = world.shop.get("/v1/keys").await.body["keys"][0]["id"].clone();
    let shown = |entry: &Value| {
        let mut entry = entry.clone();
        let members = entry.as_object_mut().unwrap();
        let at: Timestamp = members.remove("at").unwrap().as_str().unwrap().parse().unwrap();
        let id = members.remove("id").unwrap();
        assert!(id.as_str().unwrap().starts_with("au_"), "{id} of {at}");
        entry
    };
    let listed: Vec<_> = listed.iter().map(shown).collect();
    let expected = [
        json!({ "by": { "via": "adminKey" }, "caller": "shop", "method": "DELETE",
            "resource": "/v1/admin/callers/{caller}/keys/{id}", "names": [id],
            "address": "127.0.0.1", "result": 204 }),
        json!({ "by": { "via": "apiKey", "key": own }, "caller": "shop", "method": "POST",
            "resource": "/v1/keys", "names": [id], "address": "127.0.0.1", "result": 201 }),
    ];
    assert_eq!(listed[..2], expected);
    assert_eq!(listed.len(), 4, "a caller and its connection were added before");
    assert_eq!((&listed[3]["names"], &listed[3]["caller"]), (&json!(["shop"]), &json!(null)));

    for (query, count) in [
        ("?caller=shop", 3),
        ("?caller=other", 0),
        ("?by=adminKey", 3),
        (&format!("?by={}", own.as_str().unwrap()), 1),
        ("?since=2020-01-01T00:00:00Z", 4),
        ("?until=2020-01-01T00:00:00Z", 0),
        ("?limit=3", 3),
    ] {
        assert_eq!(audit(&world, query).await.len(), count, "{query}");
    }
    let page = world.operator.get("/v1/admin/audit?limit=3").await.body;
    let rest = audit(&world, &format!("?after={}", page["next"].as_str().unwrap())).await;
    assert_eq!(rest.len(), 1);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_of_the_audit_log_is_in_order_or_refused() {
    let world = quiet_world().await;
    let row = |query: &'static str, field| -> Row {
        (query, get(&format!("/v1/admin/audit?{query}")), fault(field, "invalid"))
    };
    let table = [
        row("caller=NOBODY", "caller"),
        row("by=", "by"),
        row("by=a%20b", "by"),
        row("since=yesterday", "since"),
        row("until=2027-01-15", "until"),
        row("after=op_1", "after"),
    ];
    all_refused(&world, &world.operator, &table).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_given_in_the_place_of_its_id_is_not_written_down() {
    let world = quiet_world().await;
    let key = world.shop.key.expose_secret();
    let before = audit(&world, "").await.len();
    assert_refused(&delete(&format!("/v1/keys/{key}")).send(&world.shop).await, &NOT_FOUND);
    assert_eq!(audit(&world, "").await.len(), before, "nothing was changed");
    for name in ["bridge.db", "bridge.db-wal"] {
        let bytes = std::fs::read(world.directory.path().join(name)).unwrap();
        let is_there = bytes.windows(key.len()).any(|part| part == key.as_bytes());
        assert!(!is_there, "the key is in {name}");
    }
    world.stop().await;
}

/// An audit log that cannot be written to while it is told so.
struct Failing {
    inner: Arc<dyn Backend>,
    fails_to_begin: AtomicBool,
    fails_to_end: AtomicBool,
}

fn lost() -> StoreError {
    StoreError::Unavailable(anyhow::anyhow!("a test took it away"))
}

#[async_trait]
impl AuditLog for Failing {
    async fn begin_change(&self, entry: Entry) -> Result<(), StoreError> {
        if self.fails_to_begin.load(Ordering::Relaxed) {
            return Err(lost());
        }
        self.inner.begin_change(entry).await
    }

    async fn end_change(&self, id: EntryId, ending: Ending) -> Result<(), StoreError> {
        if self.fails_to_end.load(Ordering::Relaxed) {
            return Err(lost());
        }
        self.inner.end_change(id, ending).await
    }

    async fn changes(
        &self,
        filter: &AuditFilter,
        page: Page<EntryId>,
    ) -> Result<Vec<Entry>, StoreError> {
        self.inner.changes(filter, page).await
    }

    async fn forget_changes(&self, before: Timestamp, limit: u32) -> Result<u32, StoreError> {
        self.inner.forget_changes(before, limit).await
    }
}

#[tokio::test]
async fn what_cannot_be_written_down_is_not_done_and_what_was_done_is_not_denied() {
    let bench = Bench::memory().await;
    let failing = Arc::new(Failing {
        inner: bench.store(),
        fails_to_begin: AtomicBool::new(true),
        fails_to_end: AtomicBool::new(false),
    });
    let house = House::furnished_with(bench, failing.clone()).await;
    let path = "/v1/admin/callers/contoso/keys";
    let make = async || house.ask(Some(ADMIN_KEY), "POST", path, Some(&json!({}))).await;
    let keys = async || house.bench.keys(&caller("contoso")).await.unwrap().unwrap().len();

    let (status, problem) = make().await;
    assert_eq!(status, 503, "{problem}");
    assert_eq!(keys().await, 1, "nothing was made");
    let (status, _) = house.ask(Some(ADMIN_KEY), "GET", path, None).await;
    assert_eq!(status, 200, "whoever only looks is not in the way");

    failing.fails_to_begin.store(false, Ordering::Relaxed);
    failing.fails_to_end.store(true, Ordering::Relaxed);
    assert_eq!(make().await.0, 201);
    assert_eq!(keys().await, 2);
    let (_, listed) = house.ask(Some(ADMIN_KEY), "GET", "/v1/admin/audit", None).await;
    assert_eq!(listed["entries"][0]["result"], json!(null), "it may have been made");
    assert_eq!(listed["entries"].as_array().unwrap().len(), 1);
}
