//! How a stream begins and ends.

use futures_util::FutureExt as _;
use jcm_proto::v1::follow_request::{Hello, Request};
use jcm_proto::v1::follow_response::Event;
use tonic::Code;

use super::group::{HANG, Server, store};
use super::raw::Raw;

#[tokio::test]
async fn a_newer_server_and_an_older_one_speak_the_newest_version_that_both_know() {
    let store = store(1, 1).await;
    let server = Server::start("s1", &store).await;
    // A server before there were ranges says one number; one of a later version says that it knows this one as well.
    for (oldest, newest) in [(1, 0), (1, 1), (1, 9)] {
        let mut raw = Raw::connect(server.address).await;
        let hello = Hello { protocol: oldest, newest_protocol: newest, server: "s2".to_owned() };
        raw.ask(Request::Hello(hello)).await;
        let Event::Welcome(welcome) = raw.event().await.unwrap() else { panic!("no welcome") };
        assert_eq!(welcome.protocol, 1, "{oldest} to {newest}");
        assert!(matches!(raw.event().await.unwrap(), Event::Heartbeat(_)), "{oldest} to {newest}");
    }
    let mut raw = Raw::connect(server.address).await;
    let hello = Hello { protocol: 2, newest_protocol: 9, server: "s2".to_owned() };
    raw.ask(Request::Hello(hello)).await;
    let Event::Welcome(welcome) = raw.event().await.unwrap() else { panic!("no welcome") };
    assert_eq!(welcome.protocol, 1, "what is spoken here");
    assert_eq!(raw.refusal().await.code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn a_server_that_hangs_up_waits_for_the_streams_of_those_who_follow() {
    let store = store(1, 1).await;
    let server = Server::start("s1", &store).await;
    let mut raw = Raw::follow(server.address).await;
    assert!(server.peers.join().now_or_never().is_none(), "somebody follows");
    server.peers.hang_up();
    tokio::time::timeout(HANG, server.peers.join()).await.expect("the streams end");
    raw.refusal().await;
}
