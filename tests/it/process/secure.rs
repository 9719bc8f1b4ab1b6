//! `serve` with a certificate of its own: what commands on the machine make of it, and what becomes of
//! it when its files are replaced.

use std::os::unix::fs::symlink;
use std::path::Path;

use engagement_bridge::tls;
use reqwest::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::planted::{Planted, Read};
use super::refusals;
use super::restarts::until;
use super::{Home, write};
use crate::support::certificates::{Authority, today};

/// Nothing is asked of this root.
const NOBODY: &str = "http://127.0.0.1:9";

const KEY: [&str; 3] = ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"];

/// Puts a certificate where Kubernetes would: into a directory of its own, to which a link is switched.
fn put(directory: &Path, version: &str, (chain, key): &(String, String)) {
    let own = directory.join(version);
    std::fs::create_dir(&own).unwrap();
    write(&own.join("tls.crt"), chain);
    write(&own.join("tls.key"), key);
    let switched = directory.join("switched");
    symlink(version, &switched).unwrap();
    std::fs::rename(switched, directory.join("live")).unwrap();
}

/// A home whose `serve` has the files that are `live` in there.
fn home(directory: &Path) -> Home {
    let file = |name: &str| directory.join("live").join(name).to_str().unwrap().to_owned();
    Home::new(NOBODY)
        .flag("--tls-certificate-file", &file("tls.crt"))
        .flag("--tls-key-file", &file("tls.key"))
}

/// A new connection by whoever believes this root.
fn client(authority: &Authority) -> reqwest::Client {
    let config = tls::client_config(Some(authority.root.as_bytes())).unwrap();
    let client = reqwest::Client::builder().tls_backend_preconfigured(config);
    client.timeout(crate::world::PATIENCE).build().unwrap()
}

