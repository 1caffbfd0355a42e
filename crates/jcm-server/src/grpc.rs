//! The gRPC door to definitions: `jcm.v1.Registry`. Each call becomes what the JSON API makes of its requests, and is
//! answered from the same; an error has the same text and code, in a status and its trailers.

mod status;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response as HttpResponse};
use jcm_model::{
    ClusterName, ClusterSpec, LeaseId, Mutation, NodeId, NodeSpec, OperationId, Precondition, Revision,
};
use jcm_proto::v1;
use jcm_proto::v1::registry_server::{Registry, RegistryServer};
use tonic::{Response, Status};
use uuid::Uuid;

use crate::app::App;
use crate::definitions::{self, Condition, Done, Freshness, Selection, Terms, caught_up};
use crate::doors::REQUEST_DEADLINE;
use crate::http::{BODY_BYTES_MAX, BULK_BODY_BYTES_MAX, Problem, decode_body};
use crate::registry::{Fate, Outcome, Written};
use status::{malformed, refused};

type Answer<T> = Result<Response<T>, Status>;

/// The routes of this door.
pub(crate) fn routes(app: App) -> Router<App> {
    let service = RegistryServer::new(Door(app)).max_decoding_message_size(BULK_BODY_BYTES_MAX);
    Router::new().route_service("/jcm.v1.Registry/{method}", service).layer(middleware::from_fn(deadline))
}

/// Bounds the whole of a call: nothing here legitimately takes as long.
async fn deadline(request: Request, next: Next) -> HttpResponse {
    let answer = tokio::time::timeout(REQUEST_DEADLINE, next.run(request)).await;
    answer.unwrap_or_else(|_| {
        let detail = format!("the call was not finished within {} s", REQUEST_DEADLINE.as_secs());
        Status::deadline_exceeded(detail).into_http::<axum::body::Body>().into_response()
    })
}

struct Door(App);

#[tonic::async_trait]
impl Registry for Door {
    async fn get_cluster(
        &self,
        request: tonic::Request<v1::GetClusterRequest>,
    ) -> Answer<v1::GetClusterResponse> {
        let request = request.into_inner();
        let name = name(&request.cluster)?;
        caught_up(&self.0, freshness(request.freshness)).await.map_err(refused)?;
        let cluster = definitions::get(&self.0, &name).map_err(refused)?;
        Ok(Response::new(v1::GetClusterResponse { cluster: Some(cluster.as_ref().into()) }))
    }

    async fn list_clusters(
        &self,
        request: tonic::Request<v1::ListClustersRequest>,
    ) -> Answer<v1::ListClustersResponse> {
        let request = request.into_inner();
        caught_up(&self.0, freshness(request.freshness)).await.map_err(refused)?;
        let given = |text: String| Some(text).filter(|text| !text.is_empty());
        let state = given(request.state).map(|state| Condition::parse(&state)).transpose();
        let selection = Selection {
            label: given(request.label),
            state: state.map_err(refused)?,
            after: given(request.after),
            limit: usize::try_from(request.limit).ok().filter(|limit| *limit > 0),
        };
        let page = definitions::list(&self.0, &selection).map_err(refused)?;
        let row = |row: definitions::Row| v1::list_clusters_response::Row {
            name: row.name.to_string(),
            revision: row.revision.0,
            nodes: count(row.nodes),
            healthy: count(row.healthy),
            state: row.state.as_str().to_owned(),
        };
        Ok(Response::new(v1::ListClustersResponse {
            clusters: page.clusters.into_iter().map(row).collect(),
            next: page.next.map(|name| name.to_string()).unwrap_or_default(),
            revision: page.revision.0,
        }))
    }

    async fn put_cluster(&self, request: tonic::Request<v1::PutClusterRequest>) -> Answer<v1::WriteResponse> {
        let request = request.into_inner();
        let spec = ClusterSpec::try_from(request.cluster.unwrap_or_default()).map_err(malformed)?;
        let name = spec.name.clone().ok_or_else(|| {
            refused(Problem::invalid("cluster.name: is missing").with("field", "cluster.name"))
        })?;
        self.done(definitions::put(&self.0, &name, spec, terms(request.options)?).await)
    }

    async fn patch_cluster(
        &self,
        request: tonic::Request<v1::PatchClusterRequest>,
    ) -> Answer<v1::WriteResponse> {
        let request = request.into_inner();
        let mutation = Mutation::PatchCluster(patch(&request.merge_patch)?);
        self.change(&request.cluster, mutation, request.options).await
    }

    async fn delete_cluster(
        &self,
        request: tonic::Request<v1::DeleteClusterRequest>,
    ) -> Answer<v1::WriteResponse> {
        let request = request.into_inner();
        self.change(&request.cluster, Mutation::DeleteCluster, request.options).await
    }

    async fn put_nodes(&self, request: tonic::Request<v1::PutNodesRequest>) -> Answer<v1::WriteResponse> {
        let request = request.into_inner();
        let node = |(at, node): (usize, v1::Node)| {
            NodeSpec::try_from(node).map_err(|error| malformed(error.within(&format!("nodes[{at}]"))))
        };
        let nodes = request.nodes.into_iter().enumerate().map(node).collect::<Result<_, _>>()?;
        let cluster = name(&request.cluster)?;
        self.done(definitions::put_nodes(&self.0, &cluster, nodes, terms(request.options)?).await)
    }

