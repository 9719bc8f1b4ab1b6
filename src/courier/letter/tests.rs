use super::*;
use crate::operation::{Outcome, Refusal};

const ODD: &str = "{ \"id\" : \"x\",\t\"n\":1.0E+2, \"a\":1,\"a\":2,\n \"u\":\"\\u00e9é\\/\" }";

fn letter(owed: Owed, data: Option<&[u8]>) -> Letter<'_> {
    let tracking = Tracking {
        operation: OperationId(7),
        caller: "shop",
        client_state: Some("order \"42\""),
        polls: 4,
        registered_at: Timestamp::UNIX_EPOCH,
        connection: Some("contoso"),
        refusal: None,
        blocked_until: None,
    };
    let at = Timestamp::from_millisecond(1_500).unwrap();
    let id = CallbackId { operation: OperationId(7), number: 2 };
    Letter { id, format: Format::Envelope, owed, at, tracking, data, trace: None }
}

fn text(letter: &Letter<'_>) -> String {
    String::from_utf8(compose(letter).body.to_vec()).unwrap()
}

#[test]
fn graphs_bytes_come_through_untouched() {
    let letter = letter(Owed::Final(Outcome::Succeeded), Some(ODD.as_bytes()));
    let body = text(&letter);
    assert!(body.contains(&format!("\"data\":{ODD},\"tracking\"")), "{body}");
    assert_eq!(
        body.replace(ODD, "DATA"),
        "{\"type\":\"engagementAsyncOperation.succeeded\",\"timestamp\":\"1970-01-01T00:00:01.5Z\",\
         \"data\":DATA,\"tracking\":{\"id\":\"op_00000000000000000000000000000007\",\
         \"clientState\":\"order \\\"42\\\"\",\"outcome\":\"succeeded\",\"polls\":4,\
         \"registeredAt\":\"1970-01-01T00:00:00Z\",\"connection\":\"contoso\"}}"
    );
    assert_eq!(compose(&letter).headers.as_str(), "content-type: application/json\n");
}

#[test]
fn as_the_operation_alone_the_body_is_graphs_and_all_else_is_in_headers() {
    let envelope = letter(Owed::Final(Outcome::Succeeded), Some(ODD.as_bytes()));
    let letter = Letter { format: Format::Operation, ..envelope };
    assert_eq!(text(&letter), ODD);
    assert_eq!(
        compose(&letter).headers.as_str(),
        "content-type: application/json\n\
         bridge-type: engagementAsyncOperation.succeeded\n\
         bridge-timestamp: 1970-01-01T00:00:01.5Z\n\
         bridge-operation: op_00000000000000000000000000000007\n\
         bridge-client-state: order%20%2242%22\n\
         bridge-outcome: succeeded\n\
         bridge-polls: 4\n\
         bridge-registered-at: 1970-01-01T00:00:00Z\n\
         bridge-connection: contoso\n"
    );
    assert_eq!(text(&Letter { data: None, ..letter }), "null");
}

#[test]
fn as_a_cloud_event_each_attribute_has_a_name_that_may_be_one() {
    let envelope = letter(Owed::Final(Outcome::Succeeded), Some(ODD.as_bytes()));
    let letter = Letter { format: Format::CloudEvents, ..envelope };
    let body = text(&letter);
    assert_eq!(
        body.replace(ODD, "DATA"),
        "{\"specversion\":\"1.0\",\"id\":\"msg_00000000000000000000000000000007_2\",\
         \"source\":\"urn:engagement-bridge:caller:shop\",\
         \"type\":\"engagementAsyncOperation.succeeded\",\
         \"subject\":\"op_00000000000000000000000000000007\",\"time\":\"1970-01-01T00:00:01.5Z\",\
         \"datacontenttype\":\"application/json\",\"clientstate\":\"order \\\"42\\\"\",\
         \"outcome\":\"succeeded\",\"polls\":4,\"registeredat\":\"1970-01-01T00:00:00Z\",\
         \"connection\":\"contoso\",\"data\":DATA}"
    );
    let headers = compose(&letter).headers;
    assert_eq!(headers.as_str(), "content-type: application/cloudevents+json\n");
    let value: serde_json::Value = serde_json::from_str(&body.replace(ODD, "null")).unwrap();
    for name in value.as_object().unwrap().keys() {
        assert!(name.len() <= 20, "{name}");
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()), "{name}");
    }

    let tracking = Tracking { client_state: None, connection: None, ..letter.tracking };
    let bare = text(&Letter { data: None, tracking, ..letter });
    for absent in ["null", "data", "clientstate", "connection"] {
        assert!(!bare.contains(absent), "{absent} in {bare}");
    }
}

