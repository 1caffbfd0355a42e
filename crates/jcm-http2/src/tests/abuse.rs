//! Clients that do what they must not, or all that they may.

use proptest::prelude::*;

use super::*;

const SETTINGS: &[u8] = &[0, 0, 0, kind::SETTINGS, 0, 0, 0, 0, 0];

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::write(&mut out, kind, flags, stream, payload);
    out
}

/// `POST` of this path.
fn fields(path: &str) -> Vec<u8> {
    let length = u8::try_from(path.len()).unwrap();
    [&[0x83, 0x86, 0x04, length], path.as_bytes()].concat()
}

fn head(stream: u32, path: &str, flags: u8) -> Vec<u8> {
    frame(kind::HEADERS, flag::END_HEADERS | flags, stream, &fields(path))
}

/// Frames by hand, behind the preface and the settings.
async fn say(socket: &mut DuplexStream, bytes: &[u8]) {
    // Whoever is closed upon says the rest to nobody.
    let _ = socket.write_all(bytes).await;
}

/// The next frame.
async fn hear(socket: &mut DuplexStream) -> Option<(Head, Vec<u8>)> {
    let mut head = [0; HEAD_BYTES];
    socket.read_exact(&mut head).await.ok()?;
    let head = Head::read(&head).unwrap();
    let mut payload = vec![0; head.length];
    socket.read_exact(&mut payload).await.ok()?;
    Some((head, payload))
}

/// The reason of the last frame, which says that the connection is over.
async fn hear_end(socket: &mut DuplexStream) -> u32 {
    let mut last = None;
    while let Some(frame) = hear(socket).await {
        last = Some(frame);
    }
    let (head, payload) = last.expect("something is said");
    assert_eq!(head.kind, kind::GOAWAY, "{head:?} was the last");
    u32::from_be_bytes(payload[4..8].try_into().unwrap())
}

