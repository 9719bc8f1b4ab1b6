//! Everything that there can be goes over, and is served from there as if nothing had happened.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::http::{Method, StatusCode};
use axum::response::IntoResponse as _;
use engagement_bridge::courier::SigningSecret;
use engagement_bridge::sandbox::{Grants, Sandbox, Script, SignInToken, Version};
use rusqlite::Connection;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;

use super::*;
use crate::process::Serve;
use crate::support::certificates::Made;
use crate::support::postgres;
use crate::world::{Client, Received, Receiver, SECRET_OF_CLIENT, sandbox};

/// The API's own app, one that signs in, and the tenant of both.
const APP: &str = "22222222-3333-4444-5555-666666666666";

/// An installation with everything in it that there is, at rest but for one attempt.
struct Installation {
    sandbox: Sandbox,
    receiver: Receiver,
    /// Of one attempt it gets no further than this.
    silent: TcpListener,
    home: Home,
    serve: Serve,
    keys: Vec<String>,
    /// The callback that is tried again in an hour.
    pending: Received,
    /// The request that was left without an answer.
    unanswered: String,
    /// A registration with its idempotency key, and its first answer.
    first: (Value, &'static str, String),
}

/// Registers what has a secret and a trace of its own, and sets a header for all; returns the id.
async fn sign_by_itself(shop: &Client, mut registration: Value) -> String {
    registration["callbackSecret"] = json!(*SigningSecret::generate().unwrap().expose());
    let traced = [
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("tracestate", "a=b"),
    ];
    let body = Some(registration.to_string().into_bytes());
    let answer = shop.send_raw(Method::POST, "/v1/operations", body, &traced).await;
    let header = json!({ "value": "of the gateway" });
    let set = shop.put("/v1/callback-headers/x-gateway", &header).await;
    assert_eq!(set.status, StatusCode::NO_CONTENT);
    answer.body["id"].as_str().unwrap().to_owned()
}

/// A bulk resend that finds nothing, but has looked.
async fn look_in_vain(shop: &Client, receiver: &Receiver) {
    let wish = json!({
        "reason": "gone",
        "origin": receiver.url().strip_suffix("/hooks"),
        "since": "2020-01-01T00:00:00Z",
        "until": "2020-01-02T00:00:00Z",
    });
    let asked = shop.post("/v1/callbacks/resend", &wish).await;
    assert_eq!(asked.status, StatusCode::ACCEPTED, "{asked:?}");
    until(async || {
        let listed = shop.get("/v1/callbacks/resends").await.body;
        listed["resends"][0]["state"] == "done"
    })
    .await;
}

/// A change of master keys that is done, and a repaired connection of which that is not.
async fn seal_anew_and_repair(home: &Home, shop: &Client) {
    home.json(&["vault", "rekey"]).await;
    let other = json!({
        "name": "repaired",
        "tenant": "contoso.example",
        "clientId": "11111111-2222-3333-4444-555555555555",
        "clientSecret": crate::world::SECRET_OF_CLIENT,
    });
    assert_eq!(shop.post("/v1/connections", &other).await.status, StatusCode::CREATED);
    let secret = json!({ "clientSecret": crate::world::SECRET_OF_CLIENT });
    let repaired = shop.put("/v1/connections/repaired/credential", &secret).await;
    assert_eq!(repaired.status, StatusCode::NO_CONTENT);
}

/// A user of the app that signs in changes something, and has an operation tracked in her name.
async fn sign_in(sandbox: &Sandbox, shop: &Client, url: &str) {
    let token = SignInToken {
        tenant: APP.to_owned(),
        audience: APP.to_owned(),
        app: APP.to_owned(),
        object_id: "33333333-4444-5555-6666-777777777777".to_owned(),
        grants: Grants::Scopes(
            ["Register", "Read", "Manage"].map(|it| format!("Operations.{it}")).into(),
        ),
    };
    let token = sandbox.hand_out_sign_in(&token, Duration::from_hours(1)).unwrap();
    let alice = shop.with_key(token.expose_secret());
    let header = json!({ "value": "of alice" });
    let set = alice.put("/v1/callback-headers/x-alice", &header).await;
    assert_eq!(set.status, StatusCode::NO_CONTENT, "{set:?}");
    let later = json!([{ "status": "running", "retryAfter": "3600" }]);
    let mut registration = registration(sandbox, &later, url);
    registration["onBehalfOf"] = json!(true);
    let id = alice.register(&registration).await;
    until(async || shop.operation(&id).await["polls"] == 1).await;
}

/// What the operator alone sets up: an app that signs in, connections of other kinds, and a share.
async fn set_up(home: &Home, serve: &Serve) {
    let key = std::fs::read_to_string(home.directory.path().join("bridge.db.admin-key")).unwrap();
    let operator = serve.client(key.trim());
    let client_id = APP;
    let app = json!({ "tenant": client_id, "app": client_id });
    let bound = operator.post("/v1/admin/callers/shop/sign-ins", &app).await;
    assert!(bound.status.is_success(), "{bound:?}");
    let proofs = [
        ("signs", "certificate", Made::rsa().pem()),
        ("trusted", "federatedTokenFile", "/var/run/token".to_owned()),
    ];
    for (name, member, proof) in proofs {
        let connection = json!({
            "name": name,
            "tenant": "contoso.example",
            "clientId": client_id,
            member: proof,
            "test": false,
        });
        let made = operator.post("/v1/admin/callers/shop/connections", &connection).await;
        assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    }
    let share = "/v1/admin/callers/shop/connections/signs/shares/desk";
    let shared = operator.put(share, &json!({ "name": "lent" })).await;
    assert_eq!(shared.status, StatusCode::NO_CONTENT, "{shared:?}");
}

impl Installation {
    async fn begin() -> Self {
        let (sandbox, receiver) = (sandbox().await, Receiver::start().await);
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut home = Home::new(sandbox.root());
        // Whatever failed rests for an hour.
        "0s,1h".clone_into(home.flags.iter_mut().find(|it| *it == "0s,1s,1s").unwrap());
        let secret = home.directory.path().join("secret-of-the-api");
        std::fs::write(&secret, "the secret of the api").unwrap();
        let home = home.flag("--sign-in-client-id", APP).flag("--sign-in-tenants", APP);
        let home = home.flag("--sign-in-client-secret-file", secret.to_str().unwrap());
        let mut keys = vec![home.add_shop().await["apiKey"].as_str().unwrap().to_owned()];
        let one_more = ["callers", "add-key", "shop", "--label", "web", "--expires-after", "90d"];
        for arguments in [&one_more[..], &["callers", "add", "desk"]] {
            keys.push(home.json(arguments).await["apiKey"].as_str().unwrap().to_owned());
        }
        // At first, the receiver is asked, and names a rate that is in nobody's way.
        receiver.answer_questions(|_| {
            [("webhook-allowed-origin", "*"), ("webhook-allowed-rate", "60000")].into_response()
        });
        let flags = home.flags.len();
        let home = home.flag("--callback-handshake", "cloudEvents");
        let mut home = home.flag("--callback-request-origin", "bridge.example.com");
        let serve = home.serve().await;
        let shop = serve.client(&keys[0]);
        let secret = shop.post("/v1/signing-secrets", &json!({})).await;
        receiver.expect_secret(secret.body["secret"].as_str().unwrap().parse().unwrap());
        for _ in 0..2 {
            let key = shop.post("/v1/signing-keys", &json!({})).await;
            assert_eq!(key.status, StatusCode::CREATED);
        }
        let connection = json!({
            "name": "fabrikam",
            "tenant": "fabrikam.example",
            "clientId": "11111111-2222-3333-4444-555555555555",
            "clientSecret": SECRET_OF_CLIENT,
            "test": false,
        });
        assert_eq!(shop.post("/v1/connections", &connection).await.status, StatusCode::CREATED);

        let register = async |caller: &Client, script: Value, callback_url: &str| {
            caller.register(&registration(&sandbox, &script, callback_url)).await
        };
        for outcome in ["succeeded", "failed", "skipped"] {
            register(&shop, json!([{ "status": outcome }]), &receiver.url()).await;
            assert_eq!(receiver.next().await.about(), outcome);
        }
        assert!(serve.terminate().await.success());
        home.flags.truncate(flags);
        let serve = home.serve().await;
        let [shop, desk] = [0, 2].map(|key: usize| serve.client(&keys[key]));
        receiver.answer(vec![(StatusCode::GONE, "unsubscribed")]);
        let given_up = format!("{}?for=good", receiver.url());
        register(&shop, json!([{ "status": "succeeded" }]), &given_up).await;
        receiver.next().await;
        receiver.answer(vec![(StatusCode::SERVICE_UNAVAILABLE, "busy")]);
        register(&shop, json!([{ "status": "succeeded" }]), &receiver.url()).await;
        let pending = receiver.next().await;
        // Nobody listens there.
        register(&shop, json!([{ "status": "succeeded" }]), "http://127.0.0.1:9/hooks").await;
        let later = json!([{ "status": "running", "retryAfter": "3600" }]);
        let watching = sign_by_itself(&shop, registration(&sandbox, &later, &receiver.url())).await;
        let cancelled = register(&shop, later.clone(), &receiver.url()).await;
        shop.delete(&format!("/v1/operations/{cancelled}")).await;
        // Of lanes of their own, the first of which is paused.
        let with_token = async |caller: &Client, identity, script: Value, callback_url: &str| {
            let token = sandbox.hand_out_token(identity, Duration::from_hours(1)).unwrap();
            let mut registration = registration(&sandbox, &script, callback_url);
            registration["accessToken"] = json!(token.expose_secret());
            registration["expiresIn"] = json!(3_600);
            caller.register(&registration).await
        };
        let throttled = json!([{ "http": 429, "retryAfter": "3600" }]);
        let throttled = with_token(&shop, "alice", throttled, &receiver.url()).await;
        with_token(&shop, "bob", json!([{ "http": 403 }]), &receiver.url()).await;
        assert_eq!(receiver.next().await.about(), "credentialNeeded");
        let repeated = registration(&sandbox, &later, &receiver.url());
        let first = with_key(&shop, &repeated, "first").await;
        // What it found is all that this one knows.
        with_key(&shop, &repeated, "second").await;
        until(async || {
            let rested = |state, attempts: u64| {
                let shop = &shop;
                async move {
                    let path = format!("/v1/callbacks?state={state}&limit=200");
                    let listed = shop.get(&path).await.body;
                    let listed = listed["callbacks"].as_array().unwrap().clone();
                    listed.iter().filter(|it| it["attemptsMade"] == attempts).count()
                }
            };
            let polled = async |id: &str| shop.operation(id).await["polls"] == 1;
            rested("delivered", 1).await == 4
                && rested("undeliverable", 1).await == 1
                && rested("pending", 1).await == 2
                && polled(&watching).await
                && polled(&throttled).await
        })
        .await;
        look_in_vain(&shop, &receiver).await;
        let url = format!("http://{}/hooks", silent.local_addr().unwrap());
        with_token(&desk, "carol", json!([{ "status": "succeeded" }]), &url).await;
        let unanswered = request(&silent, None).await;
        Self { sandbox, receiver, silent, home, serve, keys, pending, unanswered, first }
    }

