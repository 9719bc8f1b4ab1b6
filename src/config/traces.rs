//! Where traces go.

use std::path::PathBuf;

use clap::Args;
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};

use super::{ConfigError, environment, secret_in};

const HEADERS: &str = "ENGAGEMENT_BRIDGE_OTLP_HEADERS";

/// Traces, for a collector that speaks OTLP over HTTP.
#[derive(Args, Clone, Debug)]
pub struct TraceSettings {
    /// Send traces to this collector, by OTLP over HTTP: its root, such as `http://localhost:4318`, to
    /// which `/v1/traces` is added.
    #[arg(long, env = "ENGAGEMENT_BRIDGE_OTLP_ENDPOINT", value_name = "URL", value_parser = endpoint)]
    pub otlp_endpoint: Option<Url>,

    /// A file with headers that the collector wants, such as a key: `name=value`, one to a line or with
    /// commas between. Or give them in `ENGAGEMENT_BRIDGE_OTLP_HEADERS`.
    #[arg(long, env = "ENGAGEMENT_BRIDGE_OTLP_HEADERS_FILE", value_name = "PATH")]
    pub otlp_headers_file: Option<PathBuf>,

    /// The part of operations that is traced, from 0 to 1. Where a registration came with a
    /// `traceparent`, that says whether it is.
    #[arg(
        long,
        env = "ENGAGEMENT_BRIDGE_OTLP_RATIO",
        default_value_t = 1.0,
        value_name = "RATIO",
        value_parser = ratio
    )]
    pub otlp_ratio: f64,
}

/// Where traces go, and what with.
#[derive(Clone, Debug)]
pub struct Collector {
    pub url: Url,
    /// Marked as sensitive.
    pub headers: HeaderMap,
    pub ratio: f64,
}

impl TraceSettings {
    /// `None` where nothing is traced.
    pub(super) fn collector(&self) -> Result<Option<Collector>, ConfigError> {
        let Some(url) = self.otlp_endpoint.clone() else { return Ok(None) };
        let text = match &self.otlp_headers_file {
            Some(path) => Some(secret_in(path)?),
            None => environment(HEADERS),
        };
        let headers = text.map(|text| headers(&text)).transpose()?.unwrap_or_default();
        Ok(Some(Collector { url, headers, ratio: self.otlp_ratio }))
    }
}

/// Says nothing of what it cannot read, which may be a key.
fn headers(text: &SecretString) -> Result<HeaderMap, ConfigError> {
    let mut headers = HeaderMap::new();
    let pairs = text.expose_secret().split([',', '\n']).map(str::trim).filter(|it| !it.is_empty());
    for pair in pairs {
        let (name, value) = pair.split_once('=').ok_or(ConfigError::OtlpHeaders)?;
        let name = HeaderName::try_from(name.trim()).map_err(|_| ConfigError::OtlpHeaders)?;
        let mut value =
            HeaderValue::try_from(value.trim()).map_err(|_| ConfigError::OtlpHeaders)?;
        value.set_sensitive(true);
        headers.append(name, value);
    }
    Ok(headers)
}

fn endpoint(text: &str) -> Result<Url, String> {
    let hint = "give the root of a collector, such as http://localhost:4318";
    let mut url = Url::parse(text).map_err(|_| hint.to_owned())?;
    let is_root = matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    if !is_root {
        return Err(hint.to_owned());
    }
    let path = format!("{}/v1/traces", url.path().trim_end_matches('/'));
    url.set_path(&path);
    Ok(url)
}

fn ratio(text: &str) -> Result<f64, String> {
    let ratio = text.parse::<f64>().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
    ratio.ok_or_else(|| "give a number from 0 to 1".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_is_named_by_its_root() {
        let url = |text| endpoint(text).map(|url| url.to_string());
        assert_eq!(url("http://localhost:4318").unwrap(), "http://localhost:4318/v1/traces");
        assert_eq!(url("https://o.example/otlp/").unwrap(), "https://o.example/otlp/v1/traces");
        for text in ["localhost:4318", "ftp://o.example", "http://u:p@o.example", "http://o/?a=b"] {
            assert!(url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn headers_are_kept_from_sight_and_faults_in_them_too() {
        let read = headers(&SecretString::from("api-key=planted-1=2, x-org=7\n\nx-more = y"));
        let read = read.unwrap();
        assert_eq!(read["api-key"], "planted-1=2");
        assert_eq!(
            (&read["x-org"], &read["x-more"]),
            (&"7".parse().unwrap(), &"y".parse().unwrap())
        );
        assert!(!format!("{read:?}").contains("planted"), "{read:?}");
        let error = headers(&SecretString::from("planted-no-pair")).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("planted"), "{error:?}");
    }
}
