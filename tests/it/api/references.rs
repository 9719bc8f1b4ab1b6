//! What is no operation of this Graph is not tracked.

use serde_json::json;

use super::{all_refused, fault, post, quiet_world};

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_no_address_of_an_operation_at_this_graph_is_refused_with_the_reason() {
    let world = quiet_world().await;
    let root = world.sandbox.root();
    let authority = root.strip_prefix("http://").unwrap();
    let collection = "employeeExperience/engagementAsyncOperations";
    let table = [
        ("nothing", String::new(), "empty"),
        ("too long", "a".repeat(2_049), "tooLong"),
        ("an id with 513 letters", "a".repeat(513), "malformedId"),
        ("a space", "eyJ f".to_owned(), "strayCharacter"),
        ("a backslash", format!("{root}\\v1.0/{collection}/eyJf"), "strayCharacter"),
        ("a tab", format!("/v1.0/{collection}/ey\tJf"), "strayCharacter"),
        ("a line break", format!("/v1.0/{collection}/eyJf\r\nHost: x"), "strayCharacter"),
        ("a zero byte", "eyJf\0".to_owned(), "strayCharacter"),
        ("an umlaut", "eyJfü".to_owned(), "strayCharacter"),
        ("a full-width slash", "／v1.0".to_owned(), "strayCharacter"),
        ("a word with a dot", "graph.microsoft.com".to_owned(), "unrecognised"),
        ("no scheme", format!("{authority}/v1.0/{collection}/eyJf"), "unrecognised"),
        ("another scheme", format!("https://{authority}/v1.0/{collection}/eyJf"), "otherScheme"),
        ("a file", format!("file:///v1.0/{collection}/eyJf"), "otherScheme"),
        ("a user", format!("http://me@{authority}/v1.0/{collection}/eyJf"), "userInfo"),
        ("a password", format!("http://a:b@{authority}/v1.0/{collection}/eyJf"), "userInfo"),
        ("another host", format!("http://evil.example/v1.0/{collection}/eyJf"), "otherHost"),
        ("no host", format!("http:///v1.0/{collection}/eyJf"), "otherHost"),
        ("a host behind ours", format!("http://{authority}.evil.example/v1.0"), "otherPort"),
        ("the same host in other words", "http://2130706433/v1.0".to_owned(), "otherHost"),
        ("another port", format!("http://127.0.0.1:1/v1.0/{collection}/eyJf"), "otherPort"),
        ("no port", format!("http://127.0.0.1/v1.0/{collection}/eyJf"), "otherPort"),
        ("a query", format!("{root}/v1.0/{collection}/eyJf?$select=id"), "query"),
        ("a fragment", format!("{root}/v1.0/{collection}/eyJf#x"), "fragment"),
        ("dots", format!("{root}/v1.0/../beta/{collection}/eyJf"), "traversal"),
        ("encoded dots", format!("{root}/v1.0/%2e%2E/{collection}/eyJf"), "traversal"),
        ("two slashes", format!("{root}/v1.0//{collection}/eyJf"), "emptySegment"),
        ("a slash at the end", format!("{root}/v1.0/{collection}/eyJf/"), "emptySegment"),
        ("an encoded slash", format!("{root}/v1.0/{collection}%2FeyJf"), "encoding"),
        ("encoded twice", format!("{root}/v1.0/{collection}(%2527eyJf%2527)"), "encoding"),
        ("an encoding cut off", format!("{root}/v1.0/{collection}/eyJf%2"), "encoding"),
        ("another version", format!("{root}/v2.0/{collection}/eyJf"), "version"),
        ("the root", root.to_owned(), "otherPath"),
        ("another thing of Graph's", format!("{root}/v1.0/users/eyJf/messages"), "otherPath"),
        ("what is behind it", format!("{root}/v1.0/{collection}/eyJf/owner"), "otherPath"),
        ("other quotes", format!("{root}/v1.0/{collection}(\"eyJf\")"), "otherPath"),
        ("all of them", format!("{root}/v1.0/{collection}"), "missingId"),
        ("an id with a dot", format!("{root}/v1.0/{collection}('ey.Jf')"), "malformedId"),
        ("no id in the quotes", format!("{root}/v1.0/{collection}('')"), "malformedId"),
    ];
    let table = table.map(|(name, operation, code)| {
        let registration = json!({ "operation": operation, "callbackUrl": world.receiver.url() });
        (name, post("/v1/operations", &registration), fault("operation", code))
    });
    all_refused(&world, &world.shop, &table).await;
    assert_eq!(world.sandbox.record().len(), 0, "Graph was asked all the same");
    world.stop().await;
}