#[tokio::test]
async fn what_must_not_be_ends_the_connection_with_its_reason() {
    let (protocol, size, flow) =
        (Reason::PROTOCOL_ERROR, Reason::FRAME_SIZE_ERROR, Reason::FLOW_CONTROL_ERROR);
    let cases: Vec<(&str, Vec<u8>, Reason)> = vec![
        ("data of no stream", frame(kind::DATA, 0, 0, b"x"), protocol),
        ("data of a stream that was not opened", frame(kind::DATA, 0, 1, b"x"), protocol),
        ("a header of no stream", head(0, "/1", flag::END_STREAM), protocol),
        ("a stream of an even number", head(2, "/1", flag::END_STREAM), protocol),
        ("a ping of a stream", frame(kind::PING, 0, 1, &[0; 8]), protocol),
        ("a ping that is too short", frame(kind::PING, 0, 0, &[0; 7]), size),
        ("settings of a stream", frame(kind::SETTINGS, 0, 1, &[]), protocol),
        ("settings that are not whole", frame(kind::SETTINGS, 0, 0, &[0; 5]), size),
        ("confirmed settings that say something", frame(kind::SETTINGS, flag::ACK, 0, &[0; 6]), size),
        ("pushing neither allowed nor not", frame(kind::SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 2]), protocol),
        ("a window beyond all bounds", frame(kind::SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0]), flow),
        ("frames of no size", frame(kind::SETTINGS, 0, 0, &[0, 5, 0, 0, 0, 0]), protocol),
        ("a window that grows by nothing", frame(kind::WINDOW_UPDATE, 0, 0, &[0; 4]), protocol),
        (
            "a window that grows beyond all bounds",
            frame(kind::WINDOW_UPDATE, 0, 0, &[0x7f, 255, 255, 255]),
            flow,
        ),
        (
            "a window of a stream that was not opened",
            frame(kind::WINDOW_UPDATE, 0, 7, &[0, 0, 0, 1]),
            protocol,
        ),
        ("a reset of a stream that was not opened", frame(kind::RST_STREAM, 0, 1, &[0; 4]), protocol),
        ("a goodbye that is too short", frame(kind::GOAWAY, 0, 0, &[0; 7]), size),
        ("a push", frame(kind::PUSH_PROMISE, 0, 1, &[0; 4]), protocol),
        ("nothing to be continued", frame(kind::CONTINUATION, flag::END_HEADERS, 1, &[]), protocol),
        ("a frame that is too large", frame(kind::DATA, 0, 1, &[0; 16_385]), size),
        (
            "padding beyond the frame",
            frame(kind::HEADERS, flag::PADDED | flag::END_HEADERS, 1, &[9, 0x83]),
            protocol,
        ),
        (
            "a header that cannot be read",
            frame(kind::HEADERS, flag::END_HEADERS, 1, &[0xff; 8]),
            Reason::COMPRESSION_ERROR,
        ),
        (
            "something else in the middle of a header",
            [frame(kind::HEADERS, 0, 1, &fields("/1")), frame(kind::PING, 0, 0, &[0; 8])].concat(),
            protocol,
        ),
        (
            "another stream in the middle of a header",
            [frame(kind::HEADERS, 0, 1, &fields("/1")), frame(kind::CONTINUATION, 4, 3, &[])].concat(),
            protocol,
        ),
        (
            "a header that goes on and on",
            [
                frame(kind::HEADERS, 0, 1, &fields("/1")),
                frame(kind::CONTINUATION, 0, 1, &[0; 16_384]).repeat(5),
            ]
            .concat(),
            Reason::ENHANCE_YOUR_CALM,
        ),
        (
            "a header that goes on with nothing",
            [frame(kind::HEADERS, 0, 1, &fields("/1")), frame(kind::CONTINUATION, 0, 1, &[]).repeat(9)]
                .concat(),
            Reason::ENHANCE_YOUR_CALM,
        ),
        (
            "requests that are all given up",
            (0..1100)
                .flat_map(|at| {
                    [head(2 * at + 1, "/never", 0), frame(kind::RST_STREAM, 0, 2 * at + 1, &[0; 4])]
                })
                .flatten()
                .collect(),
            Reason::ENHANCE_YOUR_CALM,
        ),
        (
            "requests that this side has to give up",
            (0..1100)
                .flat_map(|at| {
                    [head(2 * at + 1, "/never", 0), frame(kind::WINDOW_UPDATE, 0, 2 * at + 1, &[0; 4])]
                })
                .flatten()
                .collect(),
            Reason::ENHANCE_YOUR_CALM,
        ),
    ];
    for (what, bytes, reason) in cases {
        let (mut socket, ended, ..) = serve(&LIMITS);
        say(&mut socket, &[PREFACE, SETTINGS, &bytes].concat()).await;
        let told = tokio::time::timeout(Duration::from_secs(20), hear_end(&mut socket)).await;
        assert_eq!(told.unwrap_or_else(|_| panic!("{what}: goes on")), reason.0, "{what}");
        drop(socket);
        assert!(
            matches!(ended.await.unwrap(), Err(Error::Protocol { reason: told, .. }) if told == reason),
            "{what}"
        );
    }
}

#[tokio::test]
async fn the_settings_come_first() {
    for (what, first) in [
        ("a ping", frame(kind::PING, 0, 0, &[0; 8])),
        ("nothing to confirm", frame(kind::SETTINGS, 1, 0, &[])),
    ] {
        let (mut socket, ..) = serve(&LIMITS);
        say(&mut socket, &[PREFACE, &first].concat()).await;
        assert_eq!(hear_end(&mut socket).await, Reason::PROTOCOL_ERROR.0, "{what}");
    }
}

