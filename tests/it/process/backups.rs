//! A backup that is made while the bridge works is a whole database, of one moment.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use engagement_bridge::sandbox::{Script, Version};
use serde_json::json;

use super::{Home, complaint};
use crate::world::{Receiver, sandbox};

/// How many are registered before, and at the least while, the backup is made.
const BEFORE: usize = 30;

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_before_a_backup_is_told_by_a_bridge_that_was_restored_from_it() {
    let (sandbox, receiver) = (Arc::new(sandbox().await), Receiver::start().await);
    let home = Home::new(sandbox.root());
    let added = home.add_shop().await;
    receiver.expect_secret(added["signingSecret"].as_str().unwrap().parse().unwrap());
    let key = added["apiKey"].as_str().unwrap();
    // Nothing is told before it is looked at again.
    let patient = ["--first-poll-after", "5s"].map(str::to_owned);
    let home = Home { flags: [home.flags.clone(), patient.to_vec()].concat(), ..home };
    let serve = home.serve().await;
    let shop = serve.client(key);
    let register = {
        let (sandbox, url) = (Arc::clone(&sandbox), receiver.url());
        async move || {
            let script: Script =
                serde_json::from_value(json!([{ "status": "succeeded" }])).unwrap();
            let operation = sandbox.create(Version::V1, script).unwrap().location;
            shop.register(&json!({ "operation": operation, "callbackUrl": url })).await
        }
    };
    let mut owed = BTreeSet::new();
    for _ in 0..BEFORE {
        owed.insert(register().await);
    }
    let to = home.directory.path().join("copy.db");
    let command = ["backup", "--to", to.to_str().unwrap(), "--json"];
    // Others are registered meanwhile, and may be in it or not.
    let backup = home.json(&command);
    let others = async {
        loop {
            register().await;
        }
    };
    let copied = tokio::select! {
        copied = backup => copied,
        () = others => unreachable!("never ends"),
    };
    assert!(BEFORE as u64 <= copied["operations"].as_u64().unwrap(), "{copied}");
    assert_eq!(copied["bytes"], std::fs::metadata(&to).unwrap().len());
    let permissions = std::fs::metadata(&to).unwrap().permissions();
    assert_eq!(permissions.mode() & 0o777, 0o600);
    serve.kill().await;

    // As the help of the command says.
    for suffix in ["", "-wal", "-shm", ".lock"] {
        let path = format!("{}{suffix}", home.database().display());
        std::fs::remove_file(path).ok();
    }
    std::fs::rename(&to, home.database()).unwrap();
    let serve = home.serve().await;
    while !owed.is_empty() {
        let told = receiver.next().await;
        assert_eq!(told.about(), "succeeded");
        owed.remove(told.json()["tracking"]["id"].as_str().unwrap());
    }
    assert!(serve.terminate().await.success());
}

#[tokio::test]
async fn a_backup_takes_nothings_place_and_leaves_nothing_behind() {
    let home = Home::new("http://127.0.0.1:9");
    let to = home.directory.path().join("copy.db");
    let command = ["backup", "--to", to.to_str().unwrap()];
    let refused = home.run(&command).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(complaint(&refused).contains("there is no database in"), "{refused:?}");
    assert_eq!(std::fs::read_dir(home.directory.path()).unwrap().count(), 0);

    home.add_shop().await;
    super::write(&to, "a file of somebody's");
    let refused = home.run(&command).await;
    assert!(complaint(&refused).contains("is there already"), "{refused:?}");
    assert_eq!(std::fs::read_to_string(&to).unwrap(), "a file of somebody's");

    std::fs::remove_file(&to).unwrap();
    super::write(&home.database(), "nothing that SQLite knows");
    let refused = home.run(&command).await;
    assert_eq!(refused.status.code(), Some(1));
    let left = std::fs::read_dir(home.directory.path()).unwrap();
    let left =
        left.filter(|it| it.as_ref().unwrap().file_name().to_string_lossy().starts_with("copy"));
    assert_eq!(left.count(), 0);
}

#[tokio::test]
async fn a_backup_that_is_printed_is_whole_and_leaves_nothing_behind() {
    let home = Home::new("http://127.0.0.1:9");
    home.add_shop().await;
    let names = || {
        let entries = std::fs::read_dir(home.directory.path()).unwrap();
        let names = entries.map(|it| it.unwrap().file_name().into_string().unwrap());
        // Whoever opens the database has these beside it.
        names.filter(|it| !it.ends_with("-shm") && !it.ends_with("-wal")).collect::<BTreeSet<_>>()
    };
    let before = names();
    let printed = home.run(&["backup", "--to", "-"]).await;
    assert!(printed.status.success(), "{}", complaint(&printed));
    assert_eq!(names(), before);
    let elsewhere = tempfile::tempdir().unwrap();
    let copy = elsewhere.path().join("bridge.db");
    std::fs::write(&copy, printed.stdout).unwrap();
    let copy = rusqlite::Connection::open(copy).unwrap();
    let sound: String = copy.pragma_query_value(None, "integrity_check", |row| row.get(0)).unwrap();
    assert_eq!(sound, "ok");
    let callers: u64 =
        copy.query_row("SELECT count(*) FROM callers", [], |row| row.get(0)).unwrap();
    assert_eq!(callers, 1);

    std::fs::remove_file(home.database()).unwrap();
    let refused = home.run(&["backup", "--to", "-"]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.stdout.is_empty());
}
