//! What was signed verifies, and nothing else does.
//!
//! An input is a line each with a secret, an id, a timestamp and a signature, and the body.

#![no_main]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use engagement_bridge::courier::SigningSecret;
use engagement_bridge::courier::signing::{SignedHeaders, VerifyError, sign, verify};
use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;

/// The secret with another first byte.
fn other(secret: &SigningSecret) -> SigningSecret {
    let mut bytes = STANDARD.decode(&secret.expose()["whsec_".len()..]).unwrap();
    bytes[0] ^= 1;
    format!("whsec_{}", STANDARD.encode(bytes)).parse().unwrap()
}

fuzz_target!(|input: &[u8]| {
    let mut lines = input.splitn(5, |byte| *byte == b'\n');
    let mut line = || lines.next().and_then(|line| str::from_utf8(line).ok());
    let (Some(text), Some(id), Some(timestamp), Some(signature)) = (line(), line(), line(), line())
    else {
        return;
    };
    let body = lines.next().unwrap_or_default();
    let Ok(secret) = text.parse::<SigningSecret>() else { return };
    assert_eq!(secret.expose().as_str(), text, "two texts are one secret");
    assert!(!format!("{secret:?}").contains(&text[6..]));

    let headers = |id, timestamp, signature| SignedHeaders {
        id: Some(id),
        timestamp: Some(timestamp),
        signature: Some(signature),
    };
    let Ok(sent_at) = timestamp.parse::<i64>() else {
        let as_given = headers(id, timestamp, signature);
        let verdict = verify(&secret, as_given, body, Timestamp::UNIX_EPOCH);
        assert_eq!(verdict, Err(VerifyError::Timestamp));
        return;
    };
    // Whatever the time of the message, it is judged at any time without harm.
    let as_given = headers(id, timestamp, signature);
    for now in [Timestamp::MIN, Timestamp::UNIX_EPOCH, Timestamp::MAX] {
        if now.as_second().abs_diff(sent_at) > 300 {
            assert!(verify(&secret, as_given, body, now).is_err());
        }
    }
    let Ok(now) = Timestamp::from_second(sent_at) else { return };

    let canonical = sent_at.to_string();
    let code = sign(std::slice::from_ref(&secret), id, sent_at, body);
    if verify(&secret, as_given, body, now).is_ok() {
        assert!(signature.split(' ').any(|entry| entry == code), "{signature} passed for {code}");
    }
    let both = sign(&[other(&secret), secret.clone()], id, sent_at, body);
    let (beside_others, renamed) = (format!("v1a,x v1,x {both} v1,"), format!("{id}x"));
    for signature in [&code, &both, &beside_others] {
        let signed = headers(id, &canonical, signature);
        assert_eq!(verify(&secret, signed, body, now), Ok(()));
        let mut changed = body.to_vec();
        changed.push(0);
        assert_eq!(verify(&secret, signed, &changed, now), Err(VerifyError::Mismatch));
        for place in [0, body.len() / 2, body.len().saturating_sub(1)] {
            let mut changed = body.to_vec();
            let Some(byte) = changed.get_mut(place) else { continue };
            *byte ^= 1 << (place % 8);
            assert_eq!(verify(&secret, signed, &changed, now), Err(VerifyError::Mismatch));
            changed.remove(place);
            assert_eq!(verify(&secret, signed, &changed, now), Err(VerifyError::Mismatch));
        }
        let renamed = headers(&renamed, &canonical, signature);
        assert_eq!(verify(&secret, renamed, body, now), Err(VerifyError::Mismatch));
    }
    let signed = headers(id, &canonical, &code);
    assert_eq!(verify(&other(&secret), signed, body, now), Err(VerifyError::Mismatch));
});
