use proptest::prelude::*;

use super::InvalidReference as Bad;
use super::*;

/// As in Microsoft's sample of the answer to a creation.
const GUID: &str = "3a6fdce1-c261-48bc-89de-1cfef658c0d5";

fn graph() -> GraphRoot {
    GraphRoot::parse("https://graph.microsoft.com").unwrap()
}

fn v1(id: &str) -> Reference {
    Reference { version: ApiVersion::V1, id: id.to_owned() }
}

fn beta(id: &str) -> Reference {
    Reference { version: ApiVersion::Beta, id: id.to_owned() }
}

#[test]
fn both_headers_of_microsofts_sample_refer_to_the_same_operation() {
    let sample = include_str!("../../../tests/data/graph/create-202.http");
    let values: Vec<&str> = sample
        .lines()
        .filter_map(|line| line.split_once("ocation: ").map(|(_, value)| value.trim_end()))
        .collect();
    assert_eq!(values.len(), 2);
    for value in values {
        assert_eq!(Reference::parse(value, &graph()), Ok(v1(GUID)));
    }
}

#[test]
fn every_spelling_that_graph_understands_is_understood() {
    let longest = "x".repeat(512);
    let longest_url =
        format!("/v1.0/employeeExperience/engagementAsyncOperations%28%27{longest}%27%29");
    for (text, expected) in [
        // Absolute.
        (
            "https://graph.microsoft.com/v1.0/employeeExperience/engagementAsyncOperations('a')",
            v1("a"),
        ),
        (
            "https://graph.microsoft.com/beta/employeeExperience/engagementAsyncOperations('a')",
            beta("a"),
        ),
        (
            "https://graph.microsoft.com/v1.0/employeeExperience/engagementAsyncOperations/a",
            v1("a"),
        ),
        (
            "https://graph.microsoft.com/beta/employeeExperience/engagementAsyncOperations/a",
            beta("a"),
        ),
        (
            "https://graph.microsoft.com:443/v1.0/employeeExperience/engagementAsyncOperations/a",
            v1("a"),
        ),
        (
            "HTTPS://Graph.Microsoft.COM/v1.0/employeeExperience/engagementAsyncOperations/a",
            v1("a"),
        ),
        // Host-relative.
        ("/v1.0/employeeExperience/engagementAsyncOperations('a')", v1("a")),
        ("/beta/employeeExperience/engagementAsyncOperations('a')", beta("a")),
        ("/v1.0/employeeExperience/engagementAsyncOperations/a", v1("a")),
        // Encoded quotes and parentheses, one kind or both.
        ("/v1.0/employeeExperience/engagementAsyncOperations(%27a%27)", v1("a")),
        ("/v1.0/employeeExperience/engagementAsyncOperations%28'a'%29", v1("a")),
        ("/v1.0/employeeExperience/engagementAsyncOperations%28%27a%27%29", v1("a")),
        // What Graph said before.
        ("/v1.0/employeeExperience/engagementOperations('a')", v1("a")),
        ("/beta/employeeExperience/engagementOperations/a", beta("a")),
        // Without case, but for the id.
        ("/V1.0/EMPLOYEEEXPERIENCE/ENGAGEMENTASYNCOPERATIONS('aB')", v1("aB")),
        ("/Beta/employeeexperience/engagementoperations/Ab", beta("Ab")),
        // Ids: GUIDs, base64url, whatever else keeps to the alphabet.
        ("3a6fdce1-c261-48bc-89de-1cfef658c0d5", v1(GUID)),
        (
            "eyJfdHlwZSI6IkxvbmdSdW5uaW5nT3BlcmF0aW9uIn0",
            v1("eyJfdHlwZSI6IkxvbmdSdW5uaW5nT3BlcmF0aW9uIn0"),
        ),
        ("-", v1("-")),
        ("_", v1("_")),
        ("0", v1("0")),
        ("beta", v1("beta")),
        (&longest, v1(&longest)),
        (&longest_url, v1(&longest)),
    ] {
        assert_eq!(Reference::parse(text, &graph()), Ok(expected), "{text}");
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table, of which each line is a case")]
fn whatever_else_is_refused_with_the_reason() {
    let too_long_id = "x".repeat(513);
    let too_long_key =
        format!("/v1.0/employeeExperience/engagementAsyncOperations('{too_long_id}')");
    let longest_text = "x".repeat(2_048);
    let too_long = "x".repeat(2_049);
    let other_host = || Bad::Host { expected: "graph.microsoft.com".to_owned() };
    let other_port = || Bad::Port { host: "graph.microsoft.com".to_owned() };
    let other_scheme = || Bad::Scheme { expected: "https".to_owned() };
    for (text, expected) in [
        ("", Bad::Empty),
        (&too_long, Bad::TooLong { bytes: 2_049 }),
        (&longest_text, Bad::Id),
        (&too_long_id, Bad::Id),
        (&too_long_key, Bad::Id),
        // What a URL parser would repair or drop.
        (" abc", Bad::StrayCharacter { at: 0 }),
        ("abc ", Bad::StrayCharacter { at: 3 }),
        ("abc\n", Bad::StrayCharacter { at: 3 }),
        ("abc\r\nx: y", Bad::StrayCharacter { at: 3 }),
        ("a\tb", Bad::StrayCharacter { at: 1 }),
        ("a\0b", Bad::StrayCharacter { at: 1 }),
        ("\u{fffd}", Bad::StrayCharacter { at: 0 }),
        ("idé", Bad::StrayCharacter { at: 2 }),
        ("https://graph.microsoft.com\\@evil.example/", Bad::StrayCharacter { at: 27 }),
        ("https:\\\\graph.microsoft.com\\v1.0", Bad::StrayCharacter { at: 6 }),
        ("https://graph。microsoft。com/v1.0", Bad::StrayCharacter { at: 13 }),
        // Neither URL nor path nor id.
        ("v1.0/employeeExperience/engagementAsyncOperations/a", Bad::Unrecognised),
        ("engagementAsyncOperations('a')", Bad::Unrecognised),
        ("'a'", Bad::Unrecognised),
        ("a.b", Bad::Unrecognised),
        ("..", Bad::Unrecognised),
        ("abc=", Bad::Unrecognised),
        ("a%27", Bad::Unrecognised),
        ("a?b", Bad::Unrecognised),
        ("a#b", Bad::Unrecognised),
        ("https:graph.microsoft.com/v1.0/x", Bad::Unrecognised),
        ("https:/graph.microsoft.com/v1.0/x", Bad::Unrecognised),
        ("javascript:alert(1)", Bad::Unrecognised),
        // Schemes.
        (
            "http://graph.microsoft.com/v1.0/employeeExperience/engagementAsyncOperations/a",
            other_scheme(),
        ),
        ("file:///etc/passwd", other_scheme()),
        ("gopher://graph.microsoft.com/", other_scheme()),
        ("://graph.microsoft.com/", other_scheme()),
        // Users, hosts and ports.
        ("https://user@graph.microsoft.com/v1.0/x", Bad::UserInfo),
        ("https://user:password@graph.microsoft.com/v1.0/x", Bad::UserInfo),
        ("https://graph.microsoft.com@evil.example/v1.0/x", Bad::UserInfo),
        ("https://@graph.microsoft.com/v1.0/x", Bad::UserInfo),
        ("https://evil.example/v1.0/employeeExperience/engagementAsyncOperations/a", other_host()),
        ("https://graph.microsoft.com.evil.example/v1.0/x", other_host()),
        ("https://evil.example#graph.microsoft.com/v1.0/x", other_host()),
        ("https://evil.example?graph.microsoft.com/v1.0/x", other_host()),
        ("https://xgraph.microsoft.com/v1.0/x", other_host()),
        ("https://graph.microsoft.com./v1.0/x", other_host()),
        ("https://graph.microsoft.us/v1.0/x", other_host()),
        ("https://graph.microsoft.co%6d/v1.0/x", other_host()),
        ("https://[::1]/v1.0/x", other_host()),
        ("https://[graph.microsoft.com]/v1.0/x", other_host()),
        ("https://169.254.169.254/v1.0/x", other_host()),
        ("https:///v1.0/employeeExperience/engagementAsyncOperations/a", other_host()),
        ("https://", other_host()),
        ("https://graph.microsoft.com:8443/v1.0/x", other_port()),
        ("https://graph.microsoft.com:80/v1.0/x", other_port()),
        ("https://graph.microsoft.com:/v1.0/x", other_port()),
        ("https://graph.microsoft.com:0443/v1.0/x", other_port()),
        ("https://graph.microsoft.com:443:443/v1.0/x", other_port()),
        ("https://graph.microsoft.com:+443/v1.0/x", other_port()),
        // Queries and fragments.
        ("/v1.0/employeeExperience/engagementAsyncOperations/a?$select=id", Bad::Query),
        ("/v1.0/employeeExperience/engagementAsyncOperations/a?", Bad::Query),
        ("/v1.0/employeeExperience/engagementAsyncOperations/a#b", Bad::Fragment),
        ("/v1.0/employeeExperience/engagementAsyncOperations/a#b?c", Bad::Fragment),
        ("https://graph.microsoft.com?v1.0", Bad::Query),
        ("https://graph.microsoft.com#v1.0", Bad::Fragment),
        // Ways out of the path.
        ("/v1.0/../beta/employeeExperience/engagementAsyncOperations/a", Bad::Traversal),
        ("/v1.0/./employeeExperience/engagementAsyncOperations/a", Bad::Traversal),
        ("/v1.0/employeeExperience/engagementAsyncOperations/..", Bad::Traversal),
        ("/v1.0/%2e%2e/employeeExperience/engagementAsyncOperations/a", Bad::Traversal),
        ("/v1.0/%2E%2E/me", Bad::Traversal),
        ("/v1.0/.%2e/me", Bad::Traversal),
        ("//evil.example/v1.0/employeeExperience/engagementAsyncOperations/a", Bad::EmptySegment),
        ("/v1.0//employeeExperience/engagementAsyncOperations/a", Bad::EmptySegment),
        ("/v1.0/employeeExperience/engagementAsyncOperations/a/", Bad::EmptySegment),
        ("/v1.0/employeeExperience/engagementAsyncOperations/", Bad::EmptySegment),
        ("/v1.0/employeeExperience/engagementAsyncOperations('a')/", Bad::EmptySegment),
        ("/", Bad::EmptySegment),
        ("https://graph.microsoft.com/", Bad::EmptySegment),
        // Encodings.
        ("/v1.0/employeeExperience/engagementAsyncOperations/%61", Bad::Encoding),
        ("/v1.0/employeeExperience/engagementAsyncOperations%2fa", Bad::Encoding),
        ("/v1.0/employeeExperience/engagementAsyncOperations/a%5c..", Bad::Encoding),
        ("/v1.0/employeeExperience/engagementAsyncOperations(%2527a%2527)", Bad::Encoding),
        ("/v1.0/%252e%252e/me", Bad::Encoding),
        ("/v1.0/employeeExperience/engagementAsyncOperations/a%00", Bad::Encoding),
        ("/v1.0/employeeExperience/engagementAsyncOperations/a%", Bad::Encoding),
        ("/v1.0/employeeExperience/engagementAsyncOperations/a%2", Bad::Encoding),
        // Other paths of Graph.
        ("https://graph.microsoft.com", Bad::Path),
        ("/v1.0", Bad::Path),
        ("/v1.0/me/messages/a", Bad::Path),
        ("/v1.0/employeeExperience", Bad::Path),
        ("/v1.0/employeeExperience/communities('a')", Bad::Path),
        ("/v1.0/employeeExperience/communities/a", Bad::Path),
        ("/v1.0/employeeExperience/engagementAsyncOperations/a/b", Bad::Path),
        ("/v1.0/employeeExperience/engagementAsyncOperations(a)", Bad::Path),
        ("/v1.0/employeeExperience/engagementAsyncOperations('a'", Bad::Path),
        ("/v1.0/employeeExperience/engagementAsyncOperations(\"a\")", Bad::Path),
        ("/v1.0/employeeExperience/engagementAsyncOperations(id='a')", Bad::Path),
        ("/v1.0/employeeExperience/engagementAsyncOperations()", Bad::Path),
        ("/v1.0/employeeExperience/engagementAsyncOperations", Bad::MissingId),
        ("/v2.0/employeeExperience/engagementAsyncOperations/a", Bad::Version),
        ("/employeeExperience/engagementAsyncOperations/a", Bad::Version),
        // Ids that are none.
        ("/v1.0/employeeExperience/engagementAsyncOperations('')", Bad::Id),
        ("/v1.0/employeeExperience/engagementAsyncOperations('a''b')", Bad::Id),
        ("/v1.0/employeeExperience/engagementAsyncOperations('a')('b')", Bad::Id),
        ("/v1.0/employeeExperience/engagementAsyncOperations/'a'", Bad::Id),
        ("/v1.0/employeeExperience/engagementAsyncOperations/a;b", Bad::Id),
        ("/v1.0/employeeExperience/engagementAsyncOperations/a.b", Bad::Id),
        ("/v1.0/employeeExperience/engagementAsyncOperations/$count", Bad::Id),
        ("/v1.0/employeeExperience/engagementAsyncOperations/a@b", Bad::Id),
    ] {
        assert_eq!(Reference::parse(text, &graph()), Err(expected), "{text}");
    }
}

#[test]
fn the_root_of_the_operator_is_the_only_one_that_counts() {
    let sandbox = GraphRoot::parse("http://127.0.0.1:4010").unwrap();
    let parse = |text: &str| Reference::parse(text, &sandbox);
    let path = "/v1.0/employeeExperience/engagementAsyncOperations('a')";
    assert_eq!(parse(&format!("http://127.0.0.1:4010{path}")), Ok(v1("a")));
    assert_eq!(parse(path), Ok(v1("a")));
    let other_port = Err(Bad::Port { host: "127.0.0.1".to_owned() });
    assert_eq!(parse(&format!("http://127.0.0.1{path}")), other_port);
    assert_eq!(parse(&format!("http://127.0.0.1:80{path}")), other_port);
    // The same address in another spelling is another host: what is asked for must be what is read.
    let other_host = Err(Bad::Host { expected: "127.0.0.1".to_owned() });
    assert_eq!(parse(&format!("http://2130706433:4010{path}")), other_host);
    assert_eq!(parse(&format!("http://localhost:4010{path}")), other_host);
    let other_scheme = Err(Bad::Scheme { expected: "http".to_owned() });
    assert_eq!(parse(&format!("https://graph.microsoft.com{path}")), other_scheme);

    let loopback = GraphRoot::parse("http://[::1]:4010").unwrap();
    let text = format!("http://[::1]:4010{path}");
    assert_eq!(Reference::parse(&text, &loopback), Ok(v1("a")));
}

#[test]
fn a_refusal_repeats_nothing_of_what_was_given() {
    for text in [
        "https://hunter2:hunter2@graph.microsoft.com/hunter2",
        "https://hunter2.example/v1.0/hunter2",
        "hunter2://graph.microsoft.com/v1.0",
        "https://graph.microsoft.com:hunter2/v1.0",
        "/v1.0/hunter2/hunter2",
        "/v1.0/employeeExperience/engagementAsyncOperations/hunter2?access_token=hunter2",
        "hunter2 hunter2",
        "hunter2!",
    ] {
        let refusal = Reference::parse(text, &graph()).unwrap_err();
        assert!(!refusal.to_string().contains("hunter2"), "{text}: {refusal}");
    }
}

#[test]
fn versions_are_spelled_as_graph_spells_them() {
    for version in [ApiVersion::V1, ApiVersion::Beta] {
        assert_eq!(version.as_str().parse(), Ok(version));
    }
    assert_eq!("V1.0".parse(), Ok(ApiVersion::V1));
    assert_eq!("v1".parse::<ApiVersion>(), Err(Bad::Version));
}

/// Right spellings with something slipped in, which is where the interesting mistakes are.
fn near_miss() -> impl Strategy<Value = String> {
    let slip = prop::sample::select(vec![
        "https://", "@", ":", "443", "/", "//", "v1.0", "('", "')", "%27", "%2e", "%2F", "%25",
        "%", ".", "..", "/../", "\\", "?", "#", ";", "abc", "-", "é", " ", "\t", "\0",
    ]);
    let slips = prop::collection::vec((any::<prop::sample::Index>(), slip), 1..3);
    (spelling(), slips).prop_map(|((mut text, ..), slips)| {
        for (at, slip) in slips {
            let mut at = at.index(text.len() + 1);
            while !text.is_char_boundary(at) {
                at -= 1;
            }
            text.insert_str(at, slip);
        }
        text
    })
}

fn spelling() -> impl Strategy<Value = (String, ApiVersion, String)> {
    let version = prop::sample::select(vec![ApiVersion::V1, ApiVersion::Beta]);
    let prefix = prop::sample::select(vec![
        "",
        "https://graph.microsoft.com",
        "https://graph.microsoft.com:443",
    ]);
    let keyed =
        prop::sample::select(vec![("/", ""), ("('", "')"), ("(%27", "%27)"), ("%28%27", "%27%29")]);
    ("[A-Za-z0-9_-]{1,512}", version, prefix, prop::sample::select(COLLECTIONS.to_vec()), keyed)
        .prop_map(|(id, version, prefix, collection, (open, close))| {
            let path =
                format!("/{}/employeeExperience/{collection}{open}{id}{close}", version.as_str());
            (format!("{prefix}{path}"), version, id)
        })
}

proptest! {
    #[test]
    fn an_id_comes_through_every_spelling_unchanged((text, version, id) in spelling()) {
        let reference = Reference::parse(&text, &graph()).unwrap();
        prop_assert_eq!(&reference, &Reference { version, id });
        // What is rebuilt is a spelling of the same thing.
        let rebuilt = graph().url(&reference);
        prop_assert_eq!(Reference::parse(rebuilt.as_str(), &graph()), Ok(reference));
    }

    #[test]
    fn whatever_is_let_through_leads_to_the_root(text in prop_oneof![near_miss(), "\\PC{0,64}", any::<String>()]) {
        if let Ok(reference) = Reference::parse(&text, &graph()) {
            prop_assert!(text.contains(&reference.id));
            let expected = format!(
                "https://graph.microsoft.com/{}/employeeExperience/engagementAsyncOperations/{}",
                reference.version.as_str(),
                reference.id,
            );
            let rebuilt = graph().url(&reference);
            prop_assert_eq!(rebuilt.as_str(), expected);
        }
    }
}
