//! No token, key or secret is found where it should not be: logs at their most talkative, answers,
//! callbacks, what commands print, the database file.

mod identities;

use std::net::Ipv4Addr;
use std::process::Output;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::routing::post;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use engagement_bridge::courier::SigningSecret;
use engagement_bridge::sandbox::{Sandbox, Script, TokenScript, Version};
use engagement_bridge::vault::{MasterKeys, Vault};
use rusqlite::Connection;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::planted::{Planted, Read};
use super::restarts::until;
use super::{Home, Serve, complaint};
use crate::support::postgres::Server;
use crate::world::{Client, Received, Receiver, SECRET_OF_CLIENT, sandbox};

const ADMIN_KEY: &str = "planted-admin-key-Xk2p";
const HEADER: &str = "planted-header-Wd9t";
const PASSWORD_OF_PROXY: &str = "planted-proxy-password-Tz5c";
const PASSWORD_OF_DATABASE: &str = "planted-database-password-Bn8r";
const KEY_OF_COLLECTOR: &str = "planted-key-of-the-collector-3Vk9";
const LATER_SECRET: &str = "planted-client-secret-Lq4d";

/// The keys of a bridge that is between two of them.
const MASTER_KEYS: [&[u8; 32]; 2] =
    [b"planted master key, 32 bytes lon", b"planted master key, the old one."];

/// A bridge of which all that is secret is known, at its most talkative.
struct Story {
    home: Home,
    planted: Planted,
    read: Read,
}

impl Story {
    fn begin(root: &str, log_format: &str) -> Self {
        let mut planted = Planted::default();
        let [new, old] = MASTER_KEYS.map(|key| STANDARD.encode(key));
        for key in MASTER_KEYS {
            planted.add("master key", key);
            planted.add("master key as text", STANDARD.encode(key));
        }
        planted.add("admin key", ADMIN_KEY);
        planted.add("client secret", SECRET_OF_CLIENT);
        planted.add("client secret that came later", LATER_SECRET);
        planted.add("header", HEADER);
        planted.add("password of the proxy", PASSWORD_OF_PROXY);
        planted.add("password of the database", PASSWORD_OF_DATABASE);
        let mut home = Home::new(root);
        let format = home.flags.iter_mut().skip_while(|flag| **flag != "--log-format").nth(1);
        log_format.clone_into(format.unwrap());
        let home = home
            .flag("--log", "trace")
            .flag("--credential-grace", "500ms")
            .environment("ENGAGEMENT_BRIDGE_LOG", "trace")
            .environment("ENGAGEMENT_BRIDGE_MASTER_KEY", &format!("{new},{old}"))
            .environment("ENGAGEMENT_BRIDGE_ADMIN_KEY", ADMIN_KEY);
        Self { home, planted, read: Read::default() }
    }

    /// Adds the caller `shop`. What is shown to it this once is planted.
    async fn add_shop(&mut self) -> (String, String) {
        let added = self.home.add_shop().await;
        let (key, secret) = (text(&added, "apiKey"), text(&added, "signingSecret"));
        self.planted.add("API key", &key);
        self.plant_signing_secret("signing secret", &secret);
        (key, secret)
    }

    fn plant_signing_secret(&mut self, kind: &str, secret: &str) {
        let text = secret.strip_prefix("whsec_").unwrap();
        self.planted.add(&format!("{kind} as text"), text);
        self.planted.add(kind, STANDARD.decode(text).unwrap());
    }

    /// What a command writes, and with it whatever it refuses.
    async fn command(&mut self, arguments: &[&str]) -> Output {
        let output = self.home.run(arguments).await;
        self.read.add(&format!("what `{}` prints", arguments.join(" ")), &output.stdout);
        self.read.add(&format!("the log of `{}`", arguments.join(" ")), &output.stderr);
        output
    }

    /// The private half of the caller's signing key, which is shown to nobody: out of the database.
    fn plant_signing_key(&mut self) {
        let sealed = "SELECT sealed_key FROM signing_keys WHERE id = 1";
        let opened = self.opened(sealed, "signing_keys/shop/1");
        let key = opened.strip_prefix("whsk_").unwrap();
        self.planted.add("signing key as text", key);
        self.planted.add("signing key", STANDARD.decode(key).unwrap());
    }

