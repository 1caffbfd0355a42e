//! One request, not yet bound to a server.

use std::time::Duration;

use reqwest::Method;
use reqwest::Url;
use serde_json::Value;

use crate::settings::Server;

/// What must hold for a write to be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    /// The cluster is at this revision.
    Revision(u64),
    /// The cluster is not there.
    Absent,
}

/// A request to any server.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    method: Method,
    segments: Vec<String>,
    query: Vec<(&'static str, String)>,
    body: Option<Value>,
    bytes: Option<std::sync::Arc<[u8]>>,
    condition: Option<Condition>,
    last_event_id: Option<String>,
    wait: Duration,
    impatient: bool,
    dry: bool,
}

impl Call {
    /// A request to `/v1/…`; each segment is encoded by itself.
    pub(crate) fn new<S: Into<String>>(method: Method, segments: impl IntoIterator<Item = S>) -> Self {
        Self {
            method,
            segments: segments.into_iter().map(Into::into).collect(),
            query: Vec::new(),
            body: None,
            bytes: None,
            condition: None,
            last_event_id: None,
            wait: Duration::ZERO,
            impatient: false,
            dry: false,
        }
    }

    pub(crate) fn get<S: Into<String>>(segments: impl IntoIterator<Item = S>) -> Self {
        Self::new(Method::GET, segments)
    }

    #[must_use]
    pub(crate) fn with_query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    #[must_use]
    pub(crate) fn with_body(mut self, body: Value) -> Self {
        self.body = Some(body);
        self
    }

    /// Sends bytes instead of JSON.
    #[must_use]
    pub(crate) fn with_bytes(mut self, bytes: Vec<u8>) -> Self {
        self.bytes = Some(bytes.into());
        self
    }

    /// Lets each attempt take this much longer.
    #[must_use]
    pub(crate) fn with_patience(mut self, patience: Duration) -> Self {
        self.wait = patience;
        self
    }

    #[must_use]
    pub(crate) fn with_condition(mut self, condition: Option<Condition>) -> Self {
        self.condition = condition;
        self
    }

    #[must_use]
    pub(crate) fn with_last_event_id(mut self, id: Option<&str>) -> Self {
        self.last_event_id = id.map(str::to_owned);
        self
    }

    /// Lets the server hold its answer back for this long.
    #[must_use]
    pub(crate) fn with_wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self.with_query("wait", jcm_model::duration::format(wait))
    }

    /// Asks each server once: the caller has its own way of trying again, or none.
    #[must_use]
    pub(crate) fn once(mut self) -> Self {
        self.impatient = true;
        self
    }

    pub(crate) fn is_patient(&self) -> bool {
        !self.impatient
    }

    /// Asks what a write would do.
    #[must_use]
    pub(crate) fn dry(mut self) -> Self {
        self.dry = true;
        self.with_query("dry_run", "true")
    }

    /// Changes nothing, although it is no `GET`: it may be sent again at any time.
    #[must_use]
    pub(crate) fn harmless(mut self) -> Self {
        self.dry = true;
        self
    }

    /// Whether it changes something.
    pub(crate) fn is_write(&self) -> bool {
        self.method != Method::GET && !self.dry
    }

    pub(crate) fn method(&self) -> Method {
        self.method.clone()
    }

    pub(crate) fn body(&self) -> Option<&Value> {
        self.body.as_ref()
    }

    pub(crate) fn bytes(&self) -> Option<Vec<u8>> {
        self.bytes.as_deref().map(<[u8]>::to_vec)
    }

    pub(crate) fn condition(&self) -> Option<Condition> {
        self.condition
    }

    pub(crate) fn last_event_id(&self) -> Option<&str> {
        self.last_event_id.as_deref()
    }

    pub(crate) fn wait(&self) -> Duration {
        self.wait
    }

    pub(crate) fn url(&self, server: &Server) -> Url {
        let mut url = server.url().clone();
        url.path_segments_mut()
            .expect("an http URL has a path")
            .pop_if_empty()
            .push("v1")
            .extend(&self.segments);
        if !self.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&self.query);
        }
        url
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_and_queries_cannot_leave_their_place() {
        let server = Server::parse("http://127.0.0.1:1").unwrap();
        let call = Call::get(["clusters", "a/b", "nodes", "[::1]:80"]).with_query("zone", "a&b=c d");
        assert_eq!(
            call.url(&server).as_str(),
            "http://127.0.0.1:1/v1/clusters/a%2Fb/nodes/[::1]:80?zone=a%26b%3Dc+d"
        );
    }
}