    /// What the API tells of `serve`, to the byte.
    async fn told(&self, serve: &Serve) -> BTreeMap<String, String> {
        let admin_key = self.home.directory.path().join("bridge.db.admin-key");
        let admin_key = std::fs::read_to_string(admin_key).unwrap();
        let (operator, shop) = (serve.client(admin_key.trim()), serve.client(&self.keys[1]));
        let listed = shop.get("/v1/operations?limit=200").await.body;
        let ids = listed["operations"].as_array().unwrap().iter();
        let mut paths: Vec<_> =
            ids.map(|it| format!("/v1/operations/{}", it["id"].as_str().unwrap())).collect();
        paths.extend(
            [
                "operations",
                "callbacks",
                "callbacks/resends",
                "destinations",
                "keys",
                "signing-secrets",
                "signing-keys",
                "connections",
                "callback-settings",
            ]
            .map(|it| format!("/v1/{it}")),
        );
        let mut told = BTreeMap::new();
        for path in paths {
            told.insert(path.clone(), shop.get(&path).await.text);
        }
        for path in ["/v1/admin/callers", "/v1/admin/callers/shop/connections"] {
            told.insert(path.to_owned(), operator.get(path).await.text);
        }
        told
    }
}

fn registration(sandbox: &Sandbox, script: &Value, callback_url: &str) -> Value {
    let script: Script = serde_json::from_value(script.clone()).unwrap();
    let operation = sandbox.create(Version::V1, script).unwrap().location;
    json!({ "operation": operation, "callbackUrl": callback_url, "clientState": "Ünïcode '\\ 雪" })
}

async fn with_key(
    caller: &Client,
    registration: &Value,
    key: &'static str,
) -> (Value, &'static str, String) {
    let body = Some(registration.to_string().into_bytes());
    let headers = [("idempotency-key", key)];
    let answer = caller.send_raw(Method::POST, "/v1/operations", body, &headers).await;
    assert!(answer.status.is_success(), "{answer:?}");
    (registration.clone(), key, answer.text)
}

/// The id and the body of the next request, which is answered if there is something to say.
async fn request(listener: &TcpListener, answer: Option<&str>) -> String {
    let read = async {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = BufReader::new(stream);
        let (mut id, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).await.unwrap();
            match line.trim_end().split_once(": ") {
                Some(("webhook-id", value)) => value.clone_into(&mut id),
                Some(("content-length", value)) => length = value.parse().unwrap(),
                None if line.trim_end().is_empty() => break,
                Some(_) | None => {}
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        match answer {
            Some(answer) => stream.write_all(answer.as_bytes()).await.unwrap(),
            // It stays open.
            None => std::mem::forget(stream),
        }
        format!("{id} {}", String::from_utf8(body).unwrap())
    };
    tokio::time::timeout(PATIENCE, read).await.expect("a request comes")
}

/// Each column of each table has something in it that could get lost.
fn has_everything(file: &std::path::Path) {
    let database = Connection::open(file).unwrap();
    let sql = "SELECT t.name, c.name FROM sqlite_schema t, pragma_table_info(t.name) c \
        WHERE t.type = 'table'";
    let mut columns = database.prepare(sql).unwrap();
    let columns = columns.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    let columns: Vec<(String, String)> = columns.map(Result::unwrap).collect();
    assert!(80 < columns.len());
    for (table, column) in columns {
        let sql = format!("SELECT count({column}) FROM {table} WHERE {column} NOT IN ('', x'')");
        let filled: u32 = database.query_row(&sql, [], |row| row.get(0)).unwrap();
        assert!(0 < filled, "{column} of {table} is empty everywhere");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_installation_moves_to_postgres_with_everything_that_is_in_it() {
    let installation = Installation::begin().await;
    let Installation { sandbox, receiver, home, keys, .. } = &installation;
    set_up(home, &installation.serve).await;
    sign_in(sandbox, &installation.serve.client(&keys[0]), &receiver.url()).await;
    seal_anew_and_repair(home, &installation.serve.client(&keys[0])).await;
    let told = installation.told(&installation.serve).await;
    // What is in the log goes over as well, and so does a step that is in somebody's hands.
    let Installation { serve, .. } = &installation;
    serve.signal("KILL").await;
    let database = postgres::database();
    let file = home.database();
    has_everything(&copy_of(home, &file));
    until(async || engagement_bridge::store::sqlite::holder(&file).is_none()).await;
    let summary = home.copied_to(&database).await;
    assert_eq!(summary["to"], database.replace("bridge@", ""), "without the user");
    let rows = |table: &Value| (table["table"].as_str().unwrap().to_owned(), table["rows"].clone());
    let rows: BTreeMap<_, _> = summary["tables"].as_array().unwrap().iter().map(rows).collect();
    assert_eq!(rows["callers"], 2, "{rows:?}");
    assert_eq!(rows["operations"], 13, "{rows:?}");
    assert!(rows.values().all(|rows| rows.as_u64().unwrap() > 0), "{rows:?}");

    home.is_not_served(&["was moved to postgres://127.0.0.1:", "start the bridge on that one"])
        .await;
    let moved = moved(home, sandbox.root(), &database);
    let serve = moved.serve().await;
    for key in keys {
        assert_eq!(serve.client(key).get("/v1/keys").await.status, StatusCode::OK);
    }
    let shop = serve.client(&keys[0]);
    assert_eq!(installation.told(&serve).await, told);
    let (registration, key, answer) = &installation.first;
    assert_eq!(with_key(&shop, registration, key).await.2, *answer, "not the first answer");
    let highest = ask(&database, "SELECT max(number) FROM operations");
    let script = json!([{ "status": "succeeded" }]);
    let id = shop.register(&super::whole::registration(sandbox, &script, &receiver.url())).await;
    let number = ask(&database, &format!("SELECT number FROM operations WHERE id = '{id}'"));
    let [highest, number]: [u64; 2] = [highest, number].map(|it| it.parse().unwrap());
    assert_eq!(number, highest + 1);
    let told = receiver.next().await;
    assert_eq!(told.json()["tracking"]["id"], id);
    assert_eq!(told.header("webhook-signature").split(' ').count(), 4, "secrets and keys sign");
    assert!(serve.terminate().await.success());

    // Two hours later, as far as plans go.
    ask(&database, "UPDATE planning_clock SET ahead = ahead + 7200000");
    let serve = moved.serve().await;
    let again = request(&installation.silent, Some("HTTP/1.1 204 \r\ncontent-length: 0\r\n\r\n"));
    assert_eq!(again.await, installation.unanswered);
    let pending = &installation.pending;
    loop {
        let received = receiver.next().await;
        if received.header("webhook-id") == pending.header("webhook-id") {
            assert_eq!(received.body, pending.body);
            break;
        }
    }
    assert!(serve.terminate().await.success());
}

/// A database as it is in another place, its log included.
fn copy_of(home: &Home, file: &std::path::Path) -> std::path::PathBuf {
    let aside = home.directory.path().join("aside.db");
    for suffix in ["", "-wal"] {
        let [from, to] = [file, &aside].map(|it| format!("{}{suffix}", it.display()));
        std::fs::copy(from, to).unwrap();
    }
    aside
}
