//! Every way to hold a Graph identity, from the connection to the verified callback.

mod certificates;
mod examined;
mod kinds;
mod shared;
mod statements;

use std::sync::Arc;

use engagement_bridge::clock::SystemClock;
use engagement_bridge::sandbox::{Client as Registered, Options, Sandbox};
use serde_json::{Value, json};

use crate::world::{CLIENT_ID, SPEED};

/// The tenant of the connections here.
const TENANT: &str = "contoso.example";

async fn sandbox(options: Options) -> Sandbox {
    let options = Options { speed: SPEED, ..options };
    Sandbox::start(options, Arc::new(SystemClock)).await.unwrap()
}

/// Whose secret the sandbox looks at.
fn registered(secret: &str) -> Registered {
    Registered { tenant: TENANT.to_owned(), client_id: CLIENT_ID.to_owned(), secret: secret.into() }
}

/// A connection `other` that proves itself by what `proof` says.
fn connection(proof: &Value) -> Value {
    let mut connection = json!({ "name": "other", "tenant": TENANT, "clientId": CLIENT_ID });
    let members = proof.as_object().unwrap().clone();
    connection.as_object_mut().unwrap().extend(members);
    connection
}
