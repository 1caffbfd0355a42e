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
async fn data_beyond_the_window_of_a_stream_resets_it() {
    let limits: &'static Limits = Box::leak(Box::new(Limits { window_bytes: 65_535, ..LIMITS }));
    let (mut socket, ..) = serve(limits);
    let chunk = frame(kind::DATA, 0, 1, &[0; 16_384]);
    say(&mut socket, &[PREFACE, SETTINGS, &head(1, "/never", 0), &chunk.repeat(4)].concat()).await;
    // One byte too many for both: the connection is over.
    assert_eq!(hear_end(&mut socket).await, Reason::FLOW_CONTROL_ERROR.0);
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
    let begun = tokio::time::Instant::now();
    while let Some((head, _)) = hear(&mut socket).await {
        if head.kind == kind::PING {
            assert_eq!(begun.elapsed().as_secs(), LIMITS.ping_after.as_secs());
        }
    }
    assert!(matches!(ended.await.unwrap(), Err(Error::Silent)));
    assert_eq!(begun.elapsed().as_secs(), (LIMITS.ping_after + LIMITS.ping_answer).as_secs());
}

/// Something that looks like a frame.
fn some_frame() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..40),
        Just(fields("/echo")),
        Just(fields("/never")),
        Just(fields("/70000")),
        Just(vec![0, 4, 0, 0, 1, 0]),
        any::<u32>().prop_map(|number| number.to_be_bytes().to_vec()),
    ];
    (0_u8..11, any::<u8>(), 0_u32..8, payload)
        .prop_map(|(kind, flags, stream, payload)| frame(kind, flags, stream, &payload))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// Any frames, cut anywhere: the connection goes on or ends, and leaves nothing behind.
    #[test]
    fn any_frames_are_taken(
        frames in proptest::collection::vec(some_frame(), 0..20),
        chunk in 1_usize..200,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let (socket, ended, seen, _) = serve(&LIMITS);
            let (mut read, mut write) = tokio::io::split(socket);
            let reader = tokio::spawn(async move {
                let mut bytes = [0; 512];
                while read.read(&mut bytes).await.is_ok_and(|count| count > 0) {}
                read
            });
            let bytes = [PREFACE, SETTINGS, &frames.concat()].concat();
            for part in bytes.chunks(chunk) {
                let _ = write.write_all(part).await;
                tokio::task::yield_now().await;
            }
            let _ = write.shutdown().await;
            let _ = ended.await.expect("no panic");
            drop(reader.await);
            while seen.open.load(Ordering::Relaxed) > 0 {
                tokio::task::yield_now().await;
            }
        });
    }
}
