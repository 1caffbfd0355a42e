use super::*;

fn decode(json: &str) -> Result<CheckSpec, serde_json::Error> {
    serde_json::from_str(json)
}

#[test]
fn a_policy_out_of_range_is_refused_with_the_range() {
    for (json, part) in [
        (r#"{"kind":"http","interval":"0s"}"#, "interval"),
        (r#"{"kind":"http","interval":"2h"}"#, "interval"),
        (r#"{"kind":"http","timeout":"0ms"}"#, "timeout"),
        (r#"{"kind":"http","fall":0}"#, "fall"),
        (r#"{"kind":"http","rise":-1}"#, "rise"),
        (r#"{"kind":"http","window":65}"#, "window"),
        (r#"{"kind":"http","degraded_at":0}"#, "degraded_at"),
        (r#"{"kind":"http","degraded_at":1.5}"#, "degraded_at"),
        (r#"{"kind":"http","path":"status"}"#, "path"),
        (r#"{"kind":"http","path":"/a b"}"#, "path"),
        (r#"{"kind":"http","path":"/a\r\nHost: x"}"#, "path"),
        (r#"{"kind":"http","expect":"99"}"#, "statuses"),
        (r#"{"kind":"http","expect":"300-200"}"#, "statuses"),
        (r#"{"kind":"http","expect":"+200"}"#, "statuses"),
        (r#"{"kind":"script"}"#, "unknown variant"),
        (
            r#"{"kind":"lease","interval":"1s"}"#,
            "interval: `lease` checks do not have it, only those of kind tcp, http, https, grpc",
        ),
        (r#"{"kind":"lease","path":"/"}"#, "path"),
        (r#"{"kind":"lease","port":"http"}"#, "port"),
        (r#"{"kind":"http","method":"POST"}"#, "unknown variant `POST`"),
        (r#"{"kind":"http","host":"a\r\nCookie: x"}"#, "no host"),
        (r#"{"kind":"http","body_contains":""}"#, "body_contains"),
        (r#"{"kind":"http","body_contains":"a\nb"}"#, "control"),
        (r#"{"kind":"http","method":"HEAD","body_contains":"x"}"#, "no body"),
        (r#"{"kind":"tcp","path":"/"}"#, "path: `tcp` checks do not have it, only those of kind http, https"),
        (r#"{"kind":"tcp","method":"GET"}"#, "method"),
        (r#"{"kind":"tcp","host":"a"}"#, "host"),
        (r#"{"kind":"tcp","expect":"200"}"#, "expect"),
        (r#"{"kind":"tcp","body_contains":"x"}"#, "body_contains"),
        (
            r#"{"kind":"http","service":"x"}"#,
            "service: `http` checks do not have it, only those of kind grpc",
        ),
        (r#"{"kind":"http","verify":false}"#, "verify"),
        (r#"{"kind":"http","retries":3}"#, "unknown field `retries`"),
    ] {
        let error = decode(json).expect_err(json).to_string();
        assert!(error.contains(part), "{json}: {error}");
    }
}

#[test]
fn what_is_left_out_gets_the_default_and_stays_out() {
    let spec = decode(r#"{"kind":"http","interval":"200ms"}"#).unwrap();
    let check = spec.effective();
    assert_eq!(check.timeout, Duration::from_millis(200));
    assert_eq!((check.fall, check.rise, check.window), (3, 2, 10));
    assert_eq!(serde_json::to_string(&spec).unwrap(), r#"{"kind":"http","interval":"200ms"}"#);
    let filled = serde_json::to_string(&check).unwrap();
    assert_eq!(decode(&filled).unwrap().effective(), check);
}

#[test]
fn a_policy_is_shown_with_the_fields_that_its_kind_has() {
    let shown = |json: &str| serde_json::to_value(decode(json).unwrap().effective()).unwrap();
    let fields = |json: &str| -> Vec<String> {
        let timing = ["interval", "timeout", "fall", "rise", "window", "degraded_at", "fresh"];
        let shown = shown(json);
        let fields = shown.as_object().unwrap().keys().filter(|field| !timing.contains(&field.as_str()));
        fields.cloned().collect()
    };
    assert_eq!(fields(r#"{"kind":"tcp"}"#), ["kind"]);
    assert_eq!(fields(r#"{"kind":"http"}"#), ["kind", "path", "expect"]);
    assert_eq!(
        fields(r#"{"kind":"http","method":"HEAD","port":"a","host":"b"}"#),
        ["kind", "port", "method", "path", "host", "expect"]
    );
    assert_eq!(fields(r#"{"kind":"https"}"#), ["kind", "path", "expect", "verify"]);
    assert_eq!(fields(r#"{"kind":"grpc"}"#), ["kind", "service"]);
    assert_eq!(
        fields(r#"{"kind":"http","port":"a","host":"b","body_contains":"c"}"#),
        ["kind", "port", "path", "host", "expect", "body_contains"]
    );
    for json in [
        r#"{"kind":"tcp","fresh":true}"#,
        r#"{"kind":"http","method":"HEAD","host":"[::1]:8080"}"#,
        r#"{"kind":"http","body_contains":"\"status\": \"up\"","interval":"1500ms"}"#,
    ] {
        assert_eq!(decode(&shown(json).to_string()).unwrap().effective(), decode(json).unwrap().effective());
    }
}

#[test]
fn another_question_is_told_from_another_way_of_asking_it() {
    let check = |json: &str| decode(json).unwrap().effective();
    let http = check(r#"{"kind":"http"}"#);
    for other in [
        r#"{"kind":"tcp"}"#,
        r#"{"kind":"http","port":"a"}"#,
        r#"{"kind":"http","method":"HEAD"}"#,
        r#"{"kind":"http","path":"/a"}"#,
        r#"{"kind":"http","host":"a"}"#,
        r#"{"kind":"http","expect":"200"}"#,
        r#"{"kind":"http","body_contains":"a"}"#,
    ] {
        assert!(!check(other).same_question(&http), "{other}");
    }
    for same in [
        r#"{"kind":"http","method":"GET","path":"/","expect":"200-299"}"#,
        r#"{"kind":"http","interval":"5s","timeout":"1s","fall":9,"rise":9,"window":9,"degraded_at":0.9,"fresh":true}"#,
    ] {
        assert!(check(same).same_question(&http), "{same}");
    }
}

#[test]
fn a_policy_that_waits_for_its_kind_keeps_what_was_written() {
    let spec = decode(r#"{"kind":"none","path":"/a","service":"b"}"#).unwrap();
    assert_eq!(spec.effective(), CheckSpec::default().effective());
    let tcp = Raw { kind: CheckKind::Tcp, ..spec.raw().clone() };
    assert!(CheckSpec::try_from(tcp.clone()).is_err());
    assert!(CheckSpec::try_from(tcp.without_misplaced()).is_ok());
}
