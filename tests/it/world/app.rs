//! An app, or an operator, that talks to the bridge by HTTP.

use std::net::SocketAddr;

use engagement_bridge::courier::SigningSecret;
use engagement_bridge::tls;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use super::PATIENCE;

pub(crate) const CLIENT_ID: &str = "11111111-2222-3333-4444-555555555555";
pub(crate) const SECRET_OF_CLIENT: &str = "client-secret-8Zp4";

/// Whoever has a key.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    root: String,
    pub(crate) key: SecretString,
    signing_secret: Option<SigningSecret>,
}

/// What the bridge answered.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
    /// The text as JSON; null where it is none.
    pub(crate) body: Value,
}

impl Client {
    pub(crate) fn new(bridge: SocketAddr, key: SecretString) -> Self {
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::client_config(None).unwrap())
            .timeout(PATIENCE)
            .build()
            .unwrap();
        Self { http, root: format!("http://{bridge}"), key, signing_secret: None }
    }

    /// By TLS to `localhost`, whose certificate one of the roots (PEM) vouches for.
    pub(crate) fn by_tls(port: u16, roots: &str, key: SecretString) -> Self {
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::client_config(Some(roots.as_bytes())).unwrap())
            .timeout(PATIENCE)
            .build()
            .unwrap();
        Self { http, root: format!("https://localhost:{port}"), key, signing_secret: None }
    }

    /// As an operator, adds a caller; the client is that caller's.
    pub(crate) async fn add_caller(&self, name: &str) -> Self {
        let answer = self.post("/v1/admin/callers", &json!({ "name": name })).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
        let text = |member: &str| answer.body[member].as_str().unwrap().to_owned();
        Self {
            key: SecretString::from(text("apiKey")),
            signing_secret: Some(text("signingSecret").parse().unwrap()),
            ..self.clone()
        }
    }

    /// As an operator, adds a connection to the tenant of the same name.
    pub(crate) async fn add_connection(&self, caller: &str, name: &str) {
        let connection = json!({
            "name": name,
            "tenant": format!("{name}.example"),
            "clientId": CLIENT_ID,
            "clientSecret": SECRET_OF_CLIENT,
            "test": false,
        });
        let path = format!("/v1/admin/callers/{caller}/connections");
        let answer = self.post(&path, &connection).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    }

    /// The same with another key; with an empty one, without any.
    pub(crate) fn with_key(&self, key: &str) -> Self {
        Self { key: SecretString::from(key), ..self.clone() }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.root)
    }

    pub(crate) fn signing_secret(&self) -> SigningSecret {
        self.signing_secret.clone().unwrap()
    }

    /// Registers, and expects 202; the bridge's id of the operation.
    pub(crate) async fn register(&self, registration: &Value) -> String {
        let answer = self.post("/v1/operations", registration).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
        answer.body["id"].as_str().unwrap().to_owned()
    }

    /// Looks at an operation.
    pub(crate) async fn operation(&self, id: &str) -> Value {
        let answer = self.get(&format!("/v1/operations/{id}")).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        answer.body
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, Some(body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::PUT, path, Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, None).await
    }

    pub(crate) async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Answer {
        let body = body.map(Value::to_string);
        self.send_raw(method, path, body.map(String::into_bytes), &[]).await
    }

    /// Sends any bytes as JSON, with more headers, which replace the usual ones.
    pub(crate) async fn send_raw(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
        headers: &[(&'static str, &str)],
    ) -> Answer {
        self.try_send(method, path, body, headers).await.unwrap()
    }

    /// The same, where the bridge may not be there.
    pub(crate) async fn try_send(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
        headers: &[(&'static str, &str)],
    ) -> reqwest::Result<Answer> {
        let mut all = HeaderMap::new();
        let key = self.key.expose_secret();
        if !key.is_empty() {
            all.insert(AUTHORIZATION, format!("Bearer {key}").parse().unwrap());
        }
        if body.is_some() {
            all.insert(CONTENT_TYPE, "application/json".parse().unwrap());
        }
        let mut given = HeaderMap::new();
        for (name, value) in headers {
            given.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        all.extend(given);
        let request = self.http.request(method, self.url(path)).headers(all);
        let request = body.into_iter().fold(request, reqwest::RequestBuilder::body);
        let response = request.send().await?;
        let (status, headers) = (response.status(), response.headers().clone());
        let text = response.text().await?;
        let body = serde_json::from_str(&text).unwrap_or_default();
        Ok(Answer { status, headers, text, body })
    }
}