#[test]
fn any_client_state_stands_in_a_header_and_comes_out_again() {
    for state in ["", "order-42", " a ", "100%", "50%25", "Größe\r\nx: y", "雪\u{7f}\"\\~"] {
        let mut letter = letter(Owed::Running, None);
        letter.format = Format::Operation;
        letter.tracking.client_state = Some(state);
        let headers = compose(&letter).headers;
        assert_eq!(headers.iter().count(), headers.as_str().lines().count());
        let (_, value) = headers.iter().find(|(name, _)| *name == "bridge-client-state").unwrap();
        assert!(value.bytes().all(|b| b.is_ascii_graphic()), "{value}");
        assert_eq!(percent_encoding::percent_decode_str(value).decode_utf8().unwrap(), state);
    }
}

#[test]
fn a_trace_is_passed_on_in_every_format() {
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let trace = Trace::read(parent, Some("a=b, c=d")).unwrap();
    for format in Format::ALL {
        let letter = Letter { format, trace: Some(&trace), ..letter(Owed::Running, None) };
        let headers = compose(&letter).headers;
        let passed_on = format!("traceparent: {parent}\ntracestate: a=b, c=d\n");
        assert!(headers.as_str().ends_with(&passed_on), "{headers:?}");
    }
}

#[test]
fn where_graph_never_told_data_is_null() {
    let body = text(&letter(Owed::Final(Outcome::Expired), None));
    assert!(body.contains("\"type\":\"engagementAsyncOperation.expired\""), "{body}");
    assert!(body.contains("\"data\":null"), "{body}");
}

#[test]
fn a_notice_has_a_reason_or_none_and_no_outcome() {
    let letter_of_need = letter(Owed::CredentialNeeded(Refusal::TokenExpired), None);
    let tracking = Tracking {
        refusal: Some(Refusal::TokenExpired),
        blocked_until: Some(Timestamp::UNIX_EPOCH),
        ..letter_of_need.tracking
    };
    let body = text(&Letter { tracking, ..letter_of_need });
    assert!(body.contains("\"type\":\"engagementAsyncOperation.credentialNeeded\""), "{body}");
    let told = "\"reason\":\"tokenExpired\",\"until\":\"1970-01-01T00:00:00Z\"";
    assert!(body.contains(told), "{body}");
    assert!(!body.contains("outcome"), "{body}");
    let body = text(&letter(Owed::Running, None));
    assert!(body.contains("\"type\":\"engagementAsyncOperation.running\""), "{body}");
    assert!(!body.contains("outcome") && !body.contains("reason"), "{body}");
}

#[test]
fn an_end_for_want_of_a_credential_says_why_in_every_format() {
    let ended = letter(Owed::Final(Outcome::Unauthorized), None);
    let tracking = Tracking { refusal: Some(Refusal::GrantRefused), ..ended.tracking };
    for format in Format::ALL {
        let Written { headers, body } = compose(&Letter { format, tracking, ..ended });
        let written = format!("{}{}", headers.as_str(), String::from_utf8(body.to_vec()).unwrap());
        assert!(written.contains("unauthorized") && written.contains("grantRefused"), "{written}");
        assert!(!written.contains("until"), "{written}");
    }
}

#[test]
fn what_cannot_be_an_attribute_is_told_apart() {
    for state in ["", "order 42", "Größe 雪 😀", "\"'\\", "\u{202e}"] {
        assert!(may_stand_in_cloud_events(state), "{state:?}");
    }
    for state in ["a\nb", "\u{7}", "\u{7f}", "\u{9f}", "\u{fdd0}", "\u{ffff}", "\u{1fffe}"] {
        assert!(!may_stand_in_cloud_events(state), "{state:?}");
    }
}
