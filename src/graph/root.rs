//! Where Graph and its token endpoint are: settings of the operator, never of a caller.

use std::fmt;

use url::Url;

use super::Reference;

/// The one Graph that tokens are sent to: a scheme, a host and a port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GraphRoot {
    origin: Url,
}

/// The one Microsoft Entra that tokens are fetched from: a scheme, a host and a port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LoginRoot {
    origin: Url,
}

/// Why a text is not the root of a service.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidRoot {
    #[error("the root is not a URL; give one such as `https://graph.microsoft.com`")]
    NotAUrl(#[source] url::ParseError),
    #[error("the root is neither an `https` nor an `http` URL")]
    Scheme,
    #[error("the root of a Microsoft cloud must start with `https`, or tokens travel in the clear")]
    InTheClear,
    #[error(
        "the root must be a scheme, a host and a port alone, such as `https://graph.microsoft.com`"
    )]
    MoreThanAnOrigin,
}

/// One of Microsoft's clouds. Tokens of one are worthless in another.
struct Cloud {
    graph: &'static str,
    login: &'static str,
}

/// Hosts from "National cloud deployments" in the documentation of Microsoft Graph.
const CLOUDS: [Cloud; 4] = [
    Cloud { graph: "graph.microsoft.com", login: "login.microsoftonline.com" },
    Cloud { graph: "graph.microsoft.us", login: "login.microsoftonline.us" },
    Cloud { graph: "dod-graph.microsoft.us", login: "login.microsoftonline.us" },
    Cloud { graph: "microsoftgraph.chinacloudapi.cn", login: "login.partner.microsoftonline.cn" },
];

impl GraphRoot {
    /// Reads the operator's setting, such as `https://graph.microsoft.com`.
    ///
    /// Plain `http` is for a sandbox, and refused for the hosts of Microsoft's clouds.
    pub fn parse(text: &str) -> Result<Self, InvalidRoot> {
        Ok(Self { origin: origin(text)? })
    }

    /// Whether this is Graph itself, so that none of its rules may be bent.
    pub fn is_microsoft(&self) -> bool {
        self.cloud().is_some()
    }

    /// Where this Graph's tokens come from, where Microsoft's table says so.
    pub fn login(&self) -> Option<LoginRoot> {
        let login = self.cloud()?.login;
        LoginRoot::parse(&format!("https://{login}")).ok()
    }

    /// What is asked for in a token request: all that the app registration was granted here.
    pub fn scope(&self) -> String {
        format!("{self}/.default")
    }

    /// The address to poll: `{root}/{version}/employeeExperience/engagementAsyncOperations/{id}`.
    ///
    /// The id is one path segment, whatever it holds, so that no reference leads elsewhere.
    pub fn url(&self, reference: &Reference) -> Url {
        let segments = [
            reference.version.as_str(),
            "employeeExperience",
            "engagementAsyncOperations",
            &reference.id,
        ];
        under(&self.origin, &segments)
    }

    pub(super) fn scheme(&self) -> &str {
        self.origin.scheme()
    }

    /// Lower case; IPv6 in brackets.
    pub(super) fn host(&self) -> &str {
        self.origin.host_str().unwrap_or_default()
    }

    pub(super) fn port(&self) -> u16 {
        self.origin.port_or_known_default().unwrap_or_default()
    }

    pub(super) fn has_default_port(&self) -> bool {
        self.origin.port().is_none()
    }

    fn cloud(&self) -> Option<&'static Cloud> {
        CLOUDS.iter().find(|cloud| cloud.graph == absolute_name(&self.origin))
    }
}

impl LoginRoot {
    /// Reads the operator's setting, such as `https://login.microsoftonline.com`.
    pub fn parse(text: &str) -> Result<Self, InvalidRoot> {
        Ok(Self { origin: origin(text)? })
    }

    /// `{root}/{tenant}/oauth2/v2.0/token`.
    pub fn token_endpoint(&self, tenant: &str) -> Url {
        under(&self.origin, &[tenant, "oauth2", "v2.0", "token"])
    }

    /// Who issues the tokens of `tenant`: the `iss` of version 2.0.
    pub fn issuer(&self, tenant: &str) -> String {
        format!("{self}/{tenant}/v2.0")
    }

    /// Where `tenant` says how to deal with it (OpenID Connect Discovery 1.0 §4).
    pub(super) fn discovery(&self, tenant: &str) -> Url {
        under(&self.origin, &[tenant, "v2.0", ".well-known", "openid-configuration"])
    }

    /// Whether `url` is an address under this root.
    pub(super) fn holds(&self, url: &Url) -> bool {
        url.origin() == self.origin.origin()
    }
}

impl fmt::Display for GraphRoot {
    /// Without a slash at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.origin.origin().ascii_serialization())
    }
}

impl fmt::Display for LoginRoot {
    /// Without a slash at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.origin.origin().ascii_serialization())
    }
}