#[tokio::test]
async fn what_must_not_be_on_a_stream_ends_that_alone() {
    let long = [&fields("/echo")[..], &[0x0f, 0x0d, 1, b'3']].concat();
    let cases: Vec<(&str, Vec<u8>, Reason)> = vec![
        ("no path", frame(kind::HEADERS, 5, 1, &[0x83, 0x86]), Reason::PROTOCOL_ERROR),
        (
            "a window that grows by nothing",
            [head(1, "/never", 0), frame(kind::WINDOW_UPDATE, 0, 1, &[0; 4])].concat(),
            Reason::PROTOCOL_ERROR,
        ),
        (
            "a window beyond all bounds",
            [head(1, "/never", 0), frame(kind::WINDOW_UPDATE, 0, 1, &[0x7f, 255, 255, 255])].concat(),
            Reason::FLOW_CONTROL_ERROR,
        ),
        (
            "data behind the end",
            [head(1, "/never", flag::END_STREAM), frame(kind::DATA, 0, 1, b"x")].concat(),
            Reason::STREAM_CLOSED,
        ),
        (
            "trailers behind the end",
            [head(1, "/never", flag::END_STREAM), head(1, "/1", 1)].concat(),
            Reason::STREAM_CLOSED,
        ),
        (
            "trailers that are no end",
            [head(1, "/never", 0), frame(kind::HEADERS, 4, 1, &[])].concat(),
            Reason::PROTOCOL_ERROR,
        ),
        (
            "trailers that are a head",
            [head(1, "/never", 0), head(1, "/1", 1)].concat(),
            Reason::PROTOCOL_ERROR,
        ),
        (
            "more than was announced",
            [frame(kind::HEADERS, 4, 1, &long), frame(kind::DATA, 0, 1, b"four")].concat(),
            Reason::PROTOCOL_ERROR,
        ),
        (
            "less than was announced",
            [frame(kind::HEADERS, 4, 1, &long), frame(kind::DATA, flag::END_STREAM, 1, b"2!")].concat(),
            Reason::PROTOCOL_ERROR,
        ),
    ];
    for (what, bytes, reason) in cases {
        let (mut socket, ended, ..) = serve(&LIMITS);
        say(&mut socket, &[PREFACE, SETTINGS, &bytes, &head(3, "/1", flag::END_STREAM)].concat()).await;
        let (mut reset, mut answered) = (None, false);
        while reset.is_none() || !answered {
            let (head, payload) = hear(&mut socket).await.unwrap_or_else(|| panic!("{what}: closed"));
            match (head.kind, head.stream) {
                (kind::RST_STREAM, 1) => reset = Some(u32::from_be_bytes(payload.try_into().unwrap())),
                (kind::DATA, 3) => answered = true,
                _ => {}
            }
        }
        assert_eq!(reset, Some(reason.0), "{what}");
        drop(socket);
        let _ = ended.await.unwrap();
    }
}

#[tokio::test]
async fn more_streams_than_there_may_be_are_refused_and_the_others_go_on() {
    let (mut socket, _ended, seen, _) = serve(&LIMITS);
    say(&mut socket, &[PREFACE, SETTINGS].concat()).await;
    let all = 2 * u32::from(LIMITS.streams);
    for at in 0..all {
        say(&mut socket, &head(2 * at + 1, "/never", flag::END_STREAM)).await;
    }
    say(&mut socket, &frame(kind::PING, 0, 0, &[9; 8])).await;
    let mut refused = Vec::new();
    loop {
        let (head, payload) = hear(&mut socket).await.unwrap();
        match head.kind {
            kind::RST_STREAM => {
                assert_eq!(payload, Reason::REFUSED_STREAM.0.to_be_bytes());
                refused.push(head.stream);
            }
            kind::PING => break,
            _ => {}
        }
    }
    assert_eq!(refused, (all / 2..all).map(|at| 2 * at + 1).collect::<Vec<_>>());
    while seen.open.load(Ordering::Relaxed) < usize::from(LIMITS.streams) {
        tokio::task::yield_now().await;
    }
    assert_eq!(seen.begun.load(Ordering::Relaxed), usize::from(LIMITS.streams));
}

#[tokio::test]
async fn data_beyond_the_window_of_the_connection_ends_it() {
    let (mut socket, ..) = serve(&LIMITS);
    let all = frame(kind::DATA, 0, 1, &[0; 16_384]).repeat(LIMITS.window_bytes as usize / 16_384);
    let beyond = frame(kind::DATA, 0, 1, &[0]);
    say(&mut socket, &[PREFACE, SETTINGS, &head(1, "/never", 0), &all, &beyond].concat()).await;
    assert_eq!(hear_end(&mut socket).await, Reason::FLOW_CONTROL_ERROR.0);
}

