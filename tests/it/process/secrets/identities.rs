//! What connections prove themselves by, and what users sign in by.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use engagement_bridge::clock::SystemClock;
use engagement_bridge::sandbox::{Grants, Options, Sandbox, Script, SignInToken, Version};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::super::planted::Planted;
use super::super::{until, write};
use super::{ADMIN_KEY, Story, read_answers};
use crate::support::certificates::Made;
use crate::world::{CLIENT_ID, Client, Receiver, SPEED};

const API: &str = "99999999-9999-4999-8999-999999999999";
const TENANT: &str = "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa";
const APP: &str = "22222222-2222-4222-8222-222222222222";
const USER: &str = "33333333-3333-4333-8333-333333333333";

const IDENTITY_HEADER: &str = "planted-identity-header-Vb6x";
const FEDERATED_TOKEN: &str = "eyJ.planted-federated-token-Hs3w.x";
const PASSWORD_OF_FILE: &str = "planted-certificate-password-Jd8f";

/// A token for the API, of which any part would do.
fn sign_in_token(sandbox: &Sandbox, planted: &mut Planted) -> String {
    let token = SignInToken {
        tenant: TENANT.to_owned(),
        audience: API.to_owned(),
        app: APP.to_owned(),
        object_id: USER.to_owned(),
        grants: Grants::Scopes(vec![
            "Operations.Register".to_owned(),
            "Operations.Read".to_owned(),
        ]),
    };
    let token = sandbox.hand_out_sign_in(&token, Duration::from_hours(1)).unwrap();
    let token = token.expose_secret().to_owned();
    planted.add("sign-in token", &token);
    planted.add("signature of the sign-in token", token.rsplit('.').next().unwrap());
    token
}

/// Makes, tests and renews connections of all kinds, well and badly.
async fn connections(story: &mut Story, directory: &Path, made: &Made, shop: &Client) {
    let file = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    std::fs::write(directory.join("app.pfx"), made.pkcs12(PASSWORD_OF_FILE, &[])).unwrap();
    write(&directory.join("federated"), FEDERATED_TOKEN);
    write(&directory.join("certificate.pem"), &made.certificate);
    // One app is tested twice in half a minute, and no more often.
    for (name, client_id, proof, succeeds) in [
        ("by-certificate", CLIENT_ID, ["--certificate-file", &file("app.pfx")], true),
        ("by-federation", CLIENT_ID, ["--federated-token-file", &file("federated")], true),
        ("by-machine", APP, ["--managed-identity", "system"], true),
        ("by-half", APP, ["--certificate-file", &file("certificate.pem")], false),
        ("by-nothing", APP, ["--federated-token-file", &file("nothing")], false),
    ] {
        let of_app = ["--caller", "shop", "--tenant", "contoso.example", "--client-id", client_id];
        let add = [&["connections", "add", name], &of_app[..], &proof, &["--no-test"]].concat();
        let added = story.command(&add).await;
        assert_eq!(added.status.success(), succeeds || name == "by-nothing", "{added:?}");
        let test = story.command(&["connections", "test", name, "--caller", "shop"]).await;
        assert_eq!(test.status.success(), succeeds, "{name}: {test:?}");
    }
    for proof in [
        json!({ "certificate": format!("{}{}", made.pem(), made.key) }),
        json!({ "certificate": made.key }),
        json!({ "certificate": [made.pem()] }),
        json!({ "federatedTokenFile": FEDERATED_TOKEN }),
        json!({ "managedIdentity": IDENTITY_HEADER }),
    ] {
        let answer = shop.put("/v1/connections/by-certificate/credential", &proof).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{answer:?}");
        story.read.add("a refusal", format!("{:?} {}", answer.headers, answer.text));
    }
    let renewed = json!({ "certificate": made.pem() });
    let answer = shop.put("/v1/connections/by-certificate/credential", &renewed).await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT, "{answer:?}");
}

