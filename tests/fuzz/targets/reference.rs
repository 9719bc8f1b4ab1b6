//! Whatever a caller writes for an operation leads to that operation at the operator's Graph, or is
//! refused.

#![no_main]

use std::sync::LazyLock;

use engagement_bridge::graph::{GraphRoot, Reference};
use libfuzzer_sys::fuzz_target;

static ROOTS: LazyLock<[GraphRoot; 3]> = LazyLock::new(|| {
    ["https://graph.microsoft.com", "http://127.0.0.1:4010", "https://[2001:db8::1]:8443"]
        .map(|root| GraphRoot::parse(root).unwrap())
});

fuzz_target!(|text: &str| {
    let read = ROOTS.each_ref().map(|root| Reference::parse(text, root));
    for (root, read) in ROOTS.iter().zip(&read) {
        let reference = match read {
            Ok(reference) => reference,
            Err(refused) => {
                assert!(!refused.as_str().is_empty());
                continue;
            }
        };
        let id = &reference.id;
        assert!((1..=512).contains(&id.len()));
        assert!(id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'), "{id}");
        assert!(text.contains(id.as_str()), "{id} is not what was written");
        let version = reference.version.as_str();
        if text != id {
            assert!(text.to_ascii_lowercase().contains(version), "{version} was not written");
        }

        let path = reference.path();
        let url = root.url(reference);
        assert_eq!(url.as_str(), format!("{root}{path}"));
        let quoted = format!("/{version}/employeeExperience/engagementAsyncOperations('{id}')");
        for same in [&path, url.as_str(), &quoted, &format!("{root}{quoted}")] {
            assert_eq!(Reference::parse(same, root).as_ref(), Ok(reference), "{same}");
        }
    }
    // An absolute URL names one Graph, and nothing else depends on which one it is.
    if text.contains("://") {
        assert!(read.iter().filter(|it| it.is_ok()).count() <= 1);
    } else {
        assert!(read.iter().all(|it| *it == read[0]));
    }
});
