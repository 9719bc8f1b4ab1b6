//! A steady load for as long as is wanted, and what it does to memory, disk, descriptors and lag.

use std::time::{Duration, Instant};

use secrecy::SecretString;
use serde_json::json;

use crate::caller::Connection;
use crate::work::Bench;
use crate::{Table, grouped, percentile};

/// Operations registered in a second.
const PACE: u64 = 100;

const BETWEEN_SAMPLES: Duration = Duration::from_secs(10);

/// No lag, from when an operation is due to be told to when it is, is to be longer than this.
const LONGEST_LAG: Duration = Duration::from_secs(1);

/// Bytes that may be resident.
const MOST_RESIDENT: u64 = 256 << 20;

/// Bytes of the write-ahead log.
const LARGEST_LOG: u64 = 128 << 20;

/// Descriptors that may be open.
const MOST_DESCRIPTORS: usize = 512;

struct Sample {
    resident: u64,
    database: u64,
    log: u64,
    descriptors: usize,
    lag: Duration,
}

/// Fails where something grows that should not, or where the lag is too long.
pub(crate) async fn measure(table: &mut Table, minutes: u64) {
    // What rests is forgotten after five minutes, so that the database stops growing.
    let bench = Bench::set_up(&["--retention", "5m"]).await;
    bench.sink.note_arrivals();
    let samples = tokio::select! {
        samples = watch(&bench, minutes) => samples,
        () = load(&bench) => unreachable!("the load goes on"),
    };
    for (what, values) in [
        ("resident", samples.iter().map(|it| it.resident as f64).collect::<Vec<_>>()),
        ("database", samples.iter().map(|it| it.database as f64).collect()),
        ("write-ahead log", samples.iter().map(|it| it.log as f64).collect()),
        ("descriptors", samples.iter().map(|it| it.descriptors as f64).collect()),
        ("lag", samples.iter().map(|it| it.lag.as_secs_f64() * 1_000.0).collect()),
    ] {
        let most = values.iter().copied().fold(0.0, f64::max);
        let unit = if what == "lag" { "ms" } else { "" };
        table.add(what, format!("{} at the most {} {unit}", line(&values), grouped(most)));
    }
    check(&samples);
    bench.stop().await;
}

async fn load(bench: &Bench) {
    let mut connection = Connection::open(bench.bridges[0].address).await;
    let mut pace = tokio::time::interval(Duration::from_millis(1_000 / PACE));
    loop {
        for body in bench.registrations(
            1_000,
            &json!([{ "status": "running" }, { "http": 503 }, { "status": "succeeded" }]),
        ) {
            pace.tick().await;
            let key: &SecretString = &bench.key;
            let (status, answer) = connection.ask("POST", "/v1/operations", key, &body).await;
            assert!(status == 202 || status == 200, "{answer}");
        }
    }
}

async fn watch(bench: &Bench, minutes: u64) -> Vec<Sample> {
    let (began, mut samples) = (Instant::now(), Vec::new());
    let mut glance = tokio::time::interval(BETWEEN_SAMPLES);
    glance.tick().await;
    while began.elapsed() < Duration::from_mins(minutes) {
        glance.tick().await;
        let size = |name: &str| {
            std::fs::metadata(bench.directory.path().join(name)).map_or(0, |it| it.len())
        };
        let mut lags = bench.sink.take_lags();
        lags.sort_unstable();
        let sample = Sample {
            resident: bench.bridges[0].resident(),
            database: size("bridge.db"),
            log: size("bridge.db-wal"),
            descriptors: bench.bridges[0].descriptors(),
            lag: if lags.is_empty() { Duration::ZERO } else { percentile(&lags, 99) },
        };
        eprintln!(
            "  {:>5} s: {} callbacks, {} MiB resident, {} MiB database, {} MiB log, {} descriptors, \
             p99 of the lag {} ms",
            began.elapsed().as_secs(),
            grouped(bench.sink.taken() as f64),
            sample.resident >> 20,
            sample.database >> 20,
            sample.log >> 20,
            sample.descriptors,
            sample.lag.as_millis()
        );
        samples.push(sample);
    }
    samples
}

/// Values as a row of bars.
fn line(values: &[f64]) -> String {
    const WIDTH: usize = 60;
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = values.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let each = values.len().div_ceil(WIDTH).max(1);
    values
        .chunks(each)
        .map(|some| some.iter().copied().fold(0.0, f64::max) / most)
        .map(|share| {
            BARS.iter().rev().zip(1_u8..).find(|(_, level)| share > 1.0 - f64::from(*level) / 8.0)
        })
        .map(|found| found.map_or(BARS[0], |(bar, _)| *bar))
        .collect()
}

fn check(samples: &[Sample]) {
    for (index, sample) in samples.iter().enumerate() {
        let at = BETWEEN_SAMPLES * u32::try_from(index + 1).unwrap();
        assert!(sample.resident <= MOST_RESIDENT, "{} bytes resident at {at:?}", sample.resident);
        assert!(sample.log <= LARGEST_LOG, "a log of {} bytes at {at:?}", sample.log);
        assert!(sample.descriptors <= MOST_DESCRIPTORS, "{} open at {at:?}", sample.descriptors);
        assert!(sample.lag <= LONGEST_LAG, "a lag of {:?} at {at:?}", sample.lag);
    }
    // What still grows in the last third, after all that there is to warm up, leaks.
    let third = samples.len() / 3;
    let mean = |some: &[Sample]| {
        some.iter().map(|it| it.resident as f64).sum::<f64>() / some.len().max(1) as f64
    };
    let (middle, last) = (mean(&samples[third..2 * third]), mean(&samples[2 * third..]));
    assert!(samples.len() < 9 || last <= middle * 1.2, "memory grows: {middle:.0} to {last:.0}");
}
