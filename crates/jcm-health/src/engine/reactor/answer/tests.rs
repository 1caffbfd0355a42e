//! Every dialect, every split, and garbage.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// What follows for a prober: the status, how the body ends, whether the connection could be kept.
fn read(answer: &str) -> (u16, Body, bool) {
    match parse(answer.as_bytes(), Method::Get) {
        Progress::Complete(head) => (head.status, head.body, head.persistent),
        other => panic!("{answer:?}: {other:?}"),
    }
}

#[test]
fn every_correct_dialect_is_an_answer() {
    use Body::{Chunked, Length, None, UntilClose};
    let check = |answer: &str, expected: (u16, Body, bool)| assert_eq!(read(answer), expected, "{answer:?}");
    check("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", (200, Length(2), true));
    check("HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", (200, Length(0), true));
    check("HTTP/1.1 200 \r\ncontent-length: 0\r\n\r\n", (200, Length(0), true));
    check("HTTP/1.1 200 Everything's fine \u{e9}\r\ncontent-length:0\r\n\r\n", (200, Length(0), true));
    check("HTTP/1.0 200 OK\r\n\r\nuntil the end", (200, UntilClose, false));
    check("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", (200, Length(2), false));
    check("HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\n\r\nok", (200, Length(2), true));
    check(
        "HTTP/1.1 200 OK\r\nCONNECTION: foo, CLOSE\r\nContent-Length: 2\r\n\r\nok",
        (200, Length(2), false),
    );
    check("HTTP/1.1 200 OK\r\n\r\n", (200, UntilClose, false));
    check("HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n0\r\n\r\n", (200, Chunked, true));
    check("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n", (200, Chunked, true));
    check("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n", (200, UntilClose, false));
    check("HTTP/1.1 204 No Content\r\n\r\n", (204, None, true));
    check("HTTP/1.1 304 Not Modified\r\nContent-Length: 100\r\n\r\n", (304, None, true));
    check(
        "HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n",
        (302, Length(0), true),
    );
    check("HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n", (999, Length(0), true));
    check("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", (101, UntilClose, false));
    check(
        "HTTP/1.1 100\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        (200, Length(0), true),
    );
    // Habits that clients forgive: bare line feeds, folded headers, blanks, an empty line in front.
    check("HTTP/1.1 200 OK\nContent-Length: 2\n\nok", (200, Length(2), true));
    check("HTTP/1.1 200 OK\r\nX-Folded: a\r\n b\r\nContent-Length: 0\r\n\r\n", (200, Length(0), true));
    check("HTTP/1.1  200  OK\r\nContent-Length : 0\r\n\r\n", (200, Length(0), true));
    check("\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", (200, Length(0), true));
}