/// Padding is room on the connection again as soon as it came, and on the stream only when there is more of it.
#[tokio::test]
async fn data_beyond_the_window_of_a_stream_resets_it() {
    let (mut socket, ..) = serve(&LIMITS);
    let padding = frame(kind::DATA, flag::PADDED, 1, &[&[255][..], &[0; 255]].concat()).repeat(160);
    say(&mut socket, &[PREFACE, SETTINGS, &head(1, "/never", 0), &padding].concat()).await;
    let room = LIMITS.window_bytes - 160 * 256;
    let mut left = room as usize;
    while left > 0 {
        let now = left.min(16_384);
        say(&mut socket, &frame(kind::DATA, 0, 1, &vec![0; now])).await;
        left -= now;
    }
    say(&mut socket, &frame(kind::PING, 0, 0, &[1; 8])).await;
    let mut credited = 0;
    loop {
        let (head, payload) = hear(&mut socket).await.unwrap();
        match (head.kind, head.stream) {
            (kind::WINDOW_UPDATE, 0) => credited += u32::from_be_bytes(payload.try_into().unwrap()),
            (kind::PING, _) => break,
            (kind::WINDOW_UPDATE | kind::RST_STREAM, 1) => panic!("{head:?} {payload:?}"),
            _ => {}
        }
    }
    // The first tells the client of the window that it has to begin with.
    assert_eq!(credited, LIMITS.window_bytes - 65_535 + 32_768);
    say(&mut socket, &frame(kind::DATA, 0, 1, &[0])).await;
    let (head, payload) = hear(&mut socket).await.unwrap();
    assert_eq!((head.kind, head.stream), (kind::RST_STREAM, 1));
    assert_eq!(payload, Reason::FLOW_CONTROL_ERROR.0.to_be_bytes());
}

/// Reads so many bytes of a stream's data, and whether there is more at once.
async fn hear_data(socket: &mut DuplexStream, stream: u32, bytes: usize) {
    let mut heard = 0;
    while heard < bytes {
        let (head, payload) = hear(socket).await.unwrap();
        if (head.kind, head.stream) == (kind::DATA, stream) {
            heard += payload.len();
        }
    }
    assert_eq!(heard, bytes);
    // Whatever else there was room for would come before the answer to this.
    say(socket, &frame(kind::PING, 0, 0, &[3; 8])).await;
    loop {
        let (head, _) = hear(socket).await.unwrap();
        assert_ne!((head.kind, head.stream), (kind::DATA, stream), "more than there is room for");
        if head.kind == kind::PING {
            return;
        }
    }
}

#[tokio::test]
async fn a_window_may_become_less_than_nothing() {
    let (mut socket, ..) = serve(&LIMITS);
    let wide = frame(kind::WINDOW_UPDATE, 0, 0, &1_000_000_u32.to_be_bytes());
    say(&mut socket, &[PREFACE, SETTINGS, &wide, &head(1, "/100000", flag::END_STREAM)].concat()).await;
    hear_data(&mut socket, 1, 65_535).await;
    let none = frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let more = |bytes: u32| frame(kind::WINDOW_UPDATE, 0, 1, &bytes.to_be_bytes());
    say(&mut socket, &[none, more(65_535)].concat()).await;
    hear_data(&mut socket, 1, 0).await;
    say(&mut socket, &more(100)).await;
    hear_data(&mut socket, 1, 100).await;
    // What every stream has at first comes on top.
    say(&mut socket, &frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 200])).await;
    hear_data(&mut socket, 1, 200).await;
}

#[tokio::test]
async fn what_was_under_way_on_a_stream_that_was_reset_is_passed_over_and_makes_room() {
    let (mut socket, ..) = serve(&LIMITS);
    let reset = frame(kind::RST_STREAM, 0, 1, &[0; 4]);
    let late = frame(kind::DATA, 0, 1, &[0; 16_384]).repeat(4);
    let trailers = frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 1, &[]);
    let window = frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]);
    let all =
        [PREFACE, SETTINGS, &head(1, "/never", 0), &reset, &late, &trailers, &window, &head(3, "/1", 1)]
            .concat();
    say(&mut socket, &all).await;
    let (mut credited, mut answered) = (0, false);
    while !answered {
        let (head, payload) = hear(&mut socket).await.expect("it goes on");
        match (head.kind, head.stream) {
            (kind::WINDOW_UPDATE, 0) => credited += u32::from_be_bytes(payload.try_into().unwrap()),
            (kind::DATA, 3) => answered = true,
            _ => assert_ne!(head.stream, 1, "{head:?}"),
        }
    }
    assert_eq!(credited, LIMITS.window_bytes - 65_535 + 65_536);
}

/// A name that is long and referred to again and again, so that a few bytes come to many.
#[tokio::test]
async fn a_header_that_unfolds_into_a_large_one_is_too_large() {
    let (mut socket, ..) = serve(&LIMITS);
    let long = [&[0x40, 0x7f, 0xc1, 0x1e][..], &[b'a'; 4032], &[0]].concat();
    let block = [&fields("/1")[..], &long, &[0x7e, 0].repeat(5000)].concat();
    say(&mut socket, &[PREFACE, SETTINGS, &frame(kind::HEADERS, 5, 1, &block), &head(3, "/1", 1)].concat())
        .await;
    let mut heads = Vec::new();
    while heads.len() < 2 {
        let (head, payload) = hear(&mut socket).await.expect("it goes on");
        if head.kind == kind::HEADERS {
            heads.push((head.stream, payload[..5].to_vec()));
        }
    }
    heads.sort();
    // The status: written out, and as everybody knows it.
    assert_eq!(heads[0].1[..5], [0x20, 0x08, 3, b'4', b'3']);
    assert_eq!(heads[1].1[0], 0x88);
}

