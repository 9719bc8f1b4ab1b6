//! The commands besides `serve`, as somebody at a terminal or a script would use them.

use std::process::Output;

use engagement_bridge::courier::signing::sign;
use engagement_bridge::vault::MasterKey;

use super::{BINARY, Home, complaint, write};
use crate::world::sandbox;

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_ends_with_every_callback_verified() {
    let home = Home::new("http://127.0.0.1:9");
    let output = home.run(&["demo"]).await;
    let told = text(&output);
    assert!(output.status.success(), "{told}\n{}", complaint(&output));
    assert!(told.contains("3 of 3 callbacks verified"), "{told}");
    assert_eq!(told.matches("signature verified").count(), 3, "{told}");
    for outcome in ["succeeded", "failed", "429"] {
        assert!(told.contains(outcome), "{told}");
    }
    assert!(!told.contains('\u{1b}'), "colours where nobody sees them");
    assert!(!home.database().exists(), "something was left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_and_connections_are_added_alike_with_and_without_a_running_bridge() {
    let sandbox = sandbox().await;
    let home = Home::new(sandbox.root());
    let before = home.add_shop().await;
    assert_eq!(before["caller"], "shop");
    assert!(before["apiKey"].as_str().unwrap().starts_with("ebk_"));
    assert!(before["signingSecret"].as_str().unwrap().starts_with("whsec_"));

    let serve = home.serve().await;
    let while_running = home.json(&["callers", "add", "desk", "--json"]).await;
    let listed = home.json(&["callers", "list"]).await;
    assert_eq!(listed["callers"], serde_json::json!(["desk", "shop"]));
    for added in [&before, &while_running] {
        let caller = serve.client(added["apiKey"].as_str().unwrap());
        assert!(caller.get("/v1/operations").await.status.is_success());
    }
    let keys = home.json(&["callers", "keys", "shop"]).await["keys"].clone();
    let wanted = ["--scope", "read,register", "--label", "till", "--expires-after", "90d"];
    let till = home.json(&[&["callers", "add-key", "shop"], &wanted[..]].concat()).await;
    assert_eq!(till["scopes"], serde_json::json!(["register", "read"]));
    let at_till = serve.client(till["apiKey"].as_str().unwrap());
    assert!(at_till.get("/v1/operations").await.status.is_success());
    assert_eq!(at_till.delete("/v1/keys/key_0").await.status.as_u16(), 403);
    let listed = home.json(&["callers", "keys", "shop"]).await["keys"].clone();
    assert_eq!(
        (&listed[1]["label"], &listed[1]["expiresAt"]),
        (&"till".into(), &till["expiresAt"])
    );
    let revoked = home.run(&["callers", "revoke-key", "shop", till["id"].as_str().unwrap()]).await;
    assert!(revoked.status.success(), "{revoked:?}");
    assert_eq!(at_till.get("/v1/operations").await.status.as_u16(), 401);
    assert_eq!(home.json(&["callers", "keys", "shop"]).await["keys"][0]["id"], keys[0]["id"]);
    let another = home.json(&["callers", "add-key", "shop"]).await;
    let caller = serve.client(another["apiKey"].as_str().unwrap());
    assert!(caller.get("/v1/operations").await.status.is_success());
    let rotated = home.json(&["callers", "rotate-secret", "shop", "--overlap", "0s"]).await;
    assert!(rotated["secret"].as_str().unwrap().starts_with("whsec_"));
    let live = caller.get("/v1/signing-secrets").await.body;
    assert_eq!(live["signingSecrets"].as_array().unwrap().len(), 1, "the first has ended at once");
    assert_eq!(live["signingSecrets"][0]["id"], rotated["id"]);
    let connections = home.json(&["connections", "list", "--caller", "shop"]).await;
    assert_eq!(connections["connections"][0]["name"], "contoso");
    assert_eq!(connections["connections"][0]["isDefault"], true);

    let refusals = async || {
        let mut said = Vec::new();
        for arguments in [
            &["callers", "add", "shop"][..],
            &["callers", "add", "Not A Name"],
            &["callers", "add-key", "nobody"],
            &["callers", "revoke-key", "shop", "key_0"],
            &["callers", "rotate-secret", "nobody"],
            &["callers", "rotate-secret", "shop", "--overlap", "8d"],
            &["connections", "list", "--caller", "nobody"],
        ] {
            let output = home.run(arguments).await;
            assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
            said.push(complaint(&output));
        }
        said
    };
    let there = refusals().await;
    assert!(there[0].contains("There is a caller of that name"), "{there:?}");
    assert!(there[1].contains("name: expected 1 to 64"), "{there:?}");
    assert!(there[2].contains("no caller of that name"), "{there:?}");
    assert!(there[3].contains("nothing of yours at this address"), "{there:?}");
    assert!(there[4].contains("no caller of that name"), "{there:?}");
    assert!(there[5].contains("overlapSeconds: 0 to 604800 seconds"), "{there:?}");
    let audit = async || home.json(&["audit", "--by", "adminKey"]).await["entries"].clone();
    let with_bridge = audit().await;
    assert!(serve.terminate().await.success());
    assert_eq!(refusals().await, there, "refused in other words");
    let entries = audit().await;
    assert_eq!(entries, with_bridge, "what was refused is not there");
    let told = |entry: &serde_json::Value| {
        let names: Vec<_> =
            entry["names"].as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect();
        let text = |member: &str| entry[member].as_str().unwrap_or("nothing").to_owned();
        assert!(entry["result"].as_u64().is_some_and(|it| it < 300), "{entry}");
        format!("{} {} {}: {}", text("address"), text("method"), text("resource"), names.join(" "))
    };
    let told: Vec<_> = entries.as_array().unwrap().iter().rev().map(told).collect();
    assert_eq!(told[0], "nothing POST /v1/admin/callers: shop");
    assert_eq!(told[2], "127.0.0.1 POST /v1/admin/callers: desk");
    let id = till["id"].as_str().unwrap();
    assert_eq!(told[3], format!("127.0.0.1 POST /v1/admin/callers/{{caller}}/keys: {id}"));
    let path = "/v1/admin/callers/{caller}/keys/{id}";
    assert_eq!(told[4], format!("127.0.0.1 DELETE {path}: {id}"));
    assert_eq!(told.len(), 7, "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn callbacks_are_sent_again_by_whatever_bridge_runs_next() {
    let sandbox = sandbox().await;
    let home = Home::new(sandbox.root());
    home.add_shop().await;
    let resend = ["callbacks", "resend", "--caller", "shop", "--reason", "attemptsSpent"];
    let asked = home.json(&resend).await;
    assert_eq!((&asked["state"], &asked["matched"]), (&"underWay".into(), &0.into()));
    let waiting = home.run(&[&resend[..], &["--wait"]].concat()).await;
    assert_eq!(waiting.status.code(), Some(1));
    assert!(complaint(&waiting).contains("by the next bridge to run"), "{waiting:?}");

    let serve = home.serve().await;
    let done =
        home.json(&["callbacks", "resend", "--wait", "--since", "2027-01-15T08:00:00Z"]).await;
    assert_eq!((&done["state"], &done["skipped"]), (&"done".into(), &0.into()));
    let listed = home.json(&["callbacks", "resends"]).await;
    let ids: Vec<_> = listed["resends"].as_array().unwrap().iter().map(|it| &it["id"]).collect();
    assert_eq!(ids, [&done["id"], &asked["id"]], "one is as it was asked for twice");
    let slip = home.run(&["callbacks", "resend", "--reason", "bored"]).await;
    assert_eq!(slip.status.code(), Some(1));
    assert!(complaint(&slip).contains("reason: one of `gone`"), "{slip:?}");
    assert!(serve.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthcheck_tells_a_bridge_that_runs_from_one_that_does_not() {
    let sandbox = sandbox().await;
    let home = Home::new(sandbox.root());
    let serve = home.serve().await;
    let listen = serve.address.to_string();
    let check = async || home.run(&["healthcheck", "--listen", &listen]).await;
    let healthy = check().await;
    assert!(healthy.status.success(), "{healthy:?}");
    assert!(text(&healthy).contains("\"ready\""));
    assert!(serve.terminate().await.success());
    let gone = check().await;
    assert_eq!(gone.status.code(), Some(1));
    assert!(complaint(&gone).contains(&format!("no answer from http://{listen}/readyz")));
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_says_what_is_wrong() {
    let home = Home::new("http://127.0.0.1:9");
    let path = |name: &str| home.directory.path().join(name).display().to_string();
    let (body, headers, secret) = (path("body"), path("headers"), path("secret"));
    let signature =
        sign(&[crate::support::SECRET.parse().unwrap()], "msg_1", 1_800_000_000, b"{\"a\":1}");
    write(body.as_ref(), "{\"a\":1}");
    write(secret.as_ref(), crate::support::SECRET);
    write(
        headers.as_ref(),
        &format!(
            "POST /hooks HTTP/1.1\r\nContent-Type: application/json\r\nWebhook-Id: msg_1\r\n\
             webhook-timestamp: 1800000000\r\nwebhook-signature: {signature}\r\n"
        ),
    );
    let common = ["verify", &body, "--headers", &headers, "--secret-file", &secret];
    let good = home.run(&[&common[..], &["--ignore-age"]].concat()).await;
    assert!(good.status.success(), "{good:?}");
    assert!(text(&good).contains("verified: msg_1"), "{good:?}");

    write(body.as_ref(), "{\"a\":2}");
    let bad = home.run(&[&common[..], &["--ignore-age"]].concat()).await;
    assert_eq!(bad.status.code(), Some(1));
    assert!(text(&bad).contains("not verified: no signature matches"), "{bad:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn help_teaches_and_a_slip_is_answered_with_the_way_out() {
    let home = Home::new("http://127.0.0.1:9");
    let help = text(&home.run(&["--help"]).await);
    for word in ["serve", "demo", "First steps", "ENGAGEMENT_BRIDGE_"] {
        assert!(help.contains(word), "{word} is not in: {help}");
    }
    for (command, taught) in [
        ("serve", "SIGTERM or SIGINT"),
        ("callers", "through the bridge that has it open"),
        ("copy", "every value of both databases is compared"),
        ("migrate", "may only read and write rows"),
    ] {
        let help = text(&home.run(&[command, "--help"]).await);
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(help.contains(taught), "{taught} is not in: {help}");
    }
    let slip = home.run(&["serve", "--min-poll-interval", "fast"]).await;
    assert_eq!(slip.status.code(), Some(2));
    assert!(complaint(&slip).contains("give a duration such as 31s"), "{slip:?}");
    let named = tokio::process::Command::new(BINARY).arg("--version").output().await.unwrap();
    assert_eq!(text(&named), format!("engagement-bridge {}\n", env!("CARGO_PKG_VERSION")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_a_password_in_it_may_come_in_a_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    let home = Home::new("http://127.0.0.1:9")
        .environment("ENGAGEMENT_BRIDGE_DATABASE_URL_FILE", path)
        .environment("ENGAGEMENT_BRIDGE_CALLBACK_PROXY_FILE", path)
        .environment("ENGAGEMENT_BRIDGE_ADMIN_KEY", "an-admin-key-of-a-test")
        .environment("ENGAGEMENT_BRIDGE_MASTER_KEY", &MasterKey::generate().unwrap().expose());
    write(file.path(), &format!("{}\n", crate::support::postgres::database()));
    let migrated = home.json(&["migrate", "--json"]).await;
    assert!(migrated["database"].as_str().unwrap().starts_with("postgres://"), "{migrated}");
    let refused = home.try_serve().await.err().unwrap();
    assert!(refused.contains("--callback-proxy is not one"), "{refused}");

    write(file.path(), "bridge.db");
    let refused = complaint(&home.run(&["callers", "list"]).await);
    assert!(refused.contains("does not hold the URL of a PostgreSQL"), "{refused}");
    std::fs::remove_file(file.path()).unwrap();
    let refused = complaint(&home.run(&["callers", "list"]).await);
    assert!(refused.contains(&format!("cannot read {path}")), "{refused}");
}
