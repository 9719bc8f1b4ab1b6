//! Whoever keeps containers alive asks the image's own health check.

use std::time::Duration;

use tokio::time::Instant;

use super::{Container, Volume, ordered};
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