/// Sends the token where it does not belong, and where it does but is not good.
async fn misplaced(story: &mut Story, operator: &Client, shop: &Client, token: &str, body: &Value) {
    let tampered = shop.with_key(&format!("{token}x"));
    let mut as_access_token = body.clone();
    as_access_token["accessToken"] = json!(token);
    let nowhere = format!("/v1/admin/callers/shop/sign-ins/{TENANT}/{token}");
    let answers = [
        tampered.get("/v1/operations").await,
        shop.post("/v1/operations", body).await,
        shop.post("/v1/operations", &as_access_token).await,
        operator.post("/v1/admin/callers", &json!({ "name": token })).await,
        operator.post("/v1/admin/callers/shop/sign-ins", &json!({ "tenant": token })).await,
        operator.delete(&nowhere).await,
        operator.delete(&format!("/v1/admin/callers/{token}")).await,
    ];
    for answer in answers {
        assert!(answer.status.is_client_error(), "{answer:?}");
        story.read.add("a refusal", format!("{:?} {}", answer.headers, answer.text));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_identities_hold_is_found_nowhere() {
    let options = Options {
        speed: SPEED,
        identity_header: Some(IDENTITY_HEADER.into()),
        ..Options::default()
    };
    let sandbox = Sandbox::start(options, Arc::new(SystemClock)).await.unwrap();
    let receiver = Receiver::start().await;
    let (its_own, api_own) = (Made::rsa(), Made::rsa());
    sandbox.upload_certificate("contoso.example", CLIENT_ID, &its_own.der()).unwrap();
    sandbox.upload_certificate(TENANT, API, &api_own.der()).unwrap();
    sandbox.federate("contoso.example", CLIENT_ID, FEDERATED_TOKEN).unwrap();

    let mut story = Story::begin(sandbox.root(), "json");
    story.planted.add_rsa_key("key of a connection", &its_own.key);
    story.planted.add_rsa_key("key of the API", &api_own.key);
    story.planted.add("identity header", IDENTITY_HEADER);
    story.planted.add("federated token", FEDERATED_TOKEN);
    story.planted.add("password of a certificate", PASSWORD_OF_FILE);
    let directory = tempfile::tempdir().unwrap();
    let certificate = directory.path().join("api.pem");
    write(&certificate, &api_own.pem());
    let endpoint = format!("{}/msi/token", sandbox.root());
    story.home = story
        .home
        .flag("--sign-in-client-id", API)
        .flag("--sign-in-tenants", TENANT)
        .flag("--sign-in-certificate-file", certificate.to_str().unwrap())
        .environment("ENGAGEMENT_BRIDGE_CERTIFICATE_PASSWORD", PASSWORD_OF_FILE)
        .environment("IDENTITY_ENDPOINT", &endpoint)
        .environment("IDENTITY_HEADER", IDENTITY_HEADER);
    let (api_key, signing_secret) = story.add_shop().await;
    receiver.expect_secret(signing_secret.parse().unwrap());
    let serve = story.home.serve().await;
    let (shop, operator) = (serve.client(&api_key), serve.client(ADMIN_KEY));
    connections(&mut story, directory.path(), &its_own, &shop).await;

    let bound = ["--caller", "shop", "--tenant", TENANT, "--app", APP];
    assert!(story.command(&[&["sign-ins", "add"], &bound[..]].concat()).await.status.success());
    let token = sign_in_token(&sandbox, &mut story.planted);
    let alice = shop.with_key(&token);
    let script: Script = serde_json::from_value(json!([{ "status": "succeeded" }])).unwrap();
    let operation = || sandbox.create(Version::V1, script.clone()).unwrap().location;
    let on_behalf =
        json!({ "operation": operation(), "callbackUrl": receiver.url(), "onBehalfOf": true });
    misplaced(&mut story, &operator, &shop, &token, &on_behalf).await;
    let mut ids = vec![alice.register(&on_behalf).await];
    let sealed = "SELECT sealed_proof FROM connections WHERE kind = 'onBehalfOf'";
    let refresh_token = story.opened(sealed, &format!("connections/shop/user:{TENANT}:{USER}"));
    story.planted.add("refresh token", &refresh_token);
    for connection in ["by-certificate", "by-federation", "by-machine"] {
        let mut registration = json!({ "operation": operation(), "callbackUrl": receiver.url() });
        registration["connection"] = json!(connection);
        ids.push(shop.register(&registration).await);
    }
    for id in &ids {
        until(async || shop.operation(id).await["state"] == "settled").await;
        let callback = receiver.next().await;
        story.read.add("a callback", format!("{:?} {:?}", callback.headers, callback.body));
    }

    read_answers(&mut story.read, &serve, &shop, &ids).await;
    for path in ["/v1/admin/audit", "/v1/admin/callers/shop/sign-ins"] {
        let answer = operator.get(path).await;
        assert!(answer.status.is_success(), "{answer:?}");
        story.read.add(path, answer.text);
    }
    for arguments in [
        &["audit"][..],
        &["sign-ins", "list", "--caller", "shop"],
        &["connections", "list", "--caller", "shop"],
        &[&["sign-ins", "remove"], &bound[..]].concat(),
    ] {
        let output = story.command(arguments).await;
        assert!(output.status.success(), "{output:?}");
    }
    assert!(serve.log().contains("TRACE"), "the log is not at its most talkative");
    story.read.add("the log", serve.log());
    story.read_database();
    assert!(serve.terminate().await.success());
    story.read_database();
    story.planted.are_found_nowhere(&story.read);
}
