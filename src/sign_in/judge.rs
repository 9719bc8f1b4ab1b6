//! Whether a token is to be believed: pure, and time is a parameter.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use uuid::Uuid;

use super::keys::{Key, KeySet};
use super::token::{Claims, Token};

/// What a token must say.
#[derive(Clone, Debug)]
pub struct Rules {
    client_id: String,
    tenants: BTreeSet<String>,
    login_root: String,
}

/// Who came, by a token that is to be believed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Visitor {
    /// The directory (`tid`): a GUID, lower case.
    pub tenant: String,
    /// The user, or the app itself, in that directory (`oid`): a GUID, lower case. With the tenant it
    /// names somebody for good, which no name or address does.
    pub object_id: String,
    /// The client id of the app that got the token (`azp`): a GUID, lower case.
    pub app: String,
    /// Whether the app comes in the name of a user rather than in its own.
    pub is_user: bool,
    pub rights: Rights,
    /// When the token ceases to be good.
    pub expires_at: Timestamp,
}

/// What the token lets its holder do here.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Rights {
    /// `Operations.Register`
    pub register: bool,
    /// `Operations.Read`
    pub read: bool,
    /// `Operations.Manage`
    pub manage: bool,
}

/// Why a token is not to be believed.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, thiserror::Error)]
pub enum Refusal {
    #[error("it is longer than 16 KiB")]
    TooLong,
    #[error("it is not a JSON Web Token of Microsoft Entra")]
    Malformed,
    #[error("it is not signed by RS256")]
    Algorithm,
    #[error(
        "it is meant for Microsoft Graph and not for this API: hand it in as `accessToken`, or ask Entra \
         for one with a scope of this API"
    )]
    ForGraph,
    #[error("it is meant for another app: its `aud` must be the client id of this API")]
    Audience,
    #[error(
        "it is a token of version 1.0: set `requestedAccessTokenVersion` to 2 in the manifest of this \
         API's app registration"
    )]
    Version,
    #[error("its tenant may not sign in here")]
    Tenant,
    #[error("its issuer is not its tenant")]
    Issuer,
    #[error("it does not say who holds it (`oid` and `azp`)")]
    Nobody,
    #[error("it has expired")]
    Expired,
    #[error("it is not valid yet")]
    NotYetValid,
    #[error(
        "it grants nothing here: a user's needs one of `Operations.Register`, `Operations.Read` and \
         `Operations.Manage` in `scp`, an app's in `roles`"
    )]
    NoRights,
    #[error("it is signed by a key that its tenant does not publish")]
    UnknownKey,
    #[error("the key that it is signed by belongs to another issuer")]
    KeyOfAnother,
    #[error("its signature is not that of its key")]
    Signature,
}

/// Graph's own app, by its client id and by its addresses in Microsoft's clouds.
const GRAPH: [&str; 5] = [
    "00000003-0000-0000-c000-000000000000",
    "https://graph.microsoft.com",
    "https://graph.microsoft.us",
    "https://dod-graph.microsoft.us",
    "https://microsoftgraph.chinacloudapi.cn",
];

/// How far the clocks of the issuer and of this machine may be apart.
const LEEWAY: Duration = Duration::from_mins(1);

impl Rules {
    /// For tokens that were made for the app `client_id` in one of `tenants`, by the authority at
    /// `login_root`, which is written without a slash at its end.
    pub fn new(
        client_id: Uuid,
        tenants: impl IntoIterator<Item = Uuid>,
        login_root: impl Into<String>,
    ) -> Self {
        let tenants = tenants.into_iter().map(|tenant| tenant.to_string()).collect();
        Self { client_id: client_id.to_string(), tenants, login_root: login_root.into() }
    }

    pub(super) fn client_id(&self) -> &str {
        &self.client_id
    }

    pub(super) fn tenants(&self) -> impl Iterator<Item = &str> {
        self.tenants.iter().map(String::as_str)
    }

    fn issuer(&self, tenant: &str) -> String {
        format!("{}/{tenant}/v2.0", self.login_root)
    }
}