fn origin(text: &str) -> Result<Url, InvalidRoot> {
    let url = Url::parse(text).map_err(InvalidRoot::NotAUrl)?;
    if !matches!(url.scheme(), "https" | "http") {
        return Err(InvalidRoot::Scheme);
    }
    let bare = url.path() == "/"
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    if !bare {
        return Err(InvalidRoot::MoreThanAnOrigin);
    }
    let name = absolute_name(&url);
    let is_microsoft = CLOUDS.iter().any(|cloud| name == cloud.graph || name == cloud.login);
    if is_microsoft && url.scheme() != "https" {
        return Err(InvalidRoot::InTheClear);
    }
    Ok(url)
}

/// The host without the dot of a fully qualified name, which leads to the same machines.
fn absolute_name(url: &Url) -> &str {
    let host = url.host_str().unwrap_or_default();
    host.strip_suffix('.').unwrap_or(host)
}

fn under(origin: &Url, segments: &[&str]) -> Url {
    let mut url = origin.clone();
    // Only a URL without a host has no path, and `origin` lets none of those through.
    if let Ok(mut path) = url.path_segments_mut() {
        path.clear().extend(segments);
    }
    url
}

#[cfg(test)]
mod tests {
    use super::super::ApiVersion;
    use super::*;

    #[test]
    fn each_cloud_of_microsoft_has_its_own_login() {
        let login_of = |graph: &str| GraphRoot::parse(graph).unwrap().login().unwrap().to_string();
        assert_eq!(login_of("https://graph.microsoft.com"), "https://login.microsoftonline.com");
        assert_eq!(login_of("https://GRAPH.microsoft.us/"), "https://login.microsoftonline.us");
        assert_eq!(login_of("https://dod-graph.microsoft.us"), "https://login.microsoftonline.us");
        assert_eq!(
            login_of("https://microsoftgraph.chinacloudapi.cn"),
            "https://login.partner.microsoftonline.cn"
        );
    }

    #[test]
    fn only_the_clouds_of_microsoft_are_microsoft() {
        let is_microsoft = |root: &str| GraphRoot::parse(root).unwrap().is_microsoft();
        assert!(is_microsoft("https://graph.microsoft.com"));
        assert!(is_microsoft("https://graph.microsoft.com:8443"));
        assert!(is_microsoft("https://graph.microsoft.com."));
        assert!(!is_microsoft("https://graph.microsoft.com.example.org"));
        assert!(!is_microsoft("http://127.0.0.1:4010"));
        assert_eq!(GraphRoot::parse("http://127.0.0.1:4010").unwrap().login(), None);
    }

    #[test]
    fn a_root_is_an_origin_and_nothing_else() {
        for (text, why) in [
            ("https://graph.microsoft.com/v1.0", InvalidRoot::MoreThanAnOrigin),
            ("https://graph.microsoft.com/?x=1", InvalidRoot::MoreThanAnOrigin),
            ("https://graph.microsoft.com/#x", InvalidRoot::MoreThanAnOrigin),
            ("https://user@graph.microsoft.com", InvalidRoot::MoreThanAnOrigin),
            ("https://:secret@graph.microsoft.com", InvalidRoot::MoreThanAnOrigin),
            ("http://graph.microsoft.com", InvalidRoot::InTheClear),
            ("http://graph.microsoft.com.", InvalidRoot::InTheClear),
            ("http://login.microsoftonline.com", InvalidRoot::InTheClear),
            ("ftp://graph.microsoft.com", InvalidRoot::Scheme),
            ("graph.microsoft.com", InvalidRoot::NotAUrl(url::ParseError::RelativeUrlWithoutBase)),
            ("https://", InvalidRoot::NotAUrl(url::ParseError::EmptyHost)),
        ] {
            assert_eq!(GraphRoot::parse(text), Err(why.clone()), "{text}");
            assert_eq!(LoginRoot::parse(text), Err(why), "{text}");
        }
    }

    #[test]
    fn addresses_are_built_under_the_root() {
        let graph = GraphRoot::parse("http://[::1]:4010").unwrap();
        let reference = Reference { version: ApiVersion::Beta, id: "a-b_c".to_owned() };
        assert_eq!(
            graph.url(&reference).as_str(),
            "http://[::1]:4010/beta/employeeExperience/engagementAsyncOperations/a-b_c"
        );
        assert_eq!(graph.scope(), "http://[::1]:4010/.default");

        let login = LoginRoot::parse("https://login.microsoftonline.com").unwrap();
        assert_eq!(
            login.token_endpoint("contoso.onmicrosoft.com").as_str(),
            "https://login.microsoftonline.com/contoso.onmicrosoft.com/oauth2/v2.0/token"
        );
    }

    #[test]
    fn an_id_that_was_never_parsed_stays_one_segment() {
        let graph = GraphRoot::parse("https://graph.microsoft.com").unwrap();
        for id in ["../../me", "..", "a/b", "a?b", "a#b", "a\\b", "%2e%2e/me", "@evil.example"] {
            let url = graph.url(&Reference { version: ApiVersion::V1, id: id.to_owned() });
            assert_eq!(url.host_str(), Some("graph.microsoft.com"), "{id}");
            assert_eq!(url.query(), None, "{id}");
            let path = url.path();
            assert!(
                path.starts_with("/v1.0/employeeExperience/engagementAsyncOperations"),
                "{path}"
            );
            assert!(path.matches('/').count() <= 4, "{path}");
        }
    }
}
