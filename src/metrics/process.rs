//! What the process takes of the machine, under the names that Prometheus' own libraries give it, read
//! from `/proc` when somebody scrapes. Where there is none, it is left out.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use rustix::param::{clock_ticks_per_second, page_size};

/// Reads what `/proc` says of this process.
#[derive(Debug)]
pub(super) struct Process;

/// What proc(5) says in `/proc/self/stat`, times in ticks.
struct Stat {
    cpu_ticks: u64,
    threads: u64,
    started_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Stat {
    fn read() -> Option<Self> {
        Self::parse(&std::fs::read_to_string("/proc/self/stat").ok()?)
    }

    /// The name of the program, which comes second, may hold spaces and parentheses; nothing behind does.
    fn parse(text: &str) -> Option<Self> {
        let (_, behind_name) = text.rsplit_once(") ")?;
        // From the third field on.
        let fields: Vec<&str> = behind_name.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            cpu_ticks: field(14)?.saturating_add(field(15)?),
            threads: field(20)?,
            started_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

/// When the machine was started, in seconds since 1970.
fn booted_at() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/stat").ok()?;
    text.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
}

fn open_files() -> Option<u64> {
    let files = std::fs::read_dir("/proc/self/fd").ok()?.count();
    // Reading them takes one more.
    u64::try_from(files.saturating_sub(1)).ok()
}

fn most_open_files() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

#[expect(clippy::cast_precision_loss, reason = "ticks of a process, far below 2^52")]
fn in_seconds(ticks: u64) -> f64 {
    ticks as f64 / clock_ticks_per_second() as f64
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut write = |name: &str, help: &str, metric: &dyn Written| {
            metric.write(encoder.encode_descriptor(name, help, None, metric.kind())?)
        };
        if let Some(stat) = Stat::read() {
            let cpu = ConstCounter::new(in_seconds(stat.cpu_ticks));
            write("process_cpu_seconds", "CPU seconds of user and system", &cpu)?;
            let resident = stat.resident_pages.saturating_mul(page_size() as u64);
            write("process_resident_memory_bytes", "Resident memory", &ConstGauge::new(resident))?;
            let mapped = ConstGauge::new(stat.virtual_bytes);
            write("process_virtual_memory_bytes", "Virtual memory", &mapped)?;
            write("process_threads", "Threads of the system", &ConstGauge::new(stat.threads))?;
            if let Some(booted_at) = booted_at() {
                let whole = u32::try_from(booted_at).map_or(0.0, f64::from);
                let started = ConstGauge::new(whole + in_seconds(stat.started_ticks));
                write("process_start_time_seconds", "Start, in seconds since 1970", &started)?;
            }
        }
        if let Some(files) = open_files() {
            write("process_open_fds", "Open files and connections", &ConstGauge::new(files))?;
        }
        if let Some(most) = most_open_files() {
            write("process_max_fds", "Files and connections at the most", &ConstGauge::new(most))?;
        }
        Ok(())
    }
}

/// A metric, whichever type its value has.
trait Written {
    fn kind(&self) -> prometheus_client::metrics::MetricType;
    fn write(&self, encoder: prometheus_client::encoding::MetricEncoder<'_>) -> fmt::Result;
}

impl<M: EncodeMetric> Written for M {
    fn kind(&self) -> prometheus_client::metrics::MetricType {
        self.metric_type()
    }

    fn write(&self, encoder: prometheus_client::encoding::MetricEncoder<'_>) -> fmt::Result {
        self.encode(encoder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_program_may_hold_anything() {
        let behind = "S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 7 0 1000 4096 25 0";
        for name in ["engagement-brid", "a b", "a) S 9 (b"] {
            let stat = Stat::parse(&format!("12 ({name}) {behind}")).unwrap();
            let read = (stat.cpu_ticks, stat.threads, stat.started_ticks);
            assert_eq!(read, (200, 7, 1000), "{name}");
            assert_eq!((stat.virtual_bytes, stat.resident_pages), (4096, 25), "{name}");
        }
        assert!(Stat::parse("12 (short) S 1").is_none());
    }

    #[test]
    fn this_process_has_figures() {
        let stat = Stat::read().unwrap();
        assert!(0 < stat.threads && 0 < stat.resident_pages && 0 < stat.started_ticks);
        assert!(booted_at().is_some_and(|at| 1_500_000_000 < at));
        assert!(3 <= open_files().unwrap());
    }
}
