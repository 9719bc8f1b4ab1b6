//! Connections and sign-ins as the operator deals with them at a terminal, and is told of them in the log.

use serde_json::{Value, json};

use super::{Home, complaint, until, write};
use crate::support::certificates::Made;
use crate::world::{CLIENT_ID, sandbox};

const API: &str = "99999999-9999-4999-8999-999999999999";
const TENANT: &str = "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa";
const APP: &str = "22222222-2222-4222-8222-222222222222";

async fn succeeds(home: &Home, arguments: &[&str]) {
    let output = home.run(arguments).await;
    assert!(output.status.success(), "{arguments:?}: {}", complaint(&output));
}

/// Name and kind of each connection of a caller.
async fn kinds(home: &Home, caller: &str) -> Vec<(String, String)> {
    let listed = home.json(&["connections", "list", "--caller", caller]).await;
    let text = |it: &Value, member: &str| it[member].as_str().unwrap().to_owned();
    let connections = listed["connections"].as_array().unwrap();
    connections.iter().map(|it| (text(it, "name"), text(it, "kind"))).collect()
}

fn named(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, kind)| ((*name).to_owned(), (*kind).to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_shared_renewed_and_taken_back_by_commands() {
    let sandbox = sandbox().await;
    let home = Home::new(sandbox.root());
    home.add_shop().await;
    succeeds(&home, &["callers", "add", "other"]).await;
    let of_shop = ["contoso", "--caller", "shop"];
    let share = [&["connections", "share"], &of_shop[..], &["--with", "other", "--as", "theirs"]];
    succeeds(&home, &share.concat()).await;
    assert_eq!(kinds(&home, "other").await, named(&[("theirs", "shared")]));

    let certificate = home.directory.path().join("next.pem");
    let made = Made::rsa();
    write(&certificate, &made.pem());
    let file = ["--certificate-file", certificate.to_str().unwrap()];
    let renew = ["connections", "renew", "theirs", "--caller", "other"];
    let refused = home.run(&[&renew[..], &file].concat()).await;
    assert!(complaint(&refused).contains("It is another caller's"), "{refused:?}");
    succeeds(&home, &[&["connections", "renew"], &of_shop[..], &file].concat()).await;
    assert_eq!(kinds(&home, "shop").await, named(&[("contoso", "certificate")]));

    succeeds(&home, &[&["connections", "withdraw"], &of_shop[..], &["--from", "other"]].concat())
        .await;
    assert_eq!(kinds(&home, "other").await, named(&[("theirs", "withdrawn")]));
    let tested = home.run(&["connections", "test", "theirs", "--caller", "other", "--json"]).await;
    assert_eq!(tested.status.code(), Some(1), "{tested:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_signs_in_as_whom_is_said_by_commands() {
    let sandbox = sandbox().await;
    let home = Home::new(sandbox.root());
    home.add_shop().await;
    let bound = ["--caller", "shop", "--tenant", &TENANT.to_uppercase(), "--app", APP];
    let added = home.json(&[&["sign-ins", "add"], &bound[..]].concat()).await;
    assert_eq!((&added["tenant"], &added["app"]), (&json!(TENANT), &json!(APP)));
    let again = home.run(&[&["sign-ins", "add"], &bound[..]].concat()).await;
    assert!(complaint(&again).contains("signs in already"), "{again:?}");
    let odd = ["sign-ins", "add", "--caller", "shop", "--tenant", "contoso.example", "--app", APP];
    let refused = home.run(&odd).await;
    assert!(complaint(&refused).contains("tenant: a GUID"), "{refused:?}");
    let list = ["sign-ins", "list", "--caller", "shop"];
    assert_eq!(home.json(&list).await["signIns"], json!([added]));
    succeeds(&home, &[&["sign-ins", "remove"], &bound[..]].concat()).await;
    assert_eq!(home.json(&list).await["signIns"], json!([]));
    let gone = home.run(&[&["sign-ins", "remove"], &bound[..]].concat()).await;
    assert_eq!(gone.status.code(), Some(1), "{gone:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_warned_of_before_they_expire() {
    let sandbox = sandbox().await;
    let home = Home::new(sandbox.root());
    home.add_shop().await;
    let file = home.directory.path().join("soon.pem");
    write(&file, &Made::by("rsa:2048", &["-days", "7"]).pem());
    let soon = file.to_str().unwrap();
    let later = home.directory.path().join("later.pem");
    write(&later, &Made::rsa().pem());
    for (name, file) in [("soon", soon), ("later", later.to_str().unwrap())] {
        let add = ["connections", "add", name, "--caller", "shop", "--tenant", "contoso.example"];
        let proof = ["--client-id", CLIENT_ID, "--certificate-file", file, "--no-test"];
        succeeds(&home, &[&add[..], &proof].concat()).await;
    }
    let home = home
        .flag("--sign-in-client-id", API)
        .flag("--sign-in-tenants", TENANT)
        .flag("--sign-in-certificate-file", soon);
    let serve = home.serve().await;
    until(async || {
        let log = serve.log();
        log.contains("the certificate of connection `soon` of shop expires in 6 days: renew it")
            && log.contains("the certificate of --sign-in-certificate-file expires in 6 days")
    })
    .await;
    assert!(!serve.log().contains("`later`"), "{}", serve.log());
    assert!(serve.terminate().await.success());

    write(&file, "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n");
    let refused = home.try_serve().await.err().unwrap();
    assert!(refused.contains("soon.pem cannot be used"), "{refused}");
    assert!(refused.contains("it holds no private key"), "{refused}");
}
