//! A follower that says what a test says, and nothing else.

use std::net::SocketAddr;

use jcm_proto::v1;
use jcm_proto::v1::follow_request::{Hello, Request};
use jcm_proto::v1::follow_response::Event;
use jcm_proto::v1::peers_client::PeersClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::group::HANG;

pub(super) struct Raw {
    pub(super) requests: mpsc::Sender<v1::FollowRequest>,
    stream: Streaming<v1::FollowResponse>,
}

impl Raw {
    pub(super) async fn connect(address: SocketAddr) -> Self {
        let mut client = PeersClient::connect(format!("http://{address}")).await.unwrap();
        let (requests, receiver) = mpsc::channel(16);
        let stream = client.follow(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        Self { requests, stream }
    }

    /// One that was welcomed.
    pub(super) async fn follow(address: SocketAddr) -> Self {
        let mut raw = Self::connect(address).await;
        let hello = Hello { protocol: 1, newest_protocol: 0, server: "raw".to_owned() };
        raw.ask(Request::Hello(hello)).await;
        assert!(matches!(raw.event().await.unwrap(), Event::Welcome(_)));
        raw
    }

    pub(super) async fn ask(&self, request: Request) {
        self.requests.send(v1::FollowRequest { request: Some(request) }).await.unwrap();
    }

    pub(super) async fn event(&mut self) -> Result<Event, Status> {
        let message = tokio::time::timeout(HANG, self.stream.message()).await;
        match message.expect("the stream is not silent")? {
            Some(message) => Ok(message.event.unwrap()),
            None => Err(Status::ok("it ended")),
        }
    }

    /// The next verdicts, whatever comes before them.
    pub(super) async fn verdicts(&mut self) -> Vec<v1::NodeVerdict> {
        loop {
            if let Event::Verdicts(verdicts) = self.event().await.unwrap() {
                return verdicts.clusters.into_iter().flat_map(|cluster| cluster.verdicts).collect();
            }
        }
    }

    /// Why it is refused.
    pub(super) async fn refusal(&mut self) -> Status {
        loop {
            if let Err(status) = self.event().await {
                return status;
            }
        }
    }
}
