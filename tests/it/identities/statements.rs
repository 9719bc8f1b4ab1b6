//! The sandbox takes a signed statement only where all of it holds, so that a bridge that it believes
//! is one that Entra would.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use engagement_bridge::sandbox::{Options, Sandbox};
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding, RsaKeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{TENANT, sandbox};
use crate::support::certificates::{Made, today};
use crate::world::CLIENT_ID;

struct Statement {
    header: Value,
    claims: Value,
}

impl Statement {
    fn right(sandbox: &Sandbox, made: &Made, jti: &str) -> Self {
        let now = today().as_second();
        let thumbprint = URL_SAFE_NO_PAD.encode(Sha256::digest(made.der()));
        Self {
            header: json!({ "alg": "PS256", "typ": "JWT", "x5t#S256": thumbprint }),
            claims: json!({
                "aud": format!("{}/{TENANT}/oauth2/v2.0/token", sandbox.root()),
                "iss": CLIENT_ID, "sub": CLIENT_ID, "jti": jti,
                "nbf": now, "exp": now + 600,
            }),
        }
    }

    fn signed(&self, made: &Made, padding: &'static dyn RsaEncoding) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(&self.header), part(&self.claims));
        let key = PrivatePkcs8KeyDer::from_pem_slice(made.key.as_bytes()).unwrap();
        let key = RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()).unwrap();
        let mut signature = vec![0; key.public().modulus_len()];
        key.sign(padding, &SystemRandom::new(), message.as_bytes(), &mut signature).unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// The number behind `AADSTS`; 0 where a token is handed out.
async fn judged(sandbox: &Sandbox, assertion: &str) -> u64 {
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(engagement_bridge::tls::client_config(None).unwrap())
        .build()
        .unwrap();
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", CLIENT_ID),
        ("scope", "https://graph.microsoft.com/.default"),
        ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
        ("client_assertion", assertion),
    ];
    let url = format!("{}/{TENANT}/oauth2/v2.0/token", sandbox.root());
    let answer = client.post(url).form(&form).send().await.unwrap();
    let body: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    if body["access_token"].is_string() {
        return 0;
    }
    assert_eq!(body["error"], "invalid_client", "{body}");
    body["error_codes"][0].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_is_believed_only_if_all_of_it_is_right_and_none_other_has_its_name() {
    let sandbox = sandbox(Options::default()).await;
    let (made, other) = (Made::rsa(), Made::rsa());
    let right = Statement::right(&sandbox, &made, "1").signed(&made, &RSA_PSS_SHA256);
    assert_eq!(judged(&sandbox, &right).await, 700_027, "before the certificate is known");
    sandbox.upload_certificate(TENANT, CLIENT_ID, &made.der()).unwrap();
    assert_eq!(judged(&sandbox, &right).await, 0);
    assert_eq!(judged(&sandbox, &right).await, 0, "as long as it lasts");

    let past = today().as_second() - 3_600;
    let faults: [(&str, Value, u64); 8] = [
        ("/claims/aud", json!("https://elsewhere.example"), 700_023),
        ("/claims/iss", json!("somebody"), 700_021),
        ("/claims/sub", json!("somebody"), 700_021),
        ("/claims/exp", json!(past), 700_024),
        ("/claims/nbf", json!(past + 7_200), 700_024),
        ("/claims/jti", json!("1"), 700_027),
        ("/header/alg", json!("RS256"), 700_027),
        ("/header/x5t#S256", json!("AAAA"), 700_027),
    ];
    for (number, (place, value, refusal)) in faults.into_iter().enumerate() {
        let mut statement = Statement::right(&sandbox, &made, &format!("fault {number}"));
        let (half, member) = place.trim_start_matches('/').split_once('/').unwrap();
        let half = if half == "header" { &mut statement.header } else { &mut statement.claims };
        half[member] = value;
        let assertion = statement.signed(&made, &RSA_PSS_SHA256);
        assert_eq!(judged(&sandbox, &assertion).await, refusal, "{place}");
    }
    let statement = Statement::right(&sandbox, &made, "2");
    assert_eq!(judged(&sandbox, &statement.signed(&other, &RSA_PSS_SHA256)).await, 700_027);
    assert_eq!(judged(&sandbox, &statement.signed(&made, &RSA_PKCS1_SHA256)).await, 700_027);
    assert_eq!(judged(&sandbox, "no.statement.at-all").await, 50_027);
    assert_eq!(judged(&sandbox, &statement.signed(&made, &RSA_PSS_SHA256)).await, 0);
}
