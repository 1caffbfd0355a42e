//! Nodes that speak through TLS, and nodes with the health service of gRPC.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests too")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;

use jcm_tests::{Server, eventually, server};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, Stream};
use serde_json::{Value, json};
use tonic_health::ServingStatus;

use crate::checked::{TURN_DEADLINE, quick_check, results, verdict, why};

/// A node that answers through TLS, with a certificate for `name` by this authority.
fn secure_node(name: &str, authority: &Issuer<'_, KeyPair>) -> SocketAddr {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let (mut socket, config) = (socket.unwrap(), Arc::clone(&config));
            std::thread::spawn(move || {
                let mut session = ServerConnection::new(config).unwrap();
                let mut request = [0; 4096];
                while matches!(Stream::new(&mut session, &mut socket).read(&mut request), Ok(1..)) {
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nall is well";
                    if Stream::new(&mut session, &mut socket).write_all(answer).is_err() {
                        break;
                    }
                }
            });
        }
    });
    address
}

fn cluster(check: &Value, node: SocketAddr) -> Value {
    json!({ "check": check, "nodes": [{ "address": node.ip().to_string(), "ports": { "main": node.port() } }] })
}

#[tokio::test]
async fn a_node_behind_tls_is_healthy_only_with_a_certificate_that_counts() {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let mut ca_file = tempfile::NamedTempFile::new().unwrap();
    ca_file.write_all(params.self_signed(&key).unwrap().pem().as_bytes()).unwrap();
    let node = secure_node("orders.example", &Issuer::new(params, key));

    let config = format!("[health]\nca_file = \"{}\"\n", ca_file.path().display());
    let server = Server::serve(&config).start().await;
    let client = server.client();
    let check = json!({
        "kind": "https", "host": "orders.example", "body_contains": "is well",
        "interval": "400ms", "timeout": "350ms", "fall": 2, "rise": 2
    });
    client.put_cluster("secure", &cluster(&check, node)).await.ok();
    verdict(&client, "secure", node, "healthy").await;
    client.patch_cluster("secure", &json!({ "check": { "host": "other.example" } })).await.ok();
    verdict(&client, "secure", node, "down").await;
    let why = why(&client, "secure", node).await;
    let error = results(&why)[0]["error"].as_str().unwrap_or_default().to_owned();
    assert_eq!(error, "TLS failed: the certificate is for another name", "{why}");
    client.patch_cluster("secure", &json!({ "check": { "verify": false } })).await.ok();
    verdict(&client, "secure", node, "healthy").await;
    let held = client.get_cluster("secure").await;
    assert_eq!(held.ok()["check"]["verify"], false, "{held}");
    let again = client.put_cluster("secure", held.ok()).await;
    assert_eq!(again.ok()["revision"], client.put_cluster("secure", held.ok()).await.ok()["revision"]);
}

#[tokio::test]
async fn a_node_with_a_health_service_is_what_that_says() {
    let (_server, client) = server::start().await;
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let node = listener.local_addr().unwrap();
    let (reporter, service) = tonic_health::server::health_reporter();
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));

    reporter.set_service_status("orders.v1.Orders", ServingStatus::Serving).await;
    let check = json!({
        "kind": "grpc", "service": "orders.v1.Orders", "interval": "400ms", "timeout": "350ms", "fall": 2, "rise": 2
    });
    client.put_cluster("calls", &cluster(&check, node)).await.ok();
    verdict(&client, "calls", node, "healthy").await;
    reporter.set_service_status("orders.v1.Orders", ServingStatus::NotServing).await;
    verdict(&client, "calls", node, "down").await;
    let said = async |wanted: &str| {
        eventually(TURN_DEADLINE, wanted, async || {
            let why = why(&client, "calls", node).await;
            let error = results(&why).first().map(|result| result["error"].clone());
            if error == Some(json!(wanted)) { Ok(()) } else { Err(why) }
        })
        .await;
    };
    said("the health service says NOT_SERVING").await;
    client.patch_cluster("calls", &json!({ "check": { "service": "nobody.Knows" } })).await.ok();
    said("gRPC status 5 NOT_FOUND").await;
    // The whole server, which the reporter says serves.
    client.patch_cluster("calls", &json!({ "check": { "service": "" } })).await.ok();
    verdict(&client, "calls", node, "healthy").await;
}

#[tokio::test]
async fn a_field_that_the_kind_does_not_have_is_refused_by_name() {
    let (_server, client) = server::start().await;
    let node: SocketAddr = "127.0.0.1:9".parse().unwrap();
    for (kind, field, value) in [
        ("tcp", "path", json!("/")),
        ("http", "service", json!("a")),
        ("http", "verify", json!(false)),
        ("grpc", "expect", json!("200")),
        ("grpc", "body_contains", json!("a")),
        ("https", "service", json!("a")),
    ] {
        let mut check = json!({ "kind": kind });
        check[field] = value;
        let refused = client.put_cluster("odd", &cluster(&check, node)).await;
        assert_eq!(refused.status, 400, "{refused}");
        let detail = refused.body["detail"].as_str().unwrap_or_default();
        assert!(detail.contains(field) && detail.contains(kind), "{refused}");
    }
    // What a kind has is shown, and a patch to another kind leaves the rest behind.
    client.put_cluster("odd", &cluster(&quick_check(), node)).await.ok();
    client.patch_cluster("odd", &json!({ "check": { "kind": "grpc" } })).await.ok();
    let held = client.get_cluster("odd").await;
    let check = held.ok()["check"].as_object().expect("a check");
    assert!(check.contains_key("service") && !check.contains_key("path"), "{held}");
}
