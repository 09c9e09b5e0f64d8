//! Whoever changes something as they saw it changes nothing that somebody else changed since.

use bytes::Bytes;
use hyper::Request;
use serde_json::{Value, json};

use crate::common::*;

async fn ask(client: &Client, method: &str, path: &str, body: &Value, header: (&str, &str)) -> Answer {
    let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    client.send(request.header(header.0, header.1), Bytes::from(body.to_string())).await
}

async fn tag(client: &Client, path: &str) -> String {
    client.get(path).await.headers["etag"].to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_what_has_changed_since_is_refused_and_changes_nothing() {
    let server = Running::start().await;
    let admin = server.admin();
    server.enrol("a", &["ward=w1"]).await;
    admin.put("/v1/profiles/p", &json!({ "attributes": ["x=1"] })).await;
    admin.put("/v1/groups/g", &json!({ "attributes": ["y=1"] })).await;
    admin.put("/v1/rules", &json!({ "filter": "a/#", "mode": "open" })).await;
    let rule = |filter: &str| json!({ "filter": filter, "mode": "open" });
    let edited = [
        (
            "PATCH",
            "/v1/devices/a",
            "/v1/devices/a",
            json!({ "set": ["ward=w2"] }),
            json!({ "set": ["ward=w3"] }),
        ),
        ("PUT", "/v1/profiles/p", "/v1/profiles/p", json!({ "attributes": ["x=2"] }), json!({})),
        ("PUT", "/v1/groups/g", "/v1/groups/g", json!({ "attributes": ["y=2"] }), json!({})),
        ("PUT", "/v1/rules", "/v1/rules", rule("b/#"), rule("c/#")),
        ("DELETE", "/v1/rules?filter=a%2F%23", "/v1/rules", json!({}), json!({})),
        ("DELETE", "/v1/profiles/p", "/v1/profiles/p", json!({}), json!({})),
        ("DELETE", "/v1/groups/g", "/v1/groups/g", json!({}), json!({})),
    ];
    for (method, path, shown, first, second) in &edited {
        let seen = tag(&admin, shown).await;
        assert_eq!(seen, tag(&admin, shown).await, "{path}: the same as long as nothing changes");
        let wrong = ask(&admin, method, path, first, ("if-match", "\"0123456789abcdef\"")).await;
        wrong.problem(412, "changed");
        let weak = format!("W/{seen}");
        ask(&admin, method, path, first, ("if-match", &weak)).await.problem(412, "changed");
        assert_eq!(tag(&admin, shown).await, seen, "{path}: nothing was changed");
        let done = ask(&admin, method, path, first, ("if-match", &seen)).await;
        assert!(done.status.is_success(), "{method} {path}: {}", done.text());
        if *method == "DELETE" {
            continue;
        }
        if *method == "PATCH" {
            assert_eq!(done.headers["etag"].to_str().unwrap(), tag(&admin, shown).await);
        }
        // Two who saw the same: one of them is told.
        ask(&admin, method, path, second, ("if-match", &seen)).await.problem(412, "changed");
        let any = ask(&admin, method, path, second, ("if-match", "\"x\", *")).await;
        assert!(any.status.is_success(), "{path}: {}", any.text());
    }
    // What is not there matches nothing, and what is there is not made anew.
    ask(&admin, "PUT", "/v1/groups/none", &json!({}), ("if-match", "*")).await.problem(412, "changed");
    let made = ask(&admin, "PUT", "/v1/groups/new", &json!({}), ("if-none-match", "*")).await;
    assert!(made.status.is_success());
    ask(&admin, "PUT", "/v1/groups/new", &json!({}), ("if-none-match", "*")).await.problem(412, "changed");
    let log = admin.get("/v1/audit").await.text();
    assert!(!log.contains("none"), "{log}");
}
