//! The connection to one server, as calls use it.

use std::time::Duration;

use jcm_model::ServerId;
use jcm_proto::v1::peers_client::PeersClient;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use super::PeerError;
use super::forwarding::Forwarder;
use super::token::Bearer;

pub(super) type Client = PeersClient<InterceptedService<Channel, Bearer>>;

/// The connection to one server.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) server: ServerId,
    pub(super) client: Client,
    pub(super) forwarder: Forwarder,
}

impl Line {
    /// One call and its answer, within a time.
    pub(super) async fn call<T>(
        self,
        within: Duration,
        call: impl AsyncFnOnce(Client) -> Result<Response<T>, Status>,
    ) -> Result<T, PeerError> {
        let Self { server, client, forwarder: _ } = self;
        match tokio::time::timeout(within, call(client)).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(failed(server, &status, within)),
            Err(_) => Err(PeerError::TimedOut { server, within }),
        }
    }
}

fn failed(server: ServerId, status: &Status, within: Duration) -> PeerError {
    let reason = jcm_model::invalid::quoted(status.message());
    match status.code() {
        Code::Unauthenticated
        | Code::InvalidArgument
        | Code::Unimplemented
        | Code::ResourceExhausted
        | Code::FailedPrecondition => PeerError::Refused { server, reason },
        Code::DeadlineExceeded => PeerError::TimedOut { server, within },
        _ => PeerError::Broken { server, reason },
    }
}
