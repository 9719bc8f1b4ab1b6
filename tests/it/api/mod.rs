//! The REST API on the wire: what it refuses and how, what it does, and what it says of itself.
//!
//! What is refused stands in tables that read as the specification: a name, the request, and the
//! answer's status, kind of problem, and fields at fault. Each row also leaves the database as it
//! was, to the byte.

mod access;
mod attempts;
mod audit;
mod callback_settings;
mod callback_urls;
mod destinations;
mod document;
mod door;
mod house;
mod keys;
mod listener;
mod lists;
mod malformed;
mod operations;
mod permissions;
mod references;
mod refused_settings;
mod registering;
mod registrations;
mod resends;
mod secure;
mod settings;
mod signing_keys;
mod unknown;

use std::fmt::Write as _;

use reqwest::Method;
use serde_json::{Value, json};

use crate::world::{Answer, Client, World};

/// What a request is about, the request, and how it is refused.
type Row = (&'static str, Request, Refusal);

/// The status, the kind of problem, and each field at fault with the code that says why.
type Refusal = (u16, &'static str, Vec<(&'static str, &'static str)>);

const MALFORMED: Refusal = (400, "malformed-body", Vec::new());
const NO_KEY: Refusal = (401, "unauthenticated", Vec::new());
const FORBIDDEN: Refusal = (403, "forbidden", Vec::new());
const NOT_FOUND: Refusal = (404, "not-found", Vec::new());
const WRONG_METHOD: Refusal = (405, "method-not-allowed", Vec::new());
const CONFLICT: Refusal = (409, "conflict", Vec::new());
const TOO_LARGE: Refusal = (413, "body-too-large", Vec::new());
const WRONG_TYPE: Refusal = (415, "unsupported-media-type", Vec::new());

fn faults<const N: usize>(errors: [(&'static str, &'static str); N]) -> Refusal {
    (422, "invalid-request", errors.to_vec())
}

fn fault(field: &'static str, code: &'static str) -> Refusal {
    faults([(field, code)])
}

/// Something to be asked, well-formed or not.
#[derive(Clone, Debug)]
struct Request {
    method: Method,
    path: String,
    body: Option<Vec<u8>>,
    headers: Vec<(&'static str, String)>,
}

fn ask(method: Method, path: &str) -> Request {
    Request { method, path: path.to_owned(), body: None, headers: Vec::new() }
}

fn get(path: &str) -> Request {
    ask(Method::GET, path)
}

fn delete(path: &str) -> Request {
    ask(Method::DELETE, path)
}

fn post(path: &str, body: &Value) -> Request {
    ask(Method::POST, path).body(body.to_string())
}

fn put(path: &str, body: &Value) -> Request {
    ask(Method::PUT, path).body(body.to_string())
}

impl Request {
    fn body(self, body: impl Into<Vec<u8>>) -> Self {
        Self { body: Some(body.into()), ..self }
    }

    fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    async fn send(&self, client: &Client) -> Answer {
        let headers: Vec<_> = self.headers.iter().map(|(name, it)| (*name, it.as_str())).collect();
        client.send_raw(self.method.clone(), &self.path, self.body.clone(), &headers).await
    }
}

/// A bridge that never polls, so that nothing is written but what requests ask for.
async fn quiet_world() -> World {
    World::begin_with(&["--first-poll-after", "1h"]).await
}

/// Registers an operation that is only ever looked at; the bridge's id of it.
async fn tracked(world: &World) -> String {
    world.track(&json!([{ "status": "running" }])).await
}

/// Registers an operation and waits until its end is told; the bridge's id of it.
async fn settled(world: &World) -> String {
    let told = world.tell(&json!([{ "status": "succeeded" }])).await;
    world.all_is_told().await;
    told.json()["tracking"]["id"].as_str().unwrap().to_owned()
}

/// Each is refused as its row says, and leaves nothing behind.
async fn all_refused(world: &World, client: &Client, table: &[Row]) {
    let mut stored = world.stored();
    let mut complaints = String::new();
    for (name, request, refusal) in table {
        let answer = request.send(client).await;
        let (expected, found) = (shape(refusal), shape_of(&answer));
        if found != expected {
            let Request { method, path, .. } = request;
            writeln!(complaints, "{name}: {method} {path}\n  expected {expected}").unwrap();
            writeln!(complaints, "  found    {found}\n  {}", answer.text).unwrap();
        }
        let before = std::mem::replace(&mut stored, world.stored());
        if stored != before {
            writeln!(complaints, "{name}: left something behind").unwrap();
        }
    }
    assert!(complaints.is_empty(), "\n{complaints}");
}

fn assert_refused(answer: &Answer, refusal: &Refusal) {
    assert_eq!(shape_of(answer), shape(refusal), "{}", answer.text);
}

fn shape((status, kind, errors): &Refusal) -> String {
    let media_type = "application/problem+json";
    format!("{status} {media_type} urn:engagement-bridge:problem:{kind} {errors:?}")
}

/// Status, media type, kind and fields at fault of a problem that is whole.
fn shape_of(answer: &Answer) -> String {
    let media_type = answer.headers.get("content-type").map(|it| it.to_str().unwrap());
    let text = |value: &Value| value.as_str().unwrap_or("nothing").to_owned();
    let body = &answer.body;
    let errors: Vec<_> = body["errors"].as_array().into_iter().flatten().collect();
    let is_whole = body["status"] == answer.status.as_u16()
        && body["title"].is_string()
        && errors.iter().all(|error| error["detail"].as_str().is_some_and(|it| !it.is_empty()));
    let errors: Vec<_> =
        errors.iter().map(|error| (text(&error["field"]), text(&error["code"]))).collect();
    let incomplete = if is_whole { "" } else { ", but not whole" };
    let (status, media_type) = (answer.status.as_u16(), media_type.unwrap_or("no media type"));
    format!("{status} {media_type} {} {errors:?}{incomplete}", text(&body["type"]))
}