    async fn patch_node(&self, request: tonic::Request<v1::PatchNodeRequest>) -> Answer<v1::WriteResponse> {
        let request = request.into_inner();
        let mutation = Mutation::PatchNode(node_id(&request.node)?, patch(&request.merge_patch)?);
        self.change(&request.cluster, mutation, request.options).await
    }

    async fn delete_node(&self, request: tonic::Request<v1::DeleteNodeRequest>) -> Answer<v1::WriteResponse> {
        let request = request.into_inner();
        let mutation = Mutation::DeleteNodes(vec![node_id(&request.node)?]);
        self.change(&request.cluster, mutation, request.options).await
    }

    async fn apply(&self, request: tonic::Request<v1::ApplyRequest>) -> Answer<v1::WriteResponse> {
        let request = request.into_inner();
        let terms = terms(request.options)?;
        if terms.precondition != Precondition::default() {
            let detail = "options.condition is a condition on one cluster, and this names many";
            return Err(refused(Problem::invalid(detail)));
        }
        let cluster = |(at, cluster): (usize, v1::ClusterSpec)| {
            ClusterSpec::try_from(cluster)
                .map_err(|error| malformed(error.within(&format!("clusters[{at}]"))))
        };
        let clusters = request.clusters.into_iter().enumerate().map(cluster).collect::<Result<_, _>>()?;
        self.done(definitions::apply(&self.0, clusters, request.prune, terms).await)
    }

    async fn get_operation(
        &self,
        request: tonic::Request<v1::GetOperationRequest>,
    ) -> Answer<v1::GetOperationResponse> {
        let operation = Uuid::parse_str(&request.into_inner().operation).map_err(|_| {
            let detail = "operation: an operation id is what a write answered as `operation`";
            refused(Problem::invalid(detail).with("field", "operation"))
        })?;
        let fate = self.0.registry.fate(OperationId(operation)).await;
        let (state, revision) = match fate {
            Fate::Applied(revision) => (v1::get_operation_response::State::Applied, revision),
            Fate::NotApplied => (v1::get_operation_response::State::NotApplied, Revision::ZERO),
            Fate::Unknown => (v1::get_operation_response::State::Unknown, Revision::ZERO),
            Fate::Forgotten => (v1::get_operation_response::State::Forgotten, Revision::ZERO),
        };
        Ok(Response::new(v1::GetOperationResponse { state: state.into(), revision: revision.0 }))
    }
}

impl Door {
    fn done(&self, done: Result<Done, Problem>) -> Answer<v1::WriteResponse> {
        answer(&self.0, done)
    }

    async fn change(
        &self,
        cluster: &str,
        mutation: Mutation,
        options: Option<v1::WriteOptions>,
    ) -> Answer<v1::WriteResponse> {
        self.done(definitions::change(&self.0, &name(cluster)?, mutation, terms(options)?).await)
    }
}

fn name(text: &str) -> Result<ClusterName, Status> {
    ClusterName::parse(text).map_err(|error| refused(error.within("cluster").into()))
}

fn node_id(text: &str) -> Result<NodeId, Status> {
    NodeId::parse(text).map_err(|error| refused(error.within("node").into()))
}

/// Held to the size that a patch has over HTTP.
fn patch(text: &str) -> Result<serde_json::Value, Status> {
    if text.len() > BODY_BYTES_MAX {
        return Err(refused(Problem::too_large(BODY_BYTES_MAX)));
    }
    decode_body(text.as_bytes()).map_err(refused)
}

fn freshness(message: Option<v1::Freshness>) -> Freshness {
    let message = message.unwrap_or_default();
    Freshness { min_revision: Some(message.min_revision), consistent: message.consistent }
}

fn terms(options: Option<v1::WriteOptions>) -> Result<Terms, Status> {
    use v1::write_options::Condition;
    let options = options.unwrap_or_default();
    let mut precondition = Precondition::default();
    match options.condition {
        Some(Condition::Revision(revision)) => precondition.revision = Some(Revision(revision)),
        Some(Condition::Absent(absent)) => precondition.absent = absent,
        Some(Condition::Lease(lease)) => {
            let lease =
                LeaseId::try_from(lease.as_slice()).map_err(|e| refused(e.within("options.lease").into()))?;
            precondition.lease = Some(lease);
        }
        None => {}
    }
    let key = Some(options.idempotency_key).filter(|key| !key.is_empty());
    Ok(Terms { precondition, key, dry_run: options.dry_run })
}

fn answer(app: &App, done: Result<Done, Problem>) -> Answer<v1::WriteResponse> {
    let answer = match done.map_err(refused)? {
        Done::Tried(outcomes) => {
            v1::WriteResponse { results: outcomes.iter().map(result).collect(), ..Default::default() }
        }
        Done::Written(Written { operation, revision, created, outcomes }) => v1::WriteResponse {
            revision: revision.0,
            operation: operation.to_string(),
            created,
            results: outcomes.iter().map(result).collect(),
            store: app.catalog.get().store.0.as_bytes().to_vec(),
        },
    };
    Ok(Response::new(answer))
}

fn result(outcome: &Outcome) -> v1::write_response::Result {
    let ids = |ids: &[NodeId]| ids.iter().map(NodeId::to_string).collect();
    v1::write_response::Result {
        name: outcome.name.to_string(),
        action: outcome.action.as_str().to_owned(),
        revision: outcome.revision.0,
        header_changed: outcome.header_changed,
        nodes_added: ids(&outcome.nodes_added),
        nodes_changed: ids(&outcome.nodes_changed),
        nodes_removed: ids(&outcome.nodes_removed),
    }
}

fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
