//! The facade's JSON: what it takes and what it answers.
//!
//! What it takes may leave almost everything out, and unknown fields are ignored. What it answers holds the fields
//! of 2015 and no others: the clients of then refuse an answer with a field they do not know.

use jcm_model::object;
use serde::{Deserialize, Deserializer, Serialize};

use super::word::{CheckType, Number, Online, Port, Proto};

/// Something that is written as an object, and not as a list of its fields.
#[derive(Debug)]
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        object::decode(deserializer, "this").map(Self)
    }
}

/// A cluster as somebody wants it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PostedCluster {
    pub(super) name: Option<String>,
    pub(super) online: Option<Online>,
    pub(super) nodes: Option<Vec<Object<PostedNode>>>,
    pub(super) check_type: Option<CheckType>,
    pub(super) check_file: Option<String>,
}

/// A node as somebody wants it. What it says of `status` and `lastCheck` is not theirs to say.
#[derive(Debug, Deserialize)]
pub(super) struct PostedNode {
    pub(super) ip: Option<String>,
    pub(super) protos: Option<Vec<Object<PostedPort>>>,
    pub(super) udata: Option<String>,
    pub(super) online: Option<Online>,
}

#[derive(Debug, Deserialize)]
pub(super) struct PostedPort {
    pub(super) port: Port,
    pub(super) proto: Proto,
}

/// Which node shall be in use, or not.
#[derive(Debug, Deserialize)]
pub(super) struct PostedOnline {
    pub(super) spec: String,
    pub(super) online: Online,
}

/// What a client asks for in one poll.
#[derive(Debug, Deserialize)]
pub(super) struct Poll {
    pub(super) units: Option<Vec<Object<PollUnit>>>,
}

/// What a client holds of one cluster.
#[derive(Debug, Deserialize)]
pub(super) struct PollUnit {
    pub(super) name: Option<String>,
    pub(super) version: Option<Number>,
}

/// A cluster as the facade shows it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ShownCluster<'a> {
    pub(super) name: &'a str,
    pub(super) online: Online,
    pub(super) nodes: Vec<ShownNode<'a>>,
    pub(super) check_type: CheckType,
    pub(super) check_file: &'a str,
    pub(super) version: i64,
}

/// A node as the facade shows it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ShownNode<'a> {
    pub(super) ip: String,
    pub(super) protos: Vec<ShownPort>,
    pub(super) udata: &'a str,
    pub(super) status: Status,
    pub(super) online: Online,
    pub(super) last_check: i64,
}

#[derive(Debug, Serialize)]
pub(super) struct ShownPort {
    pub(super) port: Port,
    pub(super) proto: Proto,
}

/// How a node is. The facade never says `TIMEOUT`, the fourth word of 2015: what is published of a node does not tell
/// an answer that was wrong from one that never came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum Status {
    Invalid,
    Normal,
    Abnormal,
}

/// The answer to a poll.
#[derive(Debug, Serialize)]
pub(super) struct PollAnswer<'a> {
    pub(super) units: Vec<AnswerUnit<'a>>,
}

/// What a client is told of one cluster.
#[derive(Debug, Serialize)]
pub(super) struct AnswerUnit<'a> {
    pub(super) name: &'a str,
    #[serde(flatten)]
    pub(super) what: What<'a>,
}

#[derive(Debug, Serialize)]
#[serde(tag = "kind")]
pub(super) enum What<'a> {
    #[serde(rename = "RESP_UPDATE")]
    Update { cluster: ShownCluster<'a> },
    #[serde(rename = "RESP_STATUS")]
    Status { invalids: Vec<String> },
    #[serde(rename = "RESP_REMOVE")]
    Remove,
}
