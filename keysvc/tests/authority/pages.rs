//! Lists, a part at a time.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::common::*;

/// The path of the next part.
fn next(answer: &Answer) -> Option<String> {
    let link = answer.headers.get("link")?.to_str().unwrap();
    Some(link.strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").unwrap().to_owned())
}

async fn all(client: &Client, mut path: String) -> Vec<String> {
    let mut ids = Vec::new();
    loop {
        let answer = client.get(&path).await;
        assert!(answer.status.is_success(), "{path}: {}", answer.text());
        ids.extend(answer.json::<Vec<Value>>().iter().map(|entry| entry["id"].as_str().unwrap().to_owned()));
        match next(&answer) {
            Some(more) => path = more,
            None => return ids,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_list_comes_in_parts_and_whole_though_it_changes_meanwhile() {
    let server = Running::start().await;
    let admin = server.admin();
    for n in 0..7 {
        server.enrol(&format!("d{n}"), &[]).await;
        let access = json!({ "name": format!("a{n}"), "role": "auditor", "ttl_seconds": 600 });
        admin.post("/v1/access", &access).await;
    }
    for path in ["/v1/devices", "/v1/tokens", "/v1/access"] {
        let whole = all(&admin, path.to_owned()).await;
        assert!(whole.len() >= 7);
        for limit in [1, 2, 3, 6, 7, 8, u64::MAX] {
            assert_eq!(all(&admin, format!("{path}?limit={limit}")).await, whole, "{path} {limit}");
        }
        let exact = admin.get(&format!("{path}?limit={}", whole.len())).await;
        assert_eq!(next(&exact), None, "no part is empty");
        // Those who know no cursor go on as before.
        let after = admin.get(&format!("{path}?after={}", whole[2])).await.json::<Vec<Value>>();
        assert_eq!(after.len(), whole.len() - 3);
    }
    // What comes and goes meanwhile moves nothing else.
    let before: BTreeSet<_> = all(&admin, "/v1/tokens".into()).await.into_iter().collect();
    let mut path = "/v1/tokens?limit=2".to_owned();
    let mut seen = Vec::new();
    for n in 0.. {
        let answer = admin.get(&path).await;
        seen.extend(answer.json::<Vec<Value>>().iter().map(|token| token["id"].as_str().unwrap().to_owned()));
        server.token(&format!("t{n}"), &[]).await;
        match next(&answer) {
            Some(more) => path = more,
            None => break,
        }
    }
    let once: BTreeSet<_> = seen.iter().cloned().collect();
    assert!(once.len() == seen.len() && before.is_subset(&once));
    // The entry that a cursor was made of may go.
    let first = admin.get("/v1/access?limit=1").await;
    let gone = first.json::<Vec<Value>>()[0]["id"].as_str().unwrap().to_owned();
    admin.delete(&format!("/v1/access/{gone}")).await;
    assert_eq!(all(&admin, next(&first).unwrap()).await.len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_that_was_altered_or_is_of_another_list_or_authority_is_refused() {
    let (server, other) = (Running::start().await, Running::start().await);
    let cursor_of = |answer: Answer| {
        let path = next(&answer).unwrap();
        path.split("cursor=").nth(1).unwrap().split('&').next().unwrap().to_owned()
    };
    for server in [&server, &other] {
        server.enrol("a", &[]).await;
    }
    let admin = server.admin();
    let cursor = cursor_of(admin.get("/v1/devices?limit=1").await);
    assert!(admin.get(&format!("/v1/devices?cursor={cursor}")).await.status.is_success());
    admin.get(&format!("/v1/tokens?cursor={cursor}")).await.problem(400, "cursor");
    other.admin().get(&format!("/v1/devices?cursor={cursor}")).await.problem(400, "cursor");
    for at in 0..cursor.len() {
        let mut altered = cursor.clone().into_bytes();
        altered[at] = if altered[at] == b'A' { b'Z' } else { b'A' };
        let altered = String::from_utf8(altered).unwrap();
        admin.get(&format!("/v1/devices?cursor={altered}")).await.problem(400, "cursor");
        admin.get(&format!("/v1/devices?cursor={}", &cursor[..at])).await.problem(400, "cursor");
    }
    for bad in ["x".repeat(5000), "%00".into(), format!("{cursor}AAAA")] {
        admin.get(&format!("/v1/devices?cursor={bad}")).await.problem(400, "cursor");
    }
    admin.get("/v1/devices?limit=0").await.problem(400, "limit");
    admin.get("/v1/devices?limit=-1").await.problem(400, "bad-request");
    let both = format!("/v1/devices?cursor={cursor}&after={}", "00".repeat(16));
    admin.get(&both).await.problem(400, "bad-request");
}
