//! One call of `grpc.health.v1.Health/Check`, as the gRPC protocol over HTTP/2 has it.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::RecvStream;
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderMap, Request, Response, StatusCode, header};
use jcm_model::Check;
use prost::Message;

use crate::outcome::{GrpcStatus, NotGrpc, NotServing, Outcome};

/// Bytes of message that are read. An answer of the health service has two.
pub(super) const MESSAGE_BYTES_MAX: usize = 4 * 1024;

/// What stands before a message: whether it is packed, and its length.
pub(super) const PREFIX_BYTES: usize = 5;

#[derive(Clone, PartialEq, Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// How far a call has come.
pub(super) enum Call {
    /// The connection takes no stream yet.
    Queued(Box<Request<()>>, Bytes),
    Asked(ResponseFuture),
    Answering(Answer),
    /// What it came to before anything came back.
    Failed(Outcome),
}

/// The answer as far as it has come.
pub(super) struct Answer {
    body: RecvStream,
    /// The status where it stands in the head.
    status: Option<GrpcStatus>,
    message: Vec<u8>,
    is_read: bool,
}

/// A stage is left once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Queued,
    Asked,
    Answering,
}

impl Call {
    pub(super) fn new(address: SocketAddr, check: &Check) -> Self {
        let authority =
            check.host.as_ref().map_or_else(|| address.to_string(), |host| host.as_str().to_owned());
        let request = Request::post(format!("http://{authority}/grpc.health.v1.Health/Check"))
            .version(http::Version::HTTP_2)
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .header(header::USER_AGENT, concat!("jcm/", env!("CARGO_PKG_VERSION")))
            .header("grpc-timeout", format!("{}m", check.timeout.as_millis()))
            .body(());
        let message = HealthCheckRequest { service: check.service.to_string() }.encode_to_vec();
        let mut body = vec![0];
        body.extend_from_slice(&u32::try_from(message.len()).expect("a name is short").to_be_bytes());
        body.extend_from_slice(&message);
        match request {
            Ok(request) => Self::Queued(Box::new(request), body.into()),
            // Every host that the model lets pass is an authority.
            Err(_) => Self::Failed(Outcome::NotGrpc(NotGrpc::Http2)),
        }
    }

    pub(super) fn stage(&self) -> Stage {
        match self {
            Self::Queued(..) | Self::Failed(_) => Stage::Queued,
            Self::Asked(_) => Stage::Asked,
            Self::Answering(_) => Stage::Answering,
        }
    }

    /// Goes on as far as it can now. `Err`: what it came to.
    pub(super) fn advance(
        self,
        sender: &mut SendRequest<Bytes>,
        context: &mut Context<'_>,
    ) -> Result<Self, Outcome> {
        match self {
            Self::Failed(outcome) => Err(outcome),
            Self::Queued(request, body) => match sender.poll_ready(context) {
                Poll::Pending => Ok(Self::Queued(request, body)),
                Poll::Ready(Err(error)) => Err(fault(&error)),
                Poll::Ready(Ok(())) => {
                    let (answer, mut stream) =
                        sender.send_request(*request, false).map_err(|error| fault(&error))?;
                    stream.send_data(body, true).map_err(|error| fault(&error))?;
                    Ok(Self::Asked(answer))
                }
            },
            Self::Asked(mut answer) => match Pin::new(&mut answer).poll(context) {
                Poll::Pending => Ok(Self::Asked(answer)),
                Poll::Ready(Err(error)) => Err(fault(&error)),
                Poll::Ready(Ok(answer)) => Ok(Self::Answering(Answer::begin(answer)?)),
            },
            Self::Answering(mut answer) => match answer.read(context) {
                Poll::Pending => Ok(Self::Answering(answer)),
                Poll::Ready(outcome) => Err(outcome),
            },
        }
    }
}

impl Answer {
    fn begin(answer: Response<RecvStream>) -> Result<Self, Outcome> {
        let (head, body) = answer.into_parts();
        if head.status != StatusCode::OK {
            return Err(Outcome::UnexpectedStatus(head.status.as_u16()));
        }
        let is_grpc = head
            .headers
            .get(header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        if !is_grpc {
            return Err(Outcome::NotGrpc(NotGrpc::ContentType));
        }
        Ok(Self { body, status: status(&head.headers), message: Vec::new(), is_read: false })
    }

    fn read(&mut self, context: &mut Context<'_>) -> Poll<Outcome> {
        while !self.is_read {
            match self.body.poll_data(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => self.is_read = true,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(fault(&error)),
                Poll::Ready(Some(Ok(bytes))) => {
                    // What was read makes room for more, on the connection too, which lives on. It cannot fail: as much
                    // has come.
                    let _ = self.body.flow_control().release_capacity(bytes.len());
                    self.message.extend_from_slice(&bytes);
                    if self.message.len() > PREFIX_BYTES + MESSAGE_BYTES_MAX
                        || self.announced() > MESSAGE_BYTES_MAX
                    {
                        return Poll::Ready(Outcome::NotGrpc(NotGrpc::TooLarge));
                    }
                }
            }
        }
        match self.body.poll_trailers(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(fault(&error)),
            Poll::Ready(Ok(trailers)) => {
                let status = trailers.as_ref().and_then(status).or(self.status);
                Poll::Ready(self.judge(status))
            }
        }
    }

    /// How long the message is to be.
    fn announced(&self) -> usize {
        match self.message.as_slice() {
            [_, a, b, c, d, ..] => u32::from_be_bytes([*a, *b, *c, *d]) as usize,
            _ => 0,
        }
    }

    fn judge(&self, status: Option<GrpcStatus>) -> Outcome {
        match status {
            None => return Outcome::NotGrpc(NotGrpc::NoStatus),
            Some(GrpcStatus::OK) => {}
            Some(status) => return Outcome::GrpcStatus(status),
        }
        let Some((prefix, message)) = self.message.split_at_checked(PREFIX_BYTES) else {
            return Outcome::NotGrpc(NotGrpc::Message);
        };
        if prefix[0] != 0 {
            return Outcome::NotGrpc(NotGrpc::Compressed);
        }
        if message.len() != self.announced() {
            return Outcome::NotGrpc(NotGrpc::Message);
        }
        match HealthCheckResponse::decode(message).map(|said| said.status) {
            Err(_) => Outcome::NotGrpc(NotGrpc::Message),
            Ok(0) => Outcome::NotServing(NotServing::Unknown),
            Ok(1) => Outcome::Serving,
            Ok(2) => Outcome::NotServing(NotServing::NotServing),
            Ok(3) => Outcome::NotServing(NotServing::ServiceUnknown),
            Ok(_) => Outcome::NotServing(NotServing::Unheard),
        }
    }
}

/// Whether it takes the head of an answer to come to this.
pub(super) fn has_head(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::UnexpectedStatus(_) | Outcome::NotGrpc(NotGrpc::ContentType))
}

fn status(headers: &HeaderMap) -> Option<GrpcStatus> {
    headers.get("grpc-status").map(|status| GrpcStatus::parse(status.as_bytes()))
}

/// What a broken connection or a call that was reset means.
pub(super) fn fault(error: &h2::Error) -> Outcome {
    match error.reason() {
        // A node that stops says so.
        Some(h2::Reason::NO_ERROR) if error.is_go_away() => Outcome::Closed,
        Some(_) if error.is_reset() && error.is_remote() => Outcome::NotGrpc(NotGrpc::Reset),
        _ if error.is_io() => Outcome::Closed,
        _ => Outcome::NotGrpc(NotGrpc::Http2),
    }
}