#[test]
fn an_ambiguous_length_is_an_answer_but_ends_the_connection() {
    for headers in [
        "Content-Length: 2\r\nContent-Length: 3",
        "Content-Length: 2, 3",
        "Content-Length: -1",
        "Content-Length: +2",
        "Content-Length: 0x2",
        "Content-Length:",
        "Content-Length: 99999999999999999999999",
        "Content-Length: 2\r\nTransfer-Encoding: chunked",
    ] {
        assert_eq!(
            read(&format!("HTTP/1.1 200 OK\r\n{headers}\r\n\r\n")),
            (200, Body::UntilClose, false),
            "{headers}"
        );
    }
    assert_eq!(read("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), (200, Body::UntilClose, false));
    assert_eq!(
        read("HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\nContent-Length: 2\r\n\r\n"),
        (200, Body::Length(2), true)
    );
}

#[test]
fn what_is_no_answer_is_named() {
    let check = |answer: &str, expected: Malformed| {
        assert_eq!(parse(answer.as_bytes(), Method::Get), Progress::Broken(expected), "{answer:?}");
    };
    check("SSH-2.0-OpenSSH_9.2\r\n", Malformed::StatusLine);
    check("220 mail ESMTP\r\n", Malformed::StatusLine);
    check("\u{16}\u{3}\u{1}\0", Malformed::StatusLine);
    check("HTTP/2.0 200 OK\r\n", Malformed::StatusLine);
    check("HTTP/1.1 2xx OK\r\n", Malformed::StatusLine);
    check("HTTP/1.1 200 OK\r\nno colon\r\n\r\n", Malformed::Header);
    check("HTTP/1.1 200 OK\r\nBad\0Name: x\r\n\r\n", Malformed::Header);
    check(&"HTTP/1.1 100\r\n\r\n".repeat(INTERIM_MAX + 1), Malformed::EndlessInterim);
}

#[test]
fn a_head_may_be_large_but_not_endless() {
    let many = format!("HTTP/1.1 200 OK\r\n{}Content-Length: 0\r\n\r\n", "a:\n".repeat(5_000));
    assert_eq!(read(&many), (200, Body::Length(0), true));
    let line = "X-Padding: 0123456789\r\n";
    let endless = format!("HTTP/1.1 200 OK\r\n{}", line.repeat(HEAD_BYTES_MAX / line.len() + 1));
    assert!(endless.len() > HEAD_BYTES_MAX);
    assert_eq!(parse(endless.as_bytes(), Method::Get), Progress::TooLarge);
    assert_eq!(
        parse(format!("{endless}\r\n").as_bytes(), Method::Get),
        Progress::TooLarge,
        "complete, but beyond what is read"
    );
    assert_eq!(parse(&endless.as_bytes()[..HEAD_BYTES_MAX], Method::Get), Progress::Partial);
    let one_line = format!("HTTP/1.1 200 {}", "x".repeat(HEAD_BYTES_MAX));
    assert_eq!(parse(one_line.as_bytes(), Method::Get), Progress::TooLarge);
}

#[test]
fn the_end_of_a_body_is_found() {
    use Rest::{Complete, Missing, Unwanted};
    let check = |body: Body, bytes: &str, expected: Rest| {
        assert_eq!(body.rest(bytes.as_bytes()), expected, "{body:?} {bytes:?}");
    };
    check(Body::None, "", Complete);
    check(Body::None, "x", Unwanted);
    check(Body::Length(2), "o", Missing);
    check(Body::Length(2), "ok", Complete);
    check(Body::Length(2), "ok!", Unwanted);
    check(Body::Length(1 << 40), "", Unwanted);
    check(Body::UntilClose, "anything", Missing);
    check(Body::UntilClose, &"x".repeat(BODY_BYTES_MAX + 1), Unwanted);
    check(Body::Chunked, "2\r\nok\r\n0\r\n\r\n", Complete);
    check(Body::Chunked, "2;ext=1\r\nok\r\n0\r\nTrailer: x\r\n\r\n", Complete);
    check(Body::Chunked, "A\r\n0123456789\r\n00\r\n\r\n", Complete);
    check(Body::Chunked, "2\r\nok\r\n0\r\n\r\nHTTP/1.1", Unwanted);
    check(Body::Chunked, "2\r\nokay\r\n", Unwanted);
    check(Body::Chunked, "\r\n", Unwanted);
    check(Body::Chunked, "zz\r\n", Unwanted);
    check(Body::Chunked, "fffffffffffffff\r\n", Unwanted);
    check(Body::Chunked, "ffffffffffffffffff\r\n", Unwanted);
}

/// Answers that are nearly right: parts of every kind, in any order.
fn any_answer() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        Just(b"HTTP/1.1 200 OK\r\n".to_vec()),
        Just(b"HTTP/1.0 404\n".to_vec()),
        Just(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec()),
        Just(b"Content-Length: 5\r\n".to_vec()),
        Just(b"transfer-encoding: chunked\r\n".to_vec()),
        Just(b"X-Long: a\r\n\tb \xff\r\n".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"5\r\nhello\r\n".to_vec()),
        Just(b"0\r\n\r\n".to_vec()),
        vec(any::<u8>(), 0..8),
        vec(b'a'..=b'z', 0..40),
    ];
    let start = prop_oneof![9 => Just(b"HTTP/1.1 200 OK\r\n".to_vec()), 1 => vec(any::<u8>(), 0..20)];
    (start, vec(part, 0..12)).prop_map(|(start, parts)| [start, parts.concat()].concat())
}

proptest! {
    #[test]
    fn splitting_an_answer_anywhere_changes_nothing(answer in any_answer()) {
        let whole = parse(&answer, Method::Get);
        let mut decided = None;
        for end in 0..=answer.len() {
            let progress = parse(&answer[..end], Method::Get);
            match decided {
                None if progress != Progress::Partial => decided = Some(progress),
                None => {}
                Some(before) => prop_assert_eq!(progress, before, "changed its mind at {}", end),
            }
        }
        prop_assert_eq!(decided.unwrap_or(Progress::Partial), whole);
    }

    #[test]
    fn splitting_a_body_anywhere_never_loses_its_end(body in vec(any::<u8>(), 0..64), framed in any_answer()) {
        for bytes in [&body, &framed] {
            for rule in [Body::None, Body::Length(5), Body::Chunked, Body::UntilClose] {
                let mut unwanted = false;
                for end in 0..=bytes.len() {
                    let text = rule.text(&bytes[..end]);
                    prop_assert!(rule.text(bytes).bytes.starts_with(&text.bytes), "{:?} took text back", rule);
                    let rest = rule.rest(&bytes[..end]);
                    prop_assert!(!unwanted || rest == Rest::Unwanted, "{:?} took {:?} back", rule, &bytes[..end]);
                    unwanted = rest == Rest::Unwanted;
                }
            }
        }
    }

    #[test]
    fn garbage_never_panics(bytes in vec(any::<u8>(), 0..20_000)) {
        parse(&bytes, Method::Get);
        Body::Chunked.rest(&bytes);
    }
}