/// What metrics say of the end of the certificate, to the nearest day.
async fn days_left(home: &Home, authority: &Authority, url: &str) -> i64 {
    let key = std::fs::read_to_string(home.directory.path().join("bridge.db.admin-key")).unwrap();
    let asked = client(authority).get(format!("{url}/metrics")).bearer_auth(key.trim());
    let metrics = asked.send().await.unwrap().text().await.unwrap();
    let name = "engagement_bridge_certificate_expiry_timestamp_seconds ";
    let expiry = metrics.lines().find_map(|line| line.strip_prefix(name)?.parse::<i64>().ok());
    (expiry.expect(&metrics) - today().as_second() + 43_200) / 86_400
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_replaced_is_taken_up_and_a_bad_one_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let (first, second) = (Authority::new(), Authority::new());
    put(directory.path(), "first", &first.issue(&KEY));
    let home = home(directory.path());
    let serve = home.serve().await;
    let url = format!("https://{}", serve.address);
    assert!(serve.log().contains(&format!("listening on {url}")), "{}", serve.log());
    let is_believed = async |authority: &Authority| {
        let answer = client(authority).get(format!("{url}/readyz")).send().await;
        answer
            .is_ok_and(|it| it.status() == StatusCode::NO_CONTENT || it.status() == StatusCode::OK)
    };
    assert!(is_believed(&first).await);
    assert!(!is_believed(&second).await);

    assert_eq!(days_left(&home, &first, &url).await, 90);

    // Commands find the bridge, and believe it, without being told of its certificate.
    home.json(&["callers", "add", "shop", "--json"]).await;
    let health = ["healthcheck", "--listen", &serve.address.to_string()];
    let secure = [&health[..], &["--tls-certificate-file", "not-read"]].concat();
    assert!(home.run(&secure).await.status.success());
    let output = home.run(&health).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("https-required"), "{said}");

    // One that was opened before goes on by what it was opened with.
    let config = tls::client_config(Some(first.root.as_bytes())).unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let stream = tokio::net::TcpStream::connect(serve.address).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
    let mut open = connector.connect(name, stream).await.unwrap();

    put(directory.path(), "second", &second.issue(&KEY));
    until(async || is_believed(&second).await).await;
    assert!(!is_believed(&first).await);
    open.write_all(b"GET /healthz HTTP/1.1\r\nHost: bridge\r\n\r\n").await.unwrap();
    assert_eq!(open.read_u8().await.unwrap(), b'H');
    assert_eq!(home.json(&["callers", "list"]).await["callers"][0], "shop");

    // The chain of one, and the key of another.
    let ((chain, _), (_, key)) = (first.issue(&KEY), first.issue(&KEY));
    put(directory.path(), "third", &(chain, key));
    until(async || serve.log().contains("the old one stays")).await;
    assert!(serve.log().contains("the private key does not belong"), "{}", serve.log());
    assert!(is_believed(&second).await);

    assert_eq!(days_left(&home, &second, &url).await, 90);
    assert!(serve.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_of_the_certificate_is_found_nowhere() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let (mut planted, mut read) = (Planted::default(), Read::default());
    let issue = |planted: &mut Planted, kind: &str| {
        let issued = authority.issue(&["rsa:2048"]);
        planted.add_rsa_key(kind, &issued.1);
        issued
    };
    let first = issue(&mut planted, "first key");
    put(directory.path(), "first", &first);
    let home = home(directory.path()).flag("--log", "trace");
    let serve = home.serve().await;
    let added = home.run(&["callers", "add", "shop"]).await;
    assert!(added.status.success(), "{added:?}");
    read.add("what a command prints", &added.stdout);
    let answer = client(&authority).get(format!("https://{}/v1/operations", serve.address));
    read.add("an answer", answer.send().await.unwrap().text().await.unwrap());

    // Replaced well, mixed up, and in one line as a variable may have it that lost its breaks.
    put(directory.path(), "second", &issue(&mut planted, "second key"));
    until(async || serve.log().contains("the API has a new certificate")).await;
    let (chain, key) = issue(&mut planted, "third key");
    for (number, (chain, key)) in
        [(&key, &chain), (&key.replace('\n', ""), &key), (&chain, &first.1)].into_iter().enumerate()
    {
        put(directory.path(), &format!("bad-{number}"), &(chain.clone(), key.clone()));
        until(async || serve.log().matches("the old one stays").count() == number + 1).await;
    }
    assert!(serve.log().contains("TRACE"), "the log is not at its most talkative");
    read.add("the log", serve.log());
    assert!(serve.terminate().await.success());
    for name in ["bridge.db", "bridge.db.lock"] {
        read.add(name, std::fs::read(home.directory.path().join(name)).unwrap());
    }
    // And where it does not start.
    let flags: Vec<_> = home.flags.iter().map(String::as_str).collect();
    let output = home.run(&[&["serve"][..], &flags].concat()).await;
    assert_eq!(output.status.code(), Some(1));
    read.add("what it says as it ends", &output.stderr);
    planted.are_found_nowhere(&read);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_a_certificate_that_can_be_used_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let refused = async |chain: &str, key: &str, words: &[&str]| {
        for (name, text) in [("chain.pem", chain), ("key.pem", key)] {
            write(&directory.path().join(name), text);
        }
        let file = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        let home = Home::new(NOBODY)
            .flag("--tls-certificate-file", &file("chain.pem"))
            .flag("--tls-key-file", &file("key.pem"));
        refusals::refused(&home, words).await;
        assert!(!home.database().exists(), "refused whole");
    };
    let authority = Authority::new();
    let ((chain, key), (_, other)) = (authority.issue(&KEY), authority.issue(&KEY));
    let first = "no certificate to be served by";
    refused("", &key, &[first, "--tls-certificate-file holds no certificate"]).await;
    refused(&chain, "", &[first, "--tls-key-file holds no private key"]).await;
    refused(&chain, &other, &[first, "does not belong to the first certificate"]).await;

    let (there, missing) =
        (directory.path().join("chain.pem"), directory.path().join("missing.pem"));
    let flag = |home: Home, flag: &str, path: &Path| home.flag(flag, path.to_str().unwrap());
    for name in ["--tls-certificate-file", "--tls-key-file"] {
        let home = flag(Home::new(NOBODY), name, &there);
        refusals::refused(&home, &["belong together", "give both, or neither"]).await;
        assert!(!home.database().exists(), "refused whole");
    }
    let home = flag(Home::new(NOBODY), "--tls-certificate-file", &there);
    let home = flag(home, "--tls-key-file", &missing);
    refusals::refused(&home, &["missing.pem cannot be read", "No such file"]).await;
}
