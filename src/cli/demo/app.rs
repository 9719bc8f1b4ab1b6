//! The app in the demo: creates communities at Graph and registers their operations, by nothing but
//! HTTP, as any app would.

use std::time::Duration;

use anyhow::{Context as _, bail};
use http::header::LOCATION;
use http::{HeaderMap, Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use super::receiver::Delivery;
use crate::cli::desk::client;
use crate::courier::SigningSecret;

const TENANT: &str = "contoso.example";
const CLIENT_ID: &str = "11111111-2222-3333-4444-555555555555";
/// The sandbox believes any.
const CLIENT_SECRET: &str = "a client secret of the demo";

/// An app that uses the bridge.
pub(super) struct App {
    client: reqwest::Client,
    /// Roots, without a slash at the end.
    pub(super) bridge: String,
    pub(super) graph: String,
    pub(super) callback_url: String,
    pub(super) api_key: SecretString,
    signing_secret: Option<SigningSecret>,
    pub(super) tracked: Vec<Tracked>,
}

/// An operation that the app has registered.
pub(super) struct Tracked {
    pub(super) community: String,
    /// Graph's id of it.
    pub(super) graph_id: String,
    /// The bridge's id of it.
    pub(super) id: String,
    pub(super) delivery: Option<Delivery>,
}

impl App {
    pub(super) fn new(bridge: String, graph: String, callback_url: String) -> anyhow::Result<Self> {
        let client = client(None, Duration::from_secs(10))?;
        let (api_key, tracked) = (SecretString::default(), Vec::new());
        Ok(Self { client, bridge, graph, callback_url, api_key, signing_secret: None, tracked })
    }

    /// What an operator does for an app: a caller with a key and a secret, and a connection.
    pub(super) async fn set_up(&mut self, admin_key: &SecretString) -> anyhow::Result<()> {
        let callers = format!("{}/v1/admin/callers", self.bridge);
        let caller = json!({ "name": "demo" });
        let (_, added) = self.send(Method::POST, &callers, admin_key, &caller).await?;
        self.api_key = SecretString::from(text(&added, "apiKey")?);
        self.signing_secret = Some(text(&added, "signingSecret")?.parse()?);
        let connection = json!({
            "name": "contoso",
            "tenant": TENANT,
            "clientId": CLIENT_ID,
            "clientSecret": CLIENT_SECRET,
        });
        let connections = format!("{callers}/demo/connections");
        self.send(Method::POST, &connections, admin_key, &connection).await?;
        Ok(())
    }

    /// What callbacks to this app are signed with.
    pub(super) fn signing_secret(&self) -> anyhow::Result<SigningSecret> {
        self.signing_secret.clone().context("the app has not been set up")
    }

    /// Creates a community at Graph, and registers what Graph answers with the bridge.
    pub(super) async fn create_community(&self, name: &str) -> anyhow::Result<Tracked> {
        let token = self.token().await?;
        let communities = format!("{}/v1.0/employeeExperience/communities", self.graph);
        let community = json!({ "displayName": name, "description": name, "privacy": "public" });
        let (headers, _) = self.send(Method::POST, &communities, &token, &community).await?;
        let location = headers.get(LOCATION).context("Graph gave no Location")?.to_str()?;

        let operations = format!("{}/v1/operations", self.bridge);
        let registration = json!({
            "operation": location,
            "callbackUrl": self.callback_url,
            "clientState": name,
        });
        let (_, tracked) =
            self.send(Method::POST, &operations, &self.api_key, &registration).await?;
        let graph_id = location.rsplit(['\'', '/']).find(|part| part.len() > 2);
        Ok(Tracked {
            community: name.to_owned(),
            graph_id: graph_id.unwrap_or_default().to_owned(),
            id: text(&tracked, "id")?,
            delivery: None,
        })
    }

    /// Notes what the receiver was told.
    pub(super) fn take(&mut self, delivery: Delivery) -> anyhow::Result<()> {
        let found = self.tracked.iter_mut().find(|tracked| tracked.id == delivery.operation);
        let tracked = found.context("a callback came for an operation that was not registered")?;
        tracked.delivery = Some(delivery);
        Ok(())
    }

    async fn token(&self) -> anyhow::Result<SecretString> {
        let endpoint = format!("{}/{TENANT}/oauth2/v2.0/token", self.graph);
        let scope = format!("{}/.default", self.graph);
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", CLIENT_ID),
            ("client_secret", CLIENT_SECRET),
            ("scope", &scope),
        ];
        let answer: Value = self.client.post(endpoint).form(&form).send().await?.json().await?;
        Ok(SecretString::from(text(&answer, "access_token")?))
    }

    async fn send(
        &self,
        method: Method,
        url: &str,
        key: &SecretString,
        body: &Value,
    ) -> anyhow::Result<(HeaderMap, Value)> {
        let request = self.client.request(method, url).bearer_auth(key.expose_secret()).json(body);
        let response = request.send().await.with_context(|| format!("cannot reach {url}"))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let text = response.text().await?;
        if !matches!(status, StatusCode::OK | StatusCode::CREATED | StatusCode::ACCEPTED) {
            bail!("{url} answered {status}: {text}");
        }
        Ok((headers, serde_json::from_str(&text).unwrap_or_default()))
    }
}

fn text(value: &Value, member: &str) -> anyhow::Result<String> {
    let found = value.get(member).and_then(Value::as_str);
    Ok(found.with_context(|| format!("the answer has no `{member}`"))?.to_owned())
}
