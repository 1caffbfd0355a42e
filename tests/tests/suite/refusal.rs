//! What every refusal owes: a status 4xx, the place and the reason, and a server that is none the worse for it.

use jcm_tests::{Answer, Client, Server};
use serde_json::json;

/// No refusal needs more, whatever was sent: what is quoted is cut.
const DETAIL_BYTES_MAX: usize = 2048;

/// A problem that a person can act on and a terminal can show.
#[track_caller]
pub(crate) fn check_refusal(answer: &Answer, statuses: &[u16], parts: &[&str]) {
    assert!(statuses.contains(&answer.status), "wanted one of {statuses:?}: {answer}");
    let detail = answer.problem();
    for part in parts {
        assert!(detail.contains(part), "the detail must name {part:?}: {answer}");
    }
    assert!(detail.len() <= DETAIL_BYTES_MAX, "{} bytes of detail: {answer}", detail.len());
    let unsafe_char =
        |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    assert!(!detail.contains(unsafe_char), "unprintable: {detail:?}");
}

/// After all of it the server works, and holds only what was valid.
pub(crate) async fn check_unharmed(server: &mut Server, client: &Client) {
    assert!(server.is_running(), "the server is gone");
    client.get("/livez").await.expect_status(200);
    client.put_cluster("after", &json!({ "nodes": [] })).await.ok();
    let list = client.get("/v1/clusters").await;
    assert_eq!(
        list.ok()["clusters"].as_array().map(Vec::len),
        Some(1),
        "only the valid one is there: {list}"
    );
    assert!(!server.log().contains("panicked"), "{}", server.log());
}
