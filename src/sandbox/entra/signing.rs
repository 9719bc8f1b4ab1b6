//! Tokens for apps, which their apps can verify: signed by keys that the tenant publishes.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use ring::rand::SystemRandom;
use ring::rsa::PublicKeyComponents;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use serde_json::{Value, json};

/// Keys that are no secret, for anybody can have a sandbox sign whatever they like. Made beforehand,
/// since making an RSA key takes seconds and a library that nothing else here needs.
const KEYS: [&[u8]; 3] =
    [include_bytes!("keys/1.pk8"), include_bytes!("keys/2.pk8"), include_bytes!("keys/3.pk8")];

/// Which keys sign and which are published.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::sandbox) struct Signing {
    /// How often the key was changed.
    rollovers: usize,
    /// Whether only the newest key is published.
    is_alone: bool,
}

/// A token of version 2.0 for an app, as who asks for it wants it.
#[derive(Clone, Debug)]
pub struct SignInToken {
    /// The directory that issues it: a GUID.
    pub tenant: String,
    /// The client id of the app that it is for.
    pub audience: String,
    /// The client id of the app that gets it.
    pub app: String,
    /// The object id of the user, or of the app itself where it comes in its own name.
    pub object_id: String,
    pub grants: Grants,
}

/// What the app may do at the other one.
#[derive(Clone, Debug)]
pub enum Grants {
    /// In the name of a user: `scp`.
    Scopes(Vec<String>),
    /// In its own name: `roles`.
    Roles(Vec<String>),
}

impl Signing {
    /// Signs by another key from now on. Those of before are published beside it, unless they are
    /// withdrawn.
    pub(in crate::sandbox) fn roll_over(&mut self, withdraw: bool) {
        self.rollovers += 1;
        self.is_alone = withdraw;
    }

    /// What a tenant publishes (RFC 7517), with the issuer of each key as Entra adds it.
    pub(super) fn published(self, issuer: &str) -> Value {
        let oldest = if self.is_alone { self.rollovers } else { self.rollovers.saturating_sub(1) };
        let keys = (oldest..=self.rollovers).filter_map(|number| {
            let components: PublicKeyComponents<Vec<u8>> = key(number)?.public().into();
            let kid = kid(number);
            let n = URL_SAFE_NO_PAD.encode(components.n);
            let e = URL_SAFE_NO_PAD.encode(components.e);
            Some(json!({
                "kty": "RSA", "use": "sig", "kid": kid, "x5t": kid, "n": n, "e": e,
                "issuer": issuer,
            }))
        });
        json!({ "keys": keys.collect::<Vec<_>>() })
    }

    /// The token itself. `None` where the system has no randomness or a key is none.
    pub(in crate::sandbox) fn sign(
        self,
        token: &SignInToken,
        root: &str,
        unique: &str,
        (now, until): (Timestamp, Timestamp),
    ) -> Option<String> {
        let header = json!({"typ": "JWT", "alg": "RS256", "kid": kid(self.rollovers)});
        let tenant = token.tenant.to_ascii_lowercase();
        let mut claims = json!({
            "aud": token.audience.to_ascii_lowercase(), "iss": issuer(root, &tenant),
            "iat": now.as_second(), "nbf": now.as_second(), "exp": until.as_second(),
            "azp": token.app.to_ascii_lowercase(), "azpacr": "1", "oid": token.object_id,
            "sub": token.object_id, "tid": tenant, "uti": unique, "ver": "2.0",
        });
        match &token.grants {
            Grants::Scopes(words) => claims["scp"] = json!(words.join(" ")),
            Grants::Roles(words) if words.is_empty() => {}
            Grants::Roles(words) => claims["roles"] = json!(words),
        }
        let [header, claims] = [header, claims].map(|it| URL_SAFE_NO_PAD.encode(it.to_string()));
        let text = format!("{header}.{claims}");
        let key = key(self.rollovers)?;
        let mut signature = vec![0; key.public().modulus_len()];
        key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature).ok()?;
        Some(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

/// The `iss` of a tenant's tokens.
pub(super) fn issuer(root: &str, tenant: &str) -> String {
    format!("{root}/{tenant}/v2.0")
}

fn kid(number: usize) -> String {
    format!("sandbox-{number}")
}

fn key(number: usize) -> Option<RsaKeyPair> {
    RsaKeyPair::from_pkcs8(KEYS.get(number % KEYS.len())?).ok()
}
