//! One probe apart from any round, as a peer or a person asks for it.

use super::*;

/// A timeout that is worth waiting for, and of which a pause of this busy machine is a small part: a single probe that was late
/// says nothing, and nobody makes another one.
fn patient() -> Check {
    Check { timeout: Duration::from_secs(3), ..http() }
}

/// A prober for one probe apart from any round.
fn prober(policy: TargetPolicy, at_once_max: usize) -> (OnceProber, Reports) {
    let (sender, reports) = reports::channel(1);
    let options = Options { threads: 1, kept_max: 100, trust: Trust::default() };
    let engine = ReactorEngine::start(&Arc::new(policy), &sender, options).unwrap();
    (OnceProber::new(Arc::new(engine), at_once_max), reports)
}

/// One probe apart from any engine, as a peer is asked for it.
async fn once(address: SocketAddr, check: &Check, within: Duration) -> Result<Outcome, NotProbed> {
    let (prober, _reports) = prober(anywhere(), 4);
    let probed = timeout(DEADLINE, prober.probe(address, &Arc::new(check.clone()), within)).await;
    probed.expect("a probe has a deadline").map(|Probed { outcome, .. }| outcome)
}

#[tokio::test]
async fn one_probe_tells_what_the_engine_would() {
    let well = Node::answering(OK).await;
    let ill = Node::answering("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n").await;
    let silent = Swallowing::start().await;
    let (_taken, dead) = refusing();
    let enough = Duration::from_secs(10);
    assert_eq!(once(well.address, &http(), enough).await, Ok(Outcome::Answered(200)));
    assert_eq!(once(well.address, &tcp(), enough).await, Ok(Outcome::Connected));
    assert_eq!(once(ill.address, &http(), enough).await, Ok(Outcome::UnexpectedStatus(500)));
    assert_eq!(once(dead, &http(), enough).await, Ok(Outcome::Refused));
    assert_eq!(once(silent.address, &patient(), enough).await, Ok(Outcome::TimedOut(Phase::Connecting)));
    let nothing = Check { kind: CheckKind::Lease, ..http() };
    assert_eq!(once(well.address, &nothing, enough).await, Err(NotProbed::Kind(CheckKind::Lease)));
}

#[tokio::test]
async fn one_probe_whose_time_is_cut_short_is_no_result() {
    let silent = Swallowing::start().await;
    let cut = once(silent.address, &http(), Duration::from_millis(50)).await;
    assert_eq!(cut, Err(NotProbed::CutShort));
}

#[tokio::test]
async fn one_probe_goes_nowhere_the_policy_forbids() {
    let well = Node::answering(OK).await;
    let policy = TargetPolicy { loopback_allowed: true, own: vec![well.address] };
    let (prober, _reports) = prober(policy, 4);
    let probed = prober.probe(well.address, &Arc::new(http()), DEADLINE).await.unwrap();
    assert_eq!((probed.outcome, well.connections()), (Outcome::Forbidden, 0));
}

#[tokio::test]
async fn probes_beyond_the_bound_wait_only_while_they_can_still_end_in_time() {
    let silent = Swallowing::start().await;
    let (prober, _reports) = prober(anywhere(), 1);
    let check = Arc::new(patient());
    let first = prober.probe(silent.address, &check, Duration::from_secs(10));
    let no_time = prober.probe(silent.address, &check, check.timeout + Duration::from_millis(20));
    let has_time = prober.probe(silent.address, &check, Duration::from_secs(10));
    let (first, no_time, has_time) = tokio::join!(first, no_time, has_time);
    let timed_out = Outcome::TimedOut(Phase::Connecting);
    assert_eq!(first.map(|probed| probed.outcome), Ok(timed_out));
    assert_eq!(no_time, Err(NotProbed::Busy));
    assert_eq!(has_time.map(|probed| probed.outcome), Ok(timed_out));
}

#[tokio::test]
async fn an_opinion_hears_a_node_whose_first_packets_are_lost() {
    // A connection that is open and on which nothing comes back is what a lost packet looks like.
    let check = Arc::new(patient());
    let (prober, _reports) = prober(anywhere(), 4);
    for second in [OK, "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"] {
        let node = Node::start(move |mut stream, number| async move {
            read_request(&mut stream).await;
            if number > 1 {
                stream.write_all(second.as_bytes()).await.unwrap();
            }
            wait_for_end(&mut stream).await;
        })
        .await;
        let probed = prober.probe_twice(node.address, &check, DEADLINE).await.unwrap();
        assert_eq!(probed.outcome.status(), Some(if second == OK { 200 } else { 500 }));
        assert_eq!(node.connections(), 2);
    }
}

#[tokio::test]
async fn an_opinion_of_a_node_that_says_nothing_is_that_it_failed() {
    let silent = Swallowing::start().await;
    let (prober, _reports) = prober(anywhere(), 4);
    let check = Arc::new(patient());
    let timed_out = Outcome::TimedOut(Phase::Connecting);
    // Whether the second probe has its whole time or only what is left of the first one's.
    for within in [check.timeout * 3, check.timeout + Duration::from_millis(20)] {
        let probed = prober.probe_twice(silent.address, &check, within).await;
        assert_eq!(probed.map(|probed| probed.outcome), Ok(timed_out));
    }
}

#[tokio::test]
async fn an_opinion_of_a_node_that_answers_at_once_costs_one_connection() {
    let ill = Node::answering("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n").await;
    let (prober, _reports) = prober(anywhere(), 4);
    let probed = prober.probe_twice(ill.address, &Arc::new(http()), DEADLINE).await.unwrap();
    assert_eq!((probed.outcome, ill.connections()), (Outcome::UnexpectedStatus(500), 1));
}