    /// What is sealed at a place, of which there must be one.
    fn opened(&self, query: &str, place: &str) -> String {
        let database = Connection::open(self.home.database()).unwrap();
        let sealed: Vec<u8> = database.query_row(query, [], |row| row.get(0)).unwrap();
        let keys: MasterKeys =
            MASTER_KEYS.map(|key| STANDARD.encode(key)).join(",").parse().unwrap();
        let opened = Vault::with(&keys).open(place, &sealed).unwrap();
        std::str::from_utf8(&opened).unwrap().to_owned()
    }

    fn read_database(&mut self) {
        for name in ["bridge.db", "bridge.db-wal", "bridge.db.lock"] {
            if let Ok(bytes) = std::fs::read(self.home.directory.path().join(name)) {
                self.read.add(&format!("the database, {name}"), bytes);
            }
        }
    }
}

/// Takes traces, and keeps their bodies as they come.
struct Collector {
    root: String,
    bodies: Arc<Mutex<Vec<Bytes>>>,
    _serving: JoinSet<()>,
}

impl Collector {
    async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let root = format!("http://{}", listener.local_addr().unwrap());
        let (bodies, mut serving) = (Arc::<Mutex<Vec<Bytes>>>::default(), JoinSet::new());
        let kept = Arc::clone(&bodies);
        let keep = post(async move |body: Bytes| kept.lock().unwrap().push(body));
        let router = Router::new().route("/v1/traces", keep);
        serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { root, bodies, _serving: serving }
    }
}

fn text(value: &Value, member: &str) -> String {
    value[member].as_str().unwrap().to_owned()
}

/// A key, a header, and an operation with a secret of its own, which is returned.
async fn more_secrets(shop: &Client, operation: &str) -> String {
    let key = shop.post("/v1/signing-keys", &json!({})).await;
    assert_eq!(key.status, StatusCode::CREATED);
    let header = json!({ "value": HEADER });
    let set = shop.put("/v1/callback-headers/x-gateway", &header).await;
    assert_eq!(set.status, StatusCode::NO_CONTENT);
    let secret = SigningSecret::generate().unwrap().expose().to_string();
    // Nobody listens there, for the receiver knows no secret but the caller's.
    let registration = json!({ "operation": operation, "callbackUrl": "http://127.0.0.1:9/hooks",
        "callbackSecret": secret });
    shop.register(&registration).await;
    secret
}

/// Requests that are refused for all that can be wrong with them, with secrets in each.
async fn refusals(shop: &Client, operation: &str, token: &str) -> Vec<String> {
    let connection = |name: Value, secret: Value| {
        json!({ "name": name, "tenant": "contoso.example", "clientSecret": secret,
            "clientId": "11111111-2222-3333-4444-555555555555" })
    };
    let url = "https://app.example.com/hooks";
    let asking = |member: &str, value: Value| {
        let mut body = json!({ "operation": operation, "callbackUrl": url });
        body[member] = value;
        body
    };
    let long = format!("{token}{}", "x".repeat(70_000));
    let posts = [
        ("/v1/operations", asking("accessToken", json!([token]))),
        ("/v1/operations", asking("accessToken", json!(format!("{token}\u{1}")))),
        ("/v1/operations", asking("accessToken", json!(long))),
        ("/v1/operations", asking("accessTokens", json!(token))),
        ("/v1/operations", asking("callbackSecret", json!(HEADER))),
        ("/v1/operations", json!({ "accessToken": token, "expiresIn": "soon" })),
        ("/v1/connections", connection(json!(7), json!(LATER_SECRET))),
        ("/v1/connections", connection(json!("Not A Name"), json!(LATER_SECRET))),
        ("/v1/connections", connection(json!("contoso"), json!(LATER_SECRET))),
        ("/v1/connections", connection(json!("other"), json!({ "it is": LATER_SECRET }))),
        ("/v1/signing-secrets", json!({ "secret": HEADER })),
    ];
    let mut answers = Vec::new();
    for (path, body) in posts {
        let answer = shop.post(path, &body).await;
        assert!(answer.status.is_client_error(), "{path}: {answer:?}");
        answers.push(format!("{:?} {}", answer.headers, answer.text));
    }
    let odd = json!({ "value": format!("{HEADER}\n") });
    let answer = shop.put("/v1/callback-headers/x-odd", &odd).await;
    assert!(answer.status.is_client_error(), "{answer:?}");
    answers.push(answer.text);
    for key in [&format!("{}x", shop.key.expose_secret()), token, ADMIN_KEY] {
        let answer = shop.with_key(key).get("/v1/operations").await;
        assert!(answer.status.is_client_error(), "{answer:?}");
        answers.push(format!("{:?} {}", answer.headers, answer.text));
    }
    let answer = shop.get("/v1/admin/vault").await;
    assert!(answer.status.is_client_error(), "by a caller's key: {answer:?}");
    answers
}

