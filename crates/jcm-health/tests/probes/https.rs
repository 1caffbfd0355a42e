//! HTTP through TLS, with certificates of every kind.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener as StdListener};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use jcm_health::TlsFault;
use jcm_model::check::Host;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType, date_time_ymd};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, Stream};

use super::*;

/// An authority of the test's own, and the file that names it.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    file: tempfile::NamedTempFile,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(certificate.pem().as_bytes()).unwrap();
        Self { issuer: Issuer::new(params, key), file }
    }

    fn trust(&self) -> Trust {
        Trust::only(self.file.path()).unwrap()
    }

    /// What a node shows that has a certificate with these names, changed by `change`.
    fn sign(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Arc<ServerConfig> {
        let mut params =
            CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        params.subject_alt_names.push(SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        server(certificate.der().clone(), &key)
    }
}

fn server(certificate: CertificateDer<'static>, key: &KeyPair) -> Arc<ServerConfig> {
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    Arc::new(config)
}

/// A node that answers each request with the name that it was asked for by TLS, and keeps the connection.
struct SecureNode {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl SecureNode {
    fn start(config: Arc<ServerConfig>) -> Self {
        Self::answering(config, |name| {
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len())
        })
    }

    fn answering(config: Arc<ServerConfig>, answer: fn(&str) -> String) -> Self {
        let listener = StdListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                counter.fetch_add(1, SeqCst);
                let (mut socket, config) = (socket.unwrap(), Arc::clone(&config));
                std::thread::spawn(move || {
                    let mut session = ServerConnection::new(config).unwrap();
                    let mut request = [0; 4096];
                    while matches!(Stream::new(&mut session, &mut socket).read(&mut request), Ok(1..)) {
                        let answer = answer(session.server_name().unwrap_or("nobody"));
                        if Stream::new(&mut session, &mut socket).write_all(answer.as_bytes()).is_err() {
                            break;
                        }
                    }
                });
            }
        });
        Self { address, connections }
    }
}

fn https() -> Check {
    Check { kind: CheckKind::Https, ..http() }
}

fn named(host: &str) -> Check {
    Check { host: Some(Host::parse(host).unwrap()), ..https() }
}

#[tokio::test]
async fn a_node_with_a_good_certificate_is_asked_by_the_name_that_the_policy_says() {
    let authority = Authority::new();
    let node = SecureNode::start(authority.sign(&["orders.example"], |_| {}));
    for (check, told) in [
        (named("orders.example"), "orders.example"),
        (named("orders.example:8443"), "orders.example"),
        // By its address, for which the certificate is too: no name is told then.
        (https(), "nobody"),
    ] {
        let check = Check { body_contains: Some(told.into()), ..check };
        let before = node.connections.load(SeqCst);
        let seen = reports(authority.trust(), node.address, &check, 4).await;
        assert!(seen.iter().all(|report| report.outcome == Outcome::Answered(200)), "{told}: {seen:?}");
        assert_eq!(node.connections.load(SeqCst), before + 1, "it is kept");
        let first = seen[0].phases;
        assert!(first.connected <= first.secured && first.secured <= first.answering, "{first:?}");
        assert!(first.connected.is_some() && seen[1].phases.secured.is_none());
    }
    let fresh = Check { fresh: true, ..https() };
    let before = node.connections.load(SeqCst);
    reports(authority.trust(), node.address, &fresh, 3).await;
    assert!(node.connections.load(SeqCst) >= before + 3);
}

#[tokio::test]
async fn a_certificate_that_is_no_good_is_told_by_what_is_wrong_with_it() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let past = |params: &mut CertificateParams| {
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(2001, 1, 1);
    };
    let future = |params: &mut CertificateParams| params.not_before = date_time_ymd(4000, 1, 1);
    for (config, fault, part) in [
        (authority.sign(&["a.example"], past), TlsFault::Expired, "expired"),
        (authority.sign(&["a.example"], future), TlsFault::NotYetValid, "not valid yet"),
        (authority.sign(&["b.example"], |_| {}), TlsFault::WrongName, "another name"),
        (stranger.sign(&["a.example"], |_| {}), TlsFault::UnknownIssuer, "unknown issuer"),
    ] {
        let node = SecureNode::start(config);
        let seen = reports(authority.trust(), node.address, &named("a.example"), 2).await;
        for report in seen {
            assert_eq!(report.outcome, Outcome::Tls(fault));
            let text = report.outcome.to_string();
            assert!(text.starts_with("TLS failed: ") && text.contains(part), "{text}");
            assert!(report.outcome.reached() && report.phases.connected.is_some());
        }
        let lenient = Check { verify: false, ..named("a.example") };
        let seen = reports(Trust::default(), node.address, &lenient, 2).await;
        assert!(seen.iter().all(|report| report.outcome == Outcome::Answered(200)), "{part}: {seen:?}");
    }
}

#[tokio::test]
async fn limits_hold_for_what_comes_out_of_tls() {
    let authority = Authority::new();
    let endless_head = |_: &str| format!("HTTP/1.1 200 OK\r\n{}", "X-Padding: 0123456789\r\n".repeat(2_000));
    let node = SecureNode::answering(authority.sign(&[], |_| {}), endless_head);
    let seen = reports(authority.trust(), node.address, &https(), 2).await;
    assert!(seen.iter().all(|report| report.outcome == Outcome::HeadTooLarge), "{seen:?}");
    let huge =
        |_: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n{}", "x".repeat(9_000_000));
    let node = SecureNode::answering(authority.sign(&[], |_| {}), huge);
    let seen = reports(authority.trust(), node.address, &https(), 2).await;
    assert!(seen.iter().all(|report| report.outcome == Outcome::Answered(200)), "{seen:?}");
}

#[tokio::test]
async fn a_node_that_does_not_speak_tls_or_never_ends_to_agree_fails_in_time() {
    let plain = Node::start(|mut stream, _| async move {
        stream.write_all(b"HTTP/1.1 400 Speak plainly\r\n\r\n").await.ok();
        wait_for_end(&mut stream).await;
    })
    .await;
    assert_eq!(outcome(plain.address, &https()).await, Outcome::Tls(TlsFault::NotTls));
    let silent = Node::start(|mut stream, _| async move { wait_for_end(&mut stream).await }).await;
    let impatient = Check { kind: CheckKind::Https, ..impatient() };
    let hung = outcome(silent.address, &impatient).await;
    assert_eq!(hung, Outcome::TimedOut(Phase::Securing));
    assert_eq!(hung.to_string(), "timed out while agreeing on TLS");
    let closing = Node::start(|_, _| async {}).await;
    let ended = outcome(closing.address, &https()).await;
    assert!(matches!(ended, Outcome::Closed | Outcome::Reset), "{ended:?}");
}

#[test]
fn a_file_without_authorities_is_refused_by_name() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"nothing here\n").unwrap();
    let error = Trust::only(file.path()).unwrap_err().to_string();
    assert!(error.contains(file.path().to_str().unwrap()) && error.contains("no certificate"), "{error}");
    assert!(
        Trust::only("/nowhere/at-all.pem".as_ref()).unwrap_err().to_string().contains("/nowhere/at-all.pem")
    );
}
