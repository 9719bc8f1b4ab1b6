//! What is in the image, and what a container of it can and cannot do.

use serde_json::Value;

use super::{Volume, image, told};
use crate::world::sandbox;

/// The image is no larger than that.
const MOST_BYTES: u64 = 15 * 1_024 * 1_024;

#[tokio::test(flavor = "multi_thread")]
async fn the_image_is_small_and_says_what_it_is() {
    let found: Value = serde_json::from_str(&told(&["image", "inspect", &image()]).await).unwrap();
    let (image, config) = (&found[0], &found[0]["Config"]);
    assert_eq!(config["User"], "65532:65532");
    assert_eq!(config["StopSignal"], "SIGTERM");
    assert_eq!(config["Entrypoint"], serde_json::json!(["/engagement-bridge"]));
    assert!(config["Volumes"]["/data"].is_object(), "{config}");
    let check = serde_json::json!(["CMD", "/engagement-bridge", "healthcheck"]);
    assert_eq!(image["Healthcheck"]["Test"], check, "{image}");
    let label = |name: &str| image["Labels"][format!("org.opencontainers.image.{name}")].clone();
    assert_eq!(label("title"), env!("CARGO_PKG_NAME"));
    assert_eq!(label("version"), env!("CARGO_PKG_VERSION"));
    assert_eq!(label("licenses"), env!("CARGO_PKG_LICENSE"));
    assert_eq!(label("description"), env!("CARGO_PKG_DESCRIPTION"));
    let size = image["Size"].as_u64().unwrap();
    assert!(size < MOST_BYTES, "the image has {size} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_nobody_and_can_write_to_its_volume_alone() {
    let sandbox = sandbox().await;
    let volume = Volume::new(sandbox.root()).await;
    let container = volume.serve().await;
    let process = format!("/proc/{}", container.inspect("{{ .State.Pid }}").await);

    let status = std::fs::read_to_string(format!("{process}/status")).unwrap();
    let line = |name: &str| {
        let found = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        found.unwrap().split_whitespace().collect::<Vec<_>>()
    };
    assert_eq!(line("Uid"), ["65532"; 4]);
    assert_eq!(line("Gid"), ["65532"; 4]);
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(line(set), ["0000000000000000"], "{set}");
    }
    assert_eq!(line("NoNewPrivs"), ["1"]);

    let mounts = std::fs::read_to_string(format!("{process}/mountinfo")).unwrap();
    let options = |place: &str| {
        let mount = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        mount.filter(|fields| fields[4] == place).map(|fields| fields[5].to_owned()).next_back()
    };
    assert!(options("/").unwrap().split(',').any(|it| it == "ro"), "{mounts}");
    assert!(options("/data").unwrap().split(',').any(|it| it == "rw"), "{mounts}");

    // All that there is to be read, and whose it is.
    let files: Vec<_> = walk(&format!("{process}/root"), &["proc", "sys", "dev", "run", "data"]);
    let binary: Vec<_> = files.iter().filter(|it| !it.starts_with("/etc/")).collect();
    assert_eq!(binary, ["/LICENSE", "/engagement-bridge"]);
    container.signal("TERM").await;
    assert_eq!(container.ended().await, Some(0));
}

/// The files below a directory, but for what is in those at its top.
fn walk(root: &str, but: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = vec![String::new()];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(format!("{root}{directory}")).unwrap() {
            let entry = entry.unwrap();
            let path = format!("{directory}/{}", entry.file_name().to_string_lossy());
            if entry.file_type().unwrap().is_dir() {
                if !but.contains(&path.trim_start_matches('/')) {
                    left.push(path);
                }
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}
