//! Whatever answers a poll, an operation ends by one of Graph's three words for it and no other.
//!
//! An input is a status, a line with the `Retry-After`, and the body.

#![no_main]

use engagement_bridge::graph::fuzzing::{Read, read};
use engagement_bridge::operation::{Answer, Renewal, Verdict};
use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

const WORDS: [(&str, Verdict); 3] =
    [("succeeded", Verdict::Succeeded), ("failed", Verdict::Failed), ("skipped", Verdict::Skipped)];

fn verdict(status: &Value) -> Option<Verdict> {
    let word = status.as_str()?;
    WORDS.iter().find(|(known, _)| word.eq_ignore_ascii_case(known)).map(|(_, verdict)| *verdict)
}

fuzz_target!(|input: &[u8]| {
    let mut lines = input.splitn(3, |byte| *byte == b'\n');
    let (Some(status), Some(retry_after), Some(body)) = (lines.next(), lines.next(), lines.next())
    else {
        return;
    };
    let (Ok(status), Ok(retry_after)) = (str::from_utf8(status), str::from_utf8(retry_after))
    else {
        return;
    };
    let Ok(status) = status.parse::<u16>() else { return };
    let retry_after = Some(retry_after).filter(|it| !it.is_empty());
    let ask = |body| read(status, retry_after, body, Renewal::Possible, NOW);

    let Read { answer, operation, code, request_id } = ask(Some(body));
    for word in [code, request_id].into_iter().flatten() {
        assert!((1..=256).contains(&word.len()), "{word:?}");
        assert!(word.bytes().all(|b| b.is_ascii_graphic() || b == b' '), "{word:?}");
    }
    if status != 200 {
        assert_eq!(answer, ask(None).answer, "the body of another status decided something");
        assert_eq!(operation, None);
    }
    match answer {
        Answer::Finished(said) => {
            assert_eq!(status, 200);
            let text = str::from_utf8(body).expect("a callback holds the body, so it is text");
            // What is no number of ours, or half a surrogate pair, no tree of serde_json's holds.
            if let Ok(tree) = serde_json::from_str::<Value>(text) {
                assert_eq!(verdict(&tree["status"]), Some(said));
                assert_eq!(tree["id"].as_str(), operation.as_deref());
            }
        }
        Answer::StillRunning { .. } | Answer::Undecided { .. } => {
            assert_eq!(status, 200);
            if let Ok(tree) = serde_json::from_slice::<Value>(body) {
                assert_eq!(verdict(&tree["status"]), None);
                let word = tree["status"].as_str().unwrap_or_default();
                let is_running = matches!(answer, Answer::StillRunning { .. });
                assert_eq!(word.eq_ignore_ascii_case("running"), is_running);
            }
        }
        _ => assert_eq!(operation, None),
    }

    // Whatever else an operation tells of, its end is seen.
    if let Ok(detail) = str::from_utf8(body) {
        for (word, verdict) in WORDS {
            let told = json!({ "id": "eyJf", "status": word, "statusDetail": detail, detail: {} });
            let told = match detail {
                "id" | "status" | "statusDetail" => continue,
                _ => told.to_string(),
            };
            let read = read(200, retry_after, Some(told.as_bytes()), Renewal::Possible, NOW);
            assert_eq!(read.answer, Answer::Finished(verdict), "{told}");
            assert_eq!(read.operation.as_deref(), Some("eyJf"));
        }
    }
});
