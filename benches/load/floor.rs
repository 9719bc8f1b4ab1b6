//! What the machine itself can do at the most, measured in the same run.

use std::io::Write as _;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

use crate::sink::Sink;
use crate::{Table, grouped};

const FOR: Duration = Duration::from_secs(3);

pub(crate) async fn measure(table: &mut Table) {
    let appends = durable_appends();
    table.add(
        "floor: durable appends of 1 KiB, one after the other",
        format!("{}/s", grouped(appends)),
    );
    let (alone, in_batches) = commits();
    table
        .add("floor: SQLite commits of one row, synchronous=FULL", format!("{}/s", grouped(alone)));
    table.add("floor: rows in SQLite commits of 64", format!("{}/s", grouped(in_batches)));
    let posts = bare_posts().await;
    table.add(
        "floor: POSTs that the sink takes from a bare client",
        format!("{}/s", grouped(posts)),
    );
}

fn durable_appends() -> f64 {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let (began, mut count) = (Instant::now(), 0);
    while began.elapsed() < FOR {
        file.write_all(&[7; 1024]).unwrap();
        file.as_file().sync_data().unwrap();
        count += 1;
    }
    f64::from(count) / began.elapsed().as_secs_f64()
}

fn commits() -> (f64, f64) {
    let directory = tempfile::tempdir().unwrap();
    let database = rusqlite::Connection::open(directory.path().join("floor.db")).unwrap();
    database
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             CREATE TABLE rows (id INTEGER PRIMARY KEY, text TEXT);",
        )
        .unwrap();
    let rate = |batch: u32| {
        let (began, mut rows) = (Instant::now(), 0);
        while began.elapsed() < FOR {
            database.execute_batch("BEGIN IMMEDIATE").unwrap();
            for _ in 0..batch {
                let mut insert =
                    database.prepare_cached("INSERT INTO rows (text) VALUES (?1)").unwrap();
                insert.execute(["x".repeat(200)]).unwrap();
            }
            database.execute_batch("COMMIT").unwrap();
            rows += batch;
        }
        f64::from(rows) / began.elapsed().as_secs_f64()
    };
    (rate(1), rate(64))
}

async fn bare_posts() -> f64 {
    let sink = Sink::start().await;
    let began = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..64 {
        let address = sink.address();
        clients.spawn(async move {
            let stream = TcpStream::connect(address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
            drop(TaskTracker::new().spawn(connection));
            while began.elapsed() < FOR {
                let request = Request::post("/hooks")
                    .header("host", "sink")
                    .header("content-type", "application/json")
                    .body(Full::new(Bytes::from_static(&[b' '; 700])))
                    .unwrap();
                let response = sender.send_request(request).await.unwrap();
                response.into_body().collect().await.unwrap();
            }
        });
    }
    clients.join_all().await;
    sink.taken() as f64 / began.elapsed().as_secs_f64()
}