/// Whoever asks and does not read gets no more answers: what waits stays small, however much is asked.
#[tokio::test]
async fn who_does_not_read_is_not_read_from_either() {
    let (mut socket, ended, ..) = serve(&LIMITS);
    say(&mut socket, &[PREFACE, SETTINGS].concat()).await;
    let pings = frame(kind::PING, 0, 0, &[1; 8]).repeat(1000);
    let mut said = 0;
    let all = 200 * pings.len();
    while said < all {
        let written = socket.write_all(&pings);
        if tokio::time::timeout(Duration::from_millis(300), written).await.is_err() {
            break;
        }
        said += pings.len();
    }
    assert!(said < all, "all of it was taken");
    drop(socket);
    let _ = ended.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_is_not_heard_is_asked_and_then_given_up() {
    let (mut socket, ended, ..) = serve(&LIMITS);
    say(&mut socket, &[PREFACE, SETTINGS].concat()).await;
    let (begun, mut asked) = (tokio::time::Instant::now(), Vec::new());
    while let Some((head, _)) = hear(&mut socket).await {
        if head.kind == kind::PING {
            asked.push(begun.elapsed().as_secs());
        }
    }
    assert_eq!(asked, [LIMITS.ping_after.as_secs()]);
    assert!(matches!(ended.await.unwrap(), Err(Error::Silent)));
    assert_eq!(begun.elapsed().as_secs(), (LIMITS.ping_after + LIMITS.ping_answer).as_secs());
}

/// A setting: room for so much on each stream.
fn roomy_streams() -> Vec<u8> {
    frame(kind::SETTINGS, 0, 0, &[&[0, 4][..], &1_000_000_u32.to_be_bytes()].concat())
}

/// How many bytes of each of these streams come next, so many in all.
async fn hear_shares<const STREAMS: usize>(socket: &mut DuplexStream, bytes: usize) -> [usize; STREAMS] {
    let mut heard = [0; STREAMS];
    while heard.iter().sum::<usize>() < bytes {
        let (head, payload) = hear(socket).await.unwrap();
        assert_ne!(head.kind, kind::RST_STREAM, "{head:?}");
        if head.kind == kind::DATA {
            heard[head.stream as usize / 2] += payload.len();
        }
    }
    heard
}

/// Whose turn comes when there is room for one only is not whose turn was before.
#[tokio::test]
async fn who_comes_later_has_a_share_of_the_connection() {
    let (mut socket, ..) = serve(&LIMITS);
    say(&mut socket, &[PREFACE, &roomy_streams(), &head(1, "/endless", 1)].concat()).await;
    assert_eq!(hear_shares(&mut socket, 65_535).await, [65_535]);
    say(&mut socket, &head(3, "/1000000", 1)).await;
    let mut shares = [0, 0];
    for _ in 0..20 {
        say(&mut socket, &frame(kind::WINDOW_UPDATE, 0, 0, &10_000_u32.to_be_bytes())).await;
        let now: [usize; 2] = hear_shares(&mut socket, 10_000).await;
        shares = [shares[0] + now[0], shares[1] + now[1]];
    }
    assert!(shares.iter().all(|share| *share >= 80_000), "{shares:?}");
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_its_turn_on_the_connection_is_not_unread_and_all_are_when_it_makes_no_room() {
    let (mut socket, ..) = serve(&LIMITS);
    say(&mut socket, &[PREFACE, &roomy_streams()].concat()).await;
    for stream in [1, 3, 5, 7, 9] {
        say(&mut socket, &head(stream, "/endless", 1)).await;
    }
    let _: [usize; 5] = hear_shares(&mut socket, 65_535).await;
    for _ in 0..12 {
        tokio::time::sleep(LIMITS.unread / 3).await;
        say(&mut socket, &frame(kind::WINDOW_UPDATE, 0, 0, &100_u32.to_be_bytes())).await;
        let _: [usize; 5] = hear_shares(&mut socket, 100).await;
    }
    let grew_at = tokio::time::Instant::now();
    let mut reset = Vec::new();
    while reset.len() < 5 {
        let (head, payload) = hear(&mut socket).await.unwrap();
        match head.kind {
            kind::RST_STREAM => {
                assert_eq!(payload, Reason::CANCEL.0.to_be_bytes());
                reset.push(head.stream);
            }
            kind::PING => say(&mut socket, &frame(kind::PING, flag::ACK, 0, &payload)).await,
            _ => {}
        }
    }
    assert_eq!(grew_at.elapsed().as_secs(), LIMITS.unread.as_secs());
}

/// It cannot be asked for a sign of life, and what it says is not read either.
#[tokio::test(start_paused = true)]
async fn who_reads_slowly_is_not_taken_for_dead() {
    let (mut socket, ..) = serve(&LIMITS);
    let roomy = frame(kind::WINDOW_UPDATE, 0, 0, &1_000_000_u32.to_be_bytes());
    say(&mut socket, &[PREFACE, &roomy_streams(), &roomy, &head(1, "/900000", 1)].concat()).await;
    for _ in 0..4 {
        tokio::time::sleep(LIMITS.ping_after + 2 * LIMITS.ping_answer).await;
        let _: [usize; 1] = hear_shares(&mut socket, 150_000).await;
    }
    let _: [usize; 1] = hear_shares(&mut socket, 200_000).await;
}

/// Whoever runs the connection is asked to look also when it is called in the middle of a turn, and nothing comes after that.
#[tokio::test(start_paused = true)]
async fn a_call_in_the_middle_of_a_turn_is_seen() {
    use std::pin::Pin;
    use std::sync::OnceLock;
    use std::task::{Poll, Waker};

    let (mut client, mut server) = tokio::io::duplex(64 * 1024);
    let caller = Arc::new(OnceLock::<Waker>::new());
    let service = service_fn({
        let caller = Arc::clone(&caller);
        move |_: Request<Incoming>| {
            let caller = Arc::clone(&caller);
            // It has nothing to say, and the connection is at work when it is asked.
            let frames = futures_util::stream::poll_fn(move |_| {
                caller.get().expect("it was set first").wake_by_ref();
                Poll::<Option<Result<Frame<Bytes>, Infallible>>>::Pending
            });
            std::future::ready(Ok::<_, Infallible>(Response::new(StreamBody::new(frames))))
        }
    });
    say(&mut client, &[PREFACE, SETTINGS, &head(1, "/", flag::END_STREAM)].concat()).await;
    server.read_exact(&mut [0; PREFACE.len()]).await.unwrap();
    let mut connection = Connection::new(server, service, &LIMITS);
    caller.set(connection.caller()).unwrap();
    assert!(connection.was_called(), "it is asked to look at first");
    let looked = std::future::poll_fn(|context| {
        if connection.was_called() {
            return Poll::Ready(());
        }
        let ended = Pin::new(&mut connection).poll(context);
        assert!(ended.is_pending(), "{ended:?}");
        Poll::Pending
    });
    let begun = tokio::time::Instant::now();
    looked.await;
    assert_eq!(begun.elapsed(), Duration::ZERO, "it was asked by the clock");
}

/// What a client may do next, more or less.
#[derive(Debug, Clone)]
enum Move {
    Open {
        path: &'static str,
        is_last: bool,
    },
    /// On one of the streams so far: which is told by a share of them.
    Data {
        stream: u32,
        bytes: usize,
        padding: u8,
        is_last: bool,
    },
    Trailers {
        stream: u32,
    },
    Reset {
        stream: u32,
    },
    Widen {
        stream: u32,
        bytes: u32,
    },
    WidenAll {
        bytes: u32,
    },
    Window {
        bytes: u32,
    },
    Ping,
    /// Anything.
    Odd {
        kind: u8,
        flags: u8,
        stream: u32,
        payload: Vec<u8>,
    },
}

impl Move {
    /// `opened`: so many streams.
    fn frame(&self, opened: &mut u32) -> Vec<u8> {
        let one = |stream: u32| 2 * (stream % (*opened).max(1)) + 1;
        let last = |is_last: bool| if is_last { flag::END_STREAM } else { 0 };
        match self {
            Self::Open { path, is_last } => {
                *opened += 1;
                head(2 * *opened - 1, path, last(*is_last))
            }
            Self::Data { stream, bytes, padding, is_last } => {
                let payload = [&[*padding][..], &vec![0; *bytes], &vec![0; usize::from(*padding)]].concat();
                frame(kind::DATA, flag::PADDED | last(*is_last), one(*stream), &payload)
            }
            Self::Trailers { stream } => frame(kind::HEADERS, 5, one(*stream), &[]),
            Self::Reset { stream } => frame(kind::RST_STREAM, 0, one(*stream), &[0; 4]),
            Self::Widen { stream, bytes } => {
                frame(kind::WINDOW_UPDATE, 0, one(*stream), &bytes.to_be_bytes())
            }
            Self::WidenAll { bytes } => frame(kind::WINDOW_UPDATE, 0, 0, &bytes.to_be_bytes()),
            Self::Window { bytes } => {
                frame(kind::SETTINGS, 0, 0, &[&[0, 4][..], &bytes.to_be_bytes()].concat())
            }
            Self::Ping => frame(kind::PING, 0, 0, &[5; 8]),
            Self::Odd { kind, flags, stream, payload } => frame(*kind, *flags, *stream, payload),
        }
    }
}

fn some_move() -> impl Strategy<Value = Move> {
    let path = prop_oneof![
        Just("/echo"),
        Just("/pipe"),
        Just("/hasty"),
        Just("/never"),
        Just("/endless"),
        Just("/70000")
    ];
    let payload = proptest::collection::vec(any::<u8>(), 0..40);
    prop_oneof![
        6 => (path, any::<bool>()).prop_map(|(path, is_last)| Move::Open { path, is_last }),
        6 => (any::<u32>(), 0_usize..9_000, any::<u8>(), any::<bool>())
            .prop_map(|(stream, bytes, padding, is_last)| Move::Data { stream, bytes, padding, is_last }),
        1 => any::<u32>().prop_map(|stream| Move::Trailers { stream }),
        2 => any::<u32>().prop_map(|stream| Move::Reset { stream }),
        3 => (any::<u32>(), 1_u32..100_000).prop_map(|(stream, bytes)| Move::Widen { stream, bytes }),
        3 => (1_u32..100_000).prop_map(|bytes| Move::WidenAll { bytes }),
        1 => (0_u32..100_000).prop_map(|bytes| Move::Window { bytes }),
        1 => Just(Move::Ping),
        1 => (0_u8..11, any::<u8>(), 0_u32..12, payload)
            .prop_map(|(kind, flags, stream, payload)| Move::Odd { kind, flags, stream, payload }),
    ]
}

/// All that the server said.
async fn hear_all(mut socket: tokio::io::ReadHalf<DuplexStream>) -> Vec<u8> {
    let mut all = Vec::new();
    let _ = socket.read_to_end(&mut all).await;
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    /// Whatever a client does, cut anywhere: the connection goes on or ends, leaves nothing behind, and makes no more room than was
    /// taken.
    #[test]
    fn any_client_is_served_or_refused(
        moves in proptest::collection::vec(some_move(), 0..40),
        chunk in 1_usize..5_000,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let (socket, ended, seen, _) = serve(&LIMITS);
            let (read, mut write) = tokio::io::split(socket);
            let said = tokio::spawn(hear_all(read));
            let mut opened = 0;
            let frames: Vec<u8> = moves.iter().flat_map(|one| one.frame(&mut opened)).collect();
            for part in [PREFACE, SETTINGS, &frames].concat().chunks(chunk) {
                let _ = write.write_all(part).await;
                tokio::task::yield_now().await;
            }
            let _ = write.shutdown().await;
            let _ = ended.await.expect("no panic");
            while seen.open.load(Ordering::Relaxed) > 0 {
                tokio::task::yield_now().await;
            }
            let (said, mut at, mut room) = (said.await.unwrap(), 0, 65_535 - i64::from(LIMITS.window_bytes));
            while let Some(head) = said.get(at..).and_then(Head::read) {
                let payload = said.get(at + HEAD_BYTES..at + HEAD_BYTES + head.length);
                if (head.kind, head.stream) == (kind::WINDOW_UPDATE, 0) && let Some(payload) = payload {
                    room += i64::from(u32::from_be_bytes(payload.try_into().unwrap()));
                }
                at += HEAD_BYTES + head.length;
            }
            assert!((0..=i64::try_from(frames.len()).unwrap()).contains(&room), "room for {room} bytes was made");
        });
    }
}
