//! The door of the other servers: who may come in, and what each of their calls leads to.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use jcm_model::{ClusterName, Head, Lease, NodeId, Revision};
use jcm_proto::Malformed;
use jcm_proto::discovery::store_id;
use jcm_proto::v1::{self, peers_server};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Response, Status, Streaming};

use super::carrying::{self, Carrying};
use super::follow::{MESSAGES_MAX, Session};
use super::parcel::MESSAGE_BYTES_MAX;
use super::stock::Stock;
use super::token::Guard;
use super::{Peers, QUESTIONS_MAX, Question, Shared};
use crate::checker::Asker;
use crate::registry::Registry;

/// Time that a call may ask for at most: the slowest probe that a policy may ask for, and some more.
const WITHIN_MAX: Duration = Duration::from_secs(65);

/// Time for what this server found: the checker answers in microseconds.
const FINDINGS_DEADLINE: Duration = Duration::from_secs(2);

/// Bytes of the words of an answer.
const OUTCOME_BYTES_MAX: usize = 512;

/// What the other servers may ask of this one.
pub(super) struct Service {
    shared: Arc<Shared>,
    stock: Arc<Stock>,
    asker: Asker,
    registry: Registry,
}

/// The routes of this door, behind its guard. None where there are no other servers.
pub(crate) fn routes<S: Clone + Send + Sync + 'static>(
    peers: &Peers,
    asker: &Asker,
    registry: &Registry,
) -> Router<S> {
    let Some(door) = &peers.0.door else {
        return Router::new();
    };
    let service = Service {
        shared: Arc::clone(&peers.0),
        stock: Arc::clone(&door.stock),
        asker: asker.clone(),
        registry: registry.clone(),
    };
    let service = peers_server::PeersServer::new(service)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let guarded = InterceptedService::new(service, Guard::new(door.token.clone()));
    Router::new().route_service("/jcm.v1.Peers/{method}", guarded)
}

#[tonic::async_trait]
impl peers_server::Peers for Service {
    type FollowStream = ReceiverStream<Result<v1::FollowResponse, Status>>;
    type CarryOutStream = ReceiverStream<Result<v1::CarryOutResponse, Status>>;

    async fn follow(
        &self,
        request: Request<Streaming<v1::FollowRequest>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let (sender, responses) = mpsc::channel(MESSAGES_MAX);
        let session = Session::new(Arc::clone(&self.shared), Arc::clone(&self.stock), sender);
        // The task ends with its stream, when this server hangs up, or when nobody reads.
        self.shared.sessions.spawn(session.run(request.into_inner()));
        Ok(Response::new(ReceiverStream::new(responses)))
    }

    async fn probe(&self, request: Request<v1::ProbeRequest>) -> Result<Response<v1::ProbeResponse>, Status> {
        let v1::ProbeRequest { questions, within_ms } = request.into_inner();
        if questions.len() > QUESTIONS_MAX {
            let text = format!("{} questions, the limit is {QUESTIONS_MAX}", questions.len());
            return Err(Status::invalid_argument(text));
        }
        let questions: Result<Vec<Question>, _> = questions.into_iter().map(TryInto::try_into).collect();
        let questions = questions.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let within = Duration::from_millis(within_ms).min(WITHIN_MAX);
        let answers = tokio::time::timeout(within, self.asker.probe(questions, within)).await;
        let mut answers = answers.map_err(|_| Status::deadline_exceeded("the probes took too long"))?;
        for answer in &mut answers {
            answer.outcome.truncate(answer.outcome.floor_char_boundary(OUTCOME_BYTES_MAX));
        }
        let answers = answers.into_iter().map(Into::into).collect();
        let suspended = self.shared.standing.borrow().suspended;
        Ok(Response::new(v1::ProbeResponse { answers, suspended }))
    }

    async fn holds(&self, request: Request<v1::HoldsRequest>) -> Result<Response<v1::HoldsResponse>, Status> {
        let asked = request.into_inner().leases;
        if asked.len() > QUESTIONS_MAX {
            let text = format!("{} questions, the limit is {QUESTIONS_MAX}", asked.len());
            return Err(Status::invalid_argument(text));
        }
        let now = Instant::now();
        let held = |asked: v1::holds_request::Asked| -> Result<bool, Malformed> {
            let lease = Lease::try_from(v1::Lease { id: asked.lease, ttl_ms: asked.ttl_ms })?;
            let (cluster, node) = (ClusterName::parse(&asked.cluster)?, NodeId::parse(&asked.node)?);
            Ok(self.shared.leases.holds(&cluster, &node, &lease, now))
        };
        let held: Result<Vec<bool>, Malformed> = asked.into_iter().map(held).collect();
        let held = held.map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(Response::new(v1::HoldsResponse { held }))
    }

    async fn findings(
        &self,
        request: Request<v1::FindingsRequest>,
    ) -> Result<Response<v1::FindingsResponse>, Status> {
        let invalid = |error: jcm_model::Invalid| Status::invalid_argument(error.to_string());
        let request = request.into_inner();
        let cluster = ClusterName::parse(&request.cluster).map_err(invalid)?;
        let node = NodeId::parse(&request.node).map_err(invalid)?;
        let findings = tokio::time::timeout(FINDINGS_DEADLINE, self.asker.findings(&cluster, &node)).await;
        let findings = findings.map_err(|_| Status::deadline_exceeded("the checker is busy"))?;
        let findings = findings.map(|findings| serde_json::to_vec(&findings)).transpose();
        let findings = findings.map_err(|error| Status::internal(error.to_string()))?.unwrap_or_default();
        Ok(Response::new(v1::FindingsResponse { findings }))
    }

    async fn count(&self, request: Request<v1::CountRequest>) -> Result<Response<v1::CountResponse>, Status> {
        let v1::CountRequest { cluster, revision, store } = request.into_inner();
        let cluster =
            ClusterName::parse(&cluster).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let store = store_id(&store).unwrap_or_else(|_| self.stock.store());
        let count = self.stock.subscribers(&cluster, Head { store, revision: Revision(revision) });
        let count = serde_json::to_vec(&count).map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(v1::CountResponse { count }))
    }

    async fn carry_out(
        &self,
        request: Request<Streaming<v1::CarryOutRequest>>,
    ) -> Result<Response<Self::CarryOutStream>, Status> {
        let (sender, responses) = mpsc::channel(carrying::MESSAGES_MAX);
        let carrying = Carrying::new(&self.registry, sender, self.shared.hanging_up.clone());
        // The task ends with its stream, or when this server hangs up.
        self.shared.sessions.spawn(carrying.run(request.into_inner()));
        Ok(Response::new(ReceiverStream::new(responses)))
    }
}