/// Judges all that a token says, so that it need only be genuine to be believed.
///
/// Before the signature, which takes the keys of a tenant that is allowed, and because whoever brings
/// the wrong token is told so though its key is none of ours. Nothing but refusals follows from it.
pub(super) fn claims(rules: &Rules, token: &Token<'_>, now: Timestamp) -> Result<Visitor, Refusal> {
    let claims = &token.claims;
    if token.header.alg != "RS256" || token.header.crit.is_some() {
        return Err(Refusal::Algorithm);
    }
    if GRAPH.contains(&claims.aud.trim_end_matches('/')) {
        return Err(Refusal::ForGraph);
    }
    // The audience of version 1.0 is the app's URI, which says less than the version does.
    if claims.ver != "2.0" {
        return Err(Refusal::Version);
    }
    if claims.aud != rules.client_id {
        return Err(Refusal::Audience);
    }
    let tenant = guid(claims.tid.as_deref()).ok_or(Refusal::Tenant)?;
    if !rules.tenants.contains(&tenant) {
        return Err(Refusal::Tenant);
    }
    if claims.iss != rules.issuer(&tenant) {
        return Err(Refusal::Issuer);
    }
    let expires_at = Timestamp::from_second(claims.exp).map_err(|_| Refusal::Malformed)?;
    if later(expires_at, LEEWAY) <= now {
        return Err(Refusal::Expired);
    }
    if let Some(not_before) = claims.nbf {
        let not_before = Timestamp::from_second(not_before).map_err(|_| Refusal::Malformed)?;
        if later(now, LEEWAY) < not_before {
            return Err(Refusal::NotYetValid);
        }
    }
    let (is_user, rights) = rights(claims)?;
    let object_id = guid(claims.oid.as_deref()).ok_or(Refusal::Nobody)?;
    let app = guid(claims.azp.as_deref()).ok_or(Refusal::Nobody)?;
    Ok(Visitor { tenant, object_id, app, is_user, rights, expires_at })
}

/// Judges whether a token is genuine: whether it was signed by a key that may sign for its tenant.
pub(super) fn signature(rules: &Rules, token: &Token<'_>, keys: &KeySet) -> Result<(), Refusal> {
    let tenant = guid(token.claims.tid.as_deref()).ok_or(Refusal::Tenant)?;
    let issuer = rules.issuer(&tenant);
    let may_sign = |key: &&Key| {
        let its = key.issuer.as_ref();
        its.is_none_or(|its| its.replace("{tenantid}", &tenant) == issuer)
    };
    let mut named = keys.named(&token.header.kid).peekable();
    if named.peek().is_none() {
        return Err(Refusal::UnknownKey);
    }
    let key = named.find(may_sign).ok_or(Refusal::KeyOfAnother)?;
    let key = RsaPublicKeyComponents { n: &key.modulus, e: &key.exponent };
    let verified = key.verify(&RSA_PKCS1_2048_8192_SHA256, token.signed, &token.signature);
    verified.map_err(|_| Refusal::Signature)
}

/// Whether it is a user who comes, and with which rights.
///
/// Only a token that was made in a user's name has `scp`. What `roles` the user has in the app
/// besides is not what the user let the app do.
fn rights(claims: &Claims) -> Result<(bool, Rights), Refusal> {
    let scopes = claims.scp.as_deref().map(|words| words.split(' ').collect::<Vec<_>>());
    let is_user = scopes.is_some();
    let words = scopes.unwrap_or_else(|| claims.roles.iter().map(String::as_str).collect());
    let rights = Rights {
        register: words.contains(&"Operations.Register"),
        read: words.contains(&"Operations.Read"),
        manage: words.contains(&"Operations.Manage"),
    };
    if rights == Rights::default() { Err(Refusal::NoRights) } else { Ok((is_user, rights)) }
}

/// A GUID as we write it: with hyphens, in lower case.
fn guid(text: Option<&str>) -> Option<String> {
    let text = text.filter(|text| text.len() == 36)?;
    Uuid::try_parse(text).ok().map(|guid| guid.to_string())
}

fn later(time: Timestamp, span: Duration) -> Timestamp {
    time.checked_add(span).unwrap_or(Timestamp::MAX)
}