/// What the receiver got, once these operations are settled and all of it is delivered.
async fn all_told(shop: &Client, receiver: &Receiver, ids: &[String]) -> Vec<Received> {
    let mut callbacks = Vec::new();
    for id in ids {
        until(async || {
            let seen = shop.operation(id).await;
            let callbacks = seen["callbacks"].as_array().unwrap().clone();
            seen["state"] == "settled" && callbacks.iter().all(|it| it["state"] == "delivered")
        })
        .await;
        let seen = shop.operation(id).await;
        for callback in seen["callbacks"].as_array().unwrap() {
            for _ in 0..callback["attemptsMade"].as_u64().unwrap() {
                callbacks.push(receiver.next().await);
            }
        }
    }
    callbacks
}

/// Registers what goes well and what does not, by a connection and by a token.
async fn register_all(sandbox: &Sandbox, shop: &Client, url: &str, token: &str) -> Vec<String> {
    let scripts = [
        json!([{ "status": "succeeded" }]),
        json!([{ "http": 401 }, { "status": "succeeded" }]),
        json!([{ "http": 403 }]),
        json!([{ "drop": true }, { "http": 410 }]),
        json!([{ "http": 503 }, { "http": 410 }]),
        json!([{ "http": 200, "body": "<html>" }, { "http": 410 }]),
    ];
    let mut ids = Vec::new();
    for script in &scripts {
        for with_token in [false, true] {
            let script: Script = serde_json::from_value(script.clone()).unwrap();
            let operation = sandbox.create(Version::V1, script).unwrap().location;
            let mut registration = json!({ "operation": operation, "callbackUrl": url });
            if with_token {
                registration["accessToken"] = json!(token);
                registration["expiresIn"] = json!(3_600);
            }
            ids.push(shop.register(&registration).await);
        }
    }
    ids
}

