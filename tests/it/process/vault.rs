//! The change of master keys, step by step as the README has it.

use engagement_bridge::vault::MasterKey;
use serde_json::Value;

use super::refusals::refused;
use super::{Home, complaint, write};
use crate::world::sandbox;

/// A key in the file and what is said of it: its id, whether it is given, seals, and how much is sealed
/// under it.
fn keys(vault: &Value) -> Vec<(&str, bool, bool, u64)> {
    let key = |key: &'static str| move |it: &Value| it[key].as_bool().unwrap();
    let keys = vault["keys"].as_array().unwrap().iter();
    keys.map(|it| {
        let (is_given, seals) = (key("isGiven")(it), key("seals")(it));
        (it["id"].as_str().unwrap(), is_given, seals, it["values"].as_u64().unwrap())
    })
    .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_master_key_is_changed_while_the_bridge_serves() {
    let sandbox = sandbox().await;
    let home = Home::new(sandbox.root());
    let shop = home.add_shop().await;
    let file = home.directory.path().join("bridge.db.master-key");
    let old: MasterKey = std::fs::read_to_string(&file).unwrap().parse().unwrap();
    let new = MasterKey::generate().unwrap();
    let (old_id, new_id) = (old.id().to_string(), new.id().to_string());

    // Three: a signing secret, a connection, and the check.
    let status = home.json(&["vault", "status"]).await;
    assert_eq!(keys(&status), [(old_id.as_str(), true, true, 3)]);
    assert_eq!(status["rekeying"], Value::Null);

    write(&file, &format!("{}\n{}\n", *new.expose(), *old.expose()));
    let serve = home.serve().await;
    let client = serve.client(shop["apiKey"].as_str().unwrap());
    let header = serde_json::json!({ "value": "sealed under the new one" });
    assert!(client.put("/v1/callback-headers/x-gate", &header).await.status.is_success());
    let status = home.json(&["vault", "status"]).await;
    assert_eq!(keys(&status), [(&*new_id, true, true, 1), (&*old_id, true, false, 3)]);

    let done = home.json(&["vault", "rekey"]).await;
    assert_eq!(keys(&done), [(&*new_id, true, true, 4), (&*old_id, true, false, 0)]);
    assert_eq!(done["rekeying"]["rewritten"], 3);
    assert_eq!(done["rekeying"]["unreadable"], 0);
    assert!(done["rekeying"]["doneAt"].is_string());
    let read = client.get("/v1/callback-settings").await;
    assert_eq!(read.body["headers"][0], "x-gate", "{read:?}");
    assert!(client.get("/v1/connections").await.status.is_success());
    assert!(serve.terminate().await.success());

    write(&file, &old.expose());
    refused(&home, &["the master key does not open this database", &new_id, "x-gate"]).await;
    let said = complaint(&home.run(&["vault", "status"]).await);
    assert!(said.contains("1 in connections.sealed_proof"), "{said}");
    for key in [&old, &new] {
        assert!(!said.contains(key.expose().as_str()));
    }
    write(&file, &new.expose());
    assert!(home.serve().await.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_running_bridge_the_command_seals_anew_by_itself() {
    let home = Home::new("http://127.0.0.1:9");
    home.add_shop().await;
    let file = home.directory.path().join("bridge.db.master-key");
    let old: MasterKey = std::fs::read_to_string(&file).unwrap().parse().unwrap();
    let new = MasterKey::generate().unwrap();
    let both = format!("{},{}", *new.expose(), *old.expose());
    let home = home.environment("ENGAGEMENT_BRIDGE_MASTER_KEY", &both);
    let done = home.json(&["vault", "rekey"]).await;
    assert_eq!(keys(&done)[0].3, 3);
    assert_eq!(keys(&done)[1].3, 0);
}
