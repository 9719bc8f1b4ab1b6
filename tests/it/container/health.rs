//! Whoever keeps containers alive asks the image's own health check.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use tokio::time::Instant;

use super::{Container, Volume, ordered};
use crate::support::certificates::Authority;
use crate::world::sandbox;

/// Asks once, as Docker and its like do every few seconds.
async fn is_healthy(container: &Container) -> bool {
    ordered(&["healthcheck", "run", &container.name]).await.status.success()
}

#[tokio::test(flavor = "multi_thread")]
async fn health_turns_when_the_bridge_hangs_and_returns_with_it() {
    let sandbox = sandbox().await;
    let volume = Volume::new(sandbox.root()).await;
    let container = volume.serve().await;
    assert!(is_healthy(&container).await);
    assert_eq!(container.inspect("{{ .State.Health.Status }}").await, "healthy");

    container.signal("STOP").await;
    // Failures do not count in the first 30 s, and then as many in a row as the image allows.
    let give_up_at = Instant::now() + Duration::from_mins(1);
    while container.inspect("{{ .State.Health.Status }}").await != "unhealthy" {
        assert!(!is_healthy(&container).await);
        assert!(Instant::now() < give_up_at, "health does not turn");
    }

    container.signal("CONT").await;
    assert!(is_healthy(&container).await);
    assert_eq!(container.inspect("{{ .State.Health.Status }}").await, "healthy");
    container.signal("TERM").await;
    assert_eq!(container.ended().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_asked_by_https_where_the_bridge_has_a_certificate() {
    let files = tempfile::tempdir().unwrap();
    let (chain, key) = Authority::new().issue(&["rsa:2048"]);
    for (name, text) in [("tls.crt", chain), ("tls.key", key)] {
        let path = files.path().join(name);
        std::fs::write(&path, text).unwrap();
        // For the nobody that the image runs as.
        std::fs::set_permissions(&path, Permissions::from_mode(0o444)).unwrap();
    }
    std::fs::set_permissions(files.path(), Permissions::from_mode(0o755)).unwrap();
    let sandbox = sandbox().await;
    let volume = Volume::new(sandbox.root())
        .await
        .option(format!("--volume={}:/tls:ro", files.path().display()))
        .option("--env=ENGAGEMENT_BRIDGE_TLS_CERTIFICATE_FILE=/tls/tls.crt".to_owned())
        .option("--env=ENGAGEMENT_BRIDGE_TLS_KEY_FILE=/tls/tls.key".to_owned());
    let container = volume.serve().await;
    assert!(container.serve.log().contains("listening on https://"), "{}", container.serve.log());
    assert!(is_healthy(&container).await);
    assert_eq!(container.inspect("{{ .State.Health.Status }}").await, "healthy");
    // And so does a command that has to find it.
    container.json(&[], &["callers", "add", "shop", "--json"]).await;
    container.signal("TERM").await;
    assert_eq!(container.ended().await, Some(0));
}
