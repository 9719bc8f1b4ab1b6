use super::*;

#[test]
fn a_scraper_gets_what_it_reads() {
    let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;\
        version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    assert_eq!(Exposition::accepted_by(prometheus), Exposition::OpenMetrics);
    for accept in ["", "*/*", "text/plain", "text/plain;version=0.0.4,*/*;q=0.1"] {
        assert_eq!(Exposition::accepted_by(accept), Exposition::Prometheus, "{accept}");
    }
    let refused = "application/openmetrics-text; version=1.0.0; q=0, text/plain";
    assert_eq!(Exposition::accepted_by(refused), Exposition::Prometheus);
}

#[test]
fn both_formats_tell_the_same() {
    let metrics = Metrics::new();
    metrics.work.settled("succeeded");
    metrics.api.answered("GET", "/v1/operations/{id}", 404, std::time::Duration::from_millis(2));
    let text = metrics.write(Exposition::Prometheus).unwrap();
    let open = metrics.write(Exposition::OpenMetrics).unwrap();
    let samples = |text: &str| {
        // They do not agree about how bounds of buckets are written.
        let is_alike = |it: &&str| !it.starts_with(['#', 'p']) && !it.contains("_bucket{");
        let mut lines: Vec<_> = text.lines().filter(is_alike).map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    };
    assert_eq!(samples(&text), samples(&open));
    assert!(open.ends_with("# EOF\n") && !text.contains("# EOF"));
    let version = env!("CARGO_PKG_VERSION");
    for line in [
        "engagement_bridge_outcomes_total{outcome=\"succeeded\"} 1",
        "engagement_bridge_outcomes_total{outcome=\"gone\"} 0",
        "engagement_bridge_http_requests_total{method=\"GET\",route=\"/v1/operations/{id}\",status=\"404\"} 1",
        &format!("engagement_bridge_build_info{{version=\"{version}\"}} 1"),
        "# TYPE engagement_bridge_outcomes_total counter",
    ] {
        assert!(text.lines().any(|it| it == line), "{line} is not in\n{text}");
    }
    assert!(text.lines().any(|it| it.starts_with("process_cpu_seconds_total ")), "{text}");
}