/// Everything that can be read by HTTP.
async fn read_answers(read: &mut Read, serve: &Serve, shop: &Client, ids: &[String]) {
    for path in [
        "/v1/operations",
        "/v1/callbacks",
        "/v1/keys",
        "/v1/signing-secrets",
        "/v1/signing-keys",
        "/v1/callback-settings",
        "/v1/callers/shop/signing-keys",
        "/v1/connections",
        "/readyz",
        "/openapi.json",
    ] {
        let answer = shop.get(path).await;
        // Not everybody has a key to publish.
        let is_public = path.starts_with("/v1/callers/");
        assert!(answer.status.is_success() || is_public, "{path}: {answer:?}");
        read.add(path, format!("{:?} {}", answer.headers, answer.text));
    }
    let operator = serve.client(ADMIN_KEY);
    for path in
        ["/v1/admin/vault", "/v1/admin/callers", "/v1/admin/callers/shop/connections", "/metrics"]
    {
        let answer = operator.get(path).await;
        assert!(answer.status.is_success(), "{path}: {answer:?}");
        read.add(path, answer.text);
    }
    for id in ids {
        read.add("an operation", shop.operation(id).await.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_secret_is_found_nowhere() {
    let (sandbox, receiver) = (sandbox().await, Receiver::start().await);
    let mut story = Story::begin(sandbox.root(), "json");
    let collector = Collector::start().await;
    story.planted.add("key of the collector", KEY_OF_COLLECTOR);
    story.home = story
        .home
        .flag("--otlp-endpoint", &collector.root)
        .environment("ENGAGEMENT_BRIDGE_OTLP_HEADERS", &format!("x-key={KEY_OF_COLLECTOR}"));
    let (api_key, signing_secret) = story.add_shop().await;
    receiver.expect_secret(signing_secret.parse().unwrap());
    let serve = story.home.serve().await;
    let shop = serve.client(&api_key);

    // Everything that handles a secret, in luck and in trouble.
    let token_trouble: TokenScript =
        serde_json::from_value(json!([{ "http": 503, "retryAfter": "1" }])).unwrap();
    sandbox.script_tokens(token_trouble);
    let token = sandbox.hand_out_token("alice", Duration::from_hours(1)).unwrap();
    let token = token.expose_secret();
    story.planted.add("token", token);
    let url = format!("{}?code=planted-code-Qm7v", receiver.url());
    receiver.answer(vec![StatusCode::SERVICE_UNAVAILABLE, StatusCode::BAD_REQUEST]);
    let operation = sandbox.create(Version::V1, Script::default()).unwrap().location;
    let own_secret = more_secrets(&shop, &operation).await;
    story.plant_signing_secret("secret of an operation", &own_secret);
    story.plant_signing_key();
    let ids = register_all(&sandbox, &shop, &url, token).await;
    for answer in refusals(&shop, &operation, token).await {
        story.read.add("a refusal", answer);
    }
    let callbacks = all_told(&shop, &receiver, &ids).await;
    receiver.has_nothing_more().await;
    let later = json!({ "clientSecret": LATER_SECRET });
    let replaced = shop.put("/v1/connections/contoso/credential", &later).await;
    assert_eq!(replaced.status, StatusCode::NO_CONTENT);

    // Everything that can be read.
    read_answers(&mut story.read, &serve, &shop, &ids).await;
    for callback in &callbacks {
        let mut headers = callback.headers.clone();
        assert_eq!(headers.remove("x-gateway").unwrap(), HEADER);
        story.read.add("a callback", format!("{headers:?} {:?}", callback.body));
        story.read.add("the body of a callback", &callback.body);
    }
    story.command(&["callers", "list"]).await;
    story.command(&["connections", "list", "--caller", "shop"]).await;
    story.command(&["vault", "status"]).await;
    story.command(&["vault", "rekey"]).await;
    story.command(&["settings"]).await;
    story.command(&["serve", "--help"]).await;
    story.read_database();
    let log = serve.log();
    assert!(!log.contains("planted-code-Qm7v"), "a receiver's own secret is in the log");
    assert!(100 < log.lines().count(), "the log is not at its most talkative");
    story.read.add("the log", log);
    // Tokens that the bridge got by itself: none of them has a name here, but all have a shape.
    let record = sandbox.record();
    assert!(record.iter().any(|it| it.path.ends_with("/token")), "no token was fetched");
    story.planted.are_found_nowhere(&story.read);

    assert!(serve.terminate().await.success());
    let mut story = Story { read: Read::default(), ..story };
    story.read_database();
    // The last traces are sent at the end. Where callbacks go, the database has to know; they do not.
    let mut traces = Read::default();
    for body in collector.bodies.lock().unwrap().drain(..) {
        traces.add("a body for the collector", body);
    }
    assert!(traces.is_longer_than("a body for the collector", 1_000), "nothing was traced");
    story.planted.are_found_nowhere(&traces);
    let mut of_receiver = Planted::default();
    of_receiver.add("secret of a receiver", "planted-code-Qm7v");
    of_receiver.are_found_nowhere(&traces);
    story.planted.are_found_nowhere(&story.read);
}

/// Through a proxy that nobody is at, so that all attempts fail; and with a log of text.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_secret_is_not_found_in_a_log_of_text_nor_the_password_of_a_proxy() {
    let sandbox = sandbox().await;
    let mut story = Story::begin(sandbox.root(), "text");
    let (api_key, _) = story.add_shop().await;
    let proxy = format!("http://bridge:{PASSWORD_OF_PROXY}@127.0.0.1:9");
    story.home = story.home.environment("ENGAGEMENT_BRIDGE_CALLBACK_PROXY", &proxy);
    let serve = story.home.serve().await;
    let shop = serve.client(&api_key);
    let token = sandbox.hand_out_token("alice", Duration::from_hours(1)).unwrap();
    let token = token.expose_secret();
    story.planted.add("token", token);
    let ids = register_all(&sandbox, &shop, "http://127.0.0.1:9/hooks", token).await;
    let operation = sandbox.create(Version::V1, Script::default()).unwrap().location;
    for answer in refusals(&shop, &operation, token).await {
        story.read.add("a refusal", answer);
    }
    for id in &ids {
        until(async || shop.operation(id).await["state"] == "settled").await;
    }
    let attempted = async || {
        let seen = shop.get("/v1/callbacks").await.body;
        let mut callbacks = seen["callbacks"].as_array().unwrap().iter();
        callbacks.any(|it| it["lastAttempt"]["failure"] == "proxyFailed")
    };
    until(attempted).await;
    read_answers(&mut story.read, &serve, &shop, &ids).await;
    let broken = format!("http://bridge:{PASSWORD_OF_PROXY}@proxy.example:70000");
    let mut command = story.home.command(&["serve"]);
    let refused = command.env("ENGAGEMENT_BRIDGE_CALLBACK_PROXY", broken).output().await.unwrap();
    assert!(!refused.status.success());
    story.read.add("a refused proxy", complaint(&refused));
    story.read_database();
    let log = serve.log();
    assert!(log.contains("TRACE") && !log.starts_with('{'), "not a talkative log of text: {log}");
    story.read.add("the log", log);
    assert!(story.read.is_longer_than("the log", 10_000));
    assert!(serve.terminate().await.success());
    story.planted.are_found_nowhere(&story.read);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_password_of_a_database_is_found_nowhere() {
    let sandbox = sandbox().await;
    let mut story = Story::begin(sandbox.root(), "json");
    let mut url: url::Url = crate::support::postgres::database().parse().unwrap();
    let owner = url.username().to_owned();
    // The server of the tests takes any password, or none.
    url.set_password(Some(PASSWORD_OF_DATABASE)).unwrap();
    assert!(!owner.is_empty());
    story.home = story.home.environment("ENGAGEMENT_BRIDGE_DATABASE", url.as_str());
    let (api_key, _) = story.add_shop().await;
    let serve = story.home.serve().await;
    let shop = serve.client(&api_key);
    let token = sandbox.hand_out_token("alice", Duration::from_hours(1)).unwrap();
    let token = token.expose_secret();
    story.planted.add("token", token);
    let ids = register_all(&sandbox, &shop, "http://127.0.0.1:9/hooks", token).await;
    for id in &ids {
        until(async || shop.operation(id).await["state"] == "settled").await;
    }
    read_answers(&mut story.read, &serve, &shop, &ids).await;
    story.command(&["vault", "status"]).await;
    story.read.add("the log", serve.log());
    assert!(serve.terminate().await.success());

    // Where it cannot be reached, and where it cannot be read.
    for broken in [
        format!("postgres://{owner}:{PASSWORD_OF_DATABASE}@127.0.0.1:9/bridge"),
        format!("postgres://{owner}:{PASSWORD_OF_DATABASE}@127.0.0.1:port/bridge"),
        format!("postgres://{owner}:{PASSWORD_OF_DATABASE}@127.0.0.1/bridge?sslmode=odd"),
    ] {
        let mut command = story.home.command(&["callers", "list"]);
        let output = command.env("ENGAGEMENT_BRIDGE_DATABASE", broken).output().await.unwrap();
        assert!(!output.status.success());
        story.read.add("a refused database", complaint(&output));
    }
    let dump = "SELECT string_agg(operations::text, ' ') FROM operations";
    let rows = tokio::task::block_in_place(|| Server::shared().ask(url.as_str(), dump));
    story.read.add("the database", rows);
    story.planted.are_found_nowhere(&story.read);
}
