//! A thin client of `/v1`: JSON in, status, headers and JSON out.
//!
//! It does not know the shapes as types, on purpose: a suite asserts what a user sees on the wire.

use std::fmt::{self, Display};
use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

/// Over every deadline that the server has for itself, except a long poll's.
const REQUEST_DEADLINE: Duration = Duration::from_secs(40);

#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
}

/// One answer, with what was asked, so that a failed assertion tells the whole story.
#[derive(Debug, Clone)]
pub struct Answer {
    pub asked: String,
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
    /// `Null` when the body is not JSON.
    pub body: Value,
}

impl Client {
    pub fn new(base: &str) -> Self {
        // Without a proxy: the environment of the machine must not send loopback traffic elsewhere.
        let http = reqwest::Client::builder().no_proxy().build().expect("a client without TLS always builds");
        Self { http, base: base.trim_end_matches('/').to_owned() }
    }

    /// A request to a path of this server, for what the short forms below do not cover.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base)).timeout(REQUEST_DEADLINE)
    }

    /// Sends and reads to the end; an error is a server that is not there or broke off.
    pub async fn try_send(&self, request: RequestBuilder) -> Result<Answer, reqwest::Error> {
        let request = request.build()?;
        let asked = format!("{} {}", request.method(), request.url());
        let response = self.http.execute(request).await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await?;
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        Ok(Answer { asked, status, headers, text, body })
    }

    pub async fn send(&self, request: RequestBuilder) -> Answer {
        match self.try_send(request).await {
            Ok(answer) => answer,
            Err(error) => panic!("no answer: {error:?}"),
        }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(self.request(Method::DELETE, path)).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(Method::PUT, path).json(body)).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    pub async fn patch(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(Method::PATCH, path).json(body)).await
    }

    pub async fn put_cluster(&self, name: &str, cluster: &Value) -> Answer {
        self.put(&cluster_path(name), cluster).await
    }

    pub async fn get_cluster(&self, name: &str) -> Answer {
        self.get(&cluster_path(name)).await
    }

    pub async fn patch_cluster(&self, name: &str, change: &Value) -> Answer {
        self.patch(&cluster_path(name), change).await
    }

    pub async fn delete_cluster(&self, name: &str) -> Answer {
        self.delete(&cluster_path(name)).await
    }

    /// One node or a list of them.
    pub async fn post_nodes(&self, cluster: &str, nodes: &Value) -> Answer {
        self.post(&format!("{}/nodes", cluster_path(cluster)), nodes).await
    }

    pub async fn patch_node(&self, cluster: &str, id: &str, change: &Value) -> Answer {
        self.patch(&node_path(cluster, id), change).await
    }

    pub async fn delete_node(&self, cluster: &str, id: &str) -> Answer {
        self.delete(&node_path(cluster, id)).await
    }

    /// Many clusters in one atomic commit.
    pub async fn apply(&self, clusters: &Value) -> Answer {
        self.post("/v1/apply", &apply_body(clusters)).await
    }

    pub async fn view(&self, cluster: &str) -> Answer {
        self.get(&format!("{}/view", cluster_path(cluster))).await
    }

    pub async fn resolve(&self, cluster: &str, query: &str) -> Answer {
        self.get(&format!("/v1/resolve/{cluster}?{query}")).await
    }

    pub async fn why(&self, cluster: &str, id: &str) -> Answer {
        self.get(&format!("{}/why", node_path(cluster, id))).await
    }
}

pub fn cluster_path(name: &str) -> String {
    format!("/v1/clusters/{}", percent_encoded(name))
}

pub fn node_path(cluster: &str, id: &str) -> String {
    format!("{}/nodes/{}", cluster_path(cluster), percent_encoded(id))
}

/// What `POST /v1/apply` takes: `clusters` is a list of cluster shapes.
pub fn apply_body(clusters: &Value) -> Value {
    json!({ "clusters": clusters })
}

/// One path segment: everything that is not unreserved (or the colon of a node id) is encoded.
pub fn percent_encoded(segment: &str) -> String {
    segment
        .bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

impl Answer {
    /// The body of an answer that is 200 or 201.
    #[track_caller]
    pub fn ok(&self) -> &Value {
        assert!(matches!(self.status, 200 | 201), "wanted 200 or 201\n{self}");
        &self.body
    }

    #[track_caller]
    pub fn expect_status(&self, status: u16) -> &Self {
        assert_eq!(self.status, status, "{self}");
        self
    }

    /// The detail of an RFC 9457 problem with this status.
    #[track_caller]
    pub fn expect_problem(&self, status: u16) -> &str {
        self.expect_status(status);
        self.problem()
    }

    /// The detail of an RFC 9457 problem, whose parts are all there.
    #[track_caller]
    pub fn problem(&self) -> &str {
        let kind = self.header("content-type").unwrap_or_default();
        assert!(kind.starts_with("application/problem+json"), "content type {kind:?}\n{self}");
        for part in ["type", "title", "detail"] {
            assert!(self.body[part].as_str().is_some_and(|text| !text.is_empty()), "`{part}`\n{self}");
        }
        assert_eq!(self.body["status"], self.status, "`status`\n{self}");
        self.body["detail"].as_str().expect("asserted above")
    }

    /// The revision that a write answers.
    #[track_caller]
    pub fn revision(&self) -> u64 {
        self.ok()["revision"].as_u64().unwrap_or_else(|| panic!("no revision\n{self}"))
    }

    /// The revision in the `ETag` of a read.
    #[track_caller]
    pub fn etag(&self) -> u64 {
        let tag = self.header("etag").unwrap_or_else(|| panic!("no ETag\n{self}"));
        tag.trim_matches('"').parse().unwrap_or_else(|_| panic!("ETag {tag:?} is not a revision\n{self}"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// One node of a view, by its id.
    #[track_caller]
    pub fn node(&self, id: &str) -> &Value {
        let nodes = self.ok()["nodes"].as_array().unwrap_or_else(|| panic!("no nodes\n{self}"));
        nodes.iter().find(|node| node["id"] == id).unwrap_or_else(|| panic!("no node {id}\n{self}"))
    }

    /// The ids of a view's or a resolve's nodes, in order.
    #[track_caller]
    pub fn node_ids(&self) -> Vec<String> {
        let nodes = self.ok()["nodes"].as_array().unwrap_or_else(|| panic!("no nodes\n{self}"));
        nodes.iter().filter_map(|node| node["id"].as_str().map(str::to_owned)).collect()
    }
}

impl Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n-> {} {:?}\n{}", self.asked, self.status, self.headers, self.text)
    }
}
