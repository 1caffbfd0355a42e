//! Threads without a runtime, against a real server and real nodes.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use jcm_subscriber::blocking::{BuildError, Cluster, Subscriber};
use jcm_subscriber::{
    CallError, Ended, Failed, Picked, Policy, Retry, Revision, Status, SubscribeError, Verdict,
};
use jcm_tests::server::{self, Server};
use jcm_tests::{Client, Target};
use tokio::runtime::Runtime;

use crate::checked::{TURN_DEADLINE, put, quick_check};
use crate::fixtures::cluster;

/// What a program without a runtime runs beside: a server and its nodes.
struct Scene {
    runtime: Runtime,
    server: Server,
    api: Client,
}

fn scene() -> Scene {
    let runtime = Runtime::new().expect("a runtime");
    let (server, api) = runtime.block_on(server::start());
    Scene { runtime, server, api }
}

fn subscriber(server: &Server) -> Subscriber {
    Subscriber::builder().servers([server.url()]).client_name("threads").build().expect("good input")
}

fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let deadline = Instant::now() + TURN_DEADLINE;
    while !reached() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn ask(node: &Picked) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(node.addr("http").map_err(std::io::Error::other)?)?;
    stream.write_all(b"GET /work HTTP/1.0\r\n\r\n")?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[test]
fn threads_pick_call_and_watch_without_a_runtime() {
    let Scene { runtime, server, api } = scene();
    let target = runtime.block_on(async {
        let target = Target::start(3).await;
        put(&api, "orders", quick_check(), &target).await;
        target
    });
    let jcm = subscriber(&server);
    let orders = jcm.cluster("orders").policy(Policy::round_robin()).subscribe().expect("a good name");
    assert!(orders.ready(TURN_DEADLINE));
    until("all are healthy", || orders.nodes().iter().all(|node| node.verdict == Verdict::Healthy));
    let watching = std::thread::spawn({
        let orders = orders.clone();
        move || {
            orders
                .changes()
                .flat_map(|change| change.turns())
                .map(|turn| turn.node.to_string())
                .collect::<Vec<_>>()
        }
    });
    runtime.block_on(target.behave_at(target.nodes()[0], "refuse"));
    // Calls go elsewhere from the first refusal on.
    let dead = target.nodes()[0].to_string();
    until("it is left", || {
        assert_eq!(orders.call(Retry::default(), ask).expect("another node answers"), "HTTP/1.1 200");
        orders.nodes().iter().any(|node| node.id().as_str() == dead && !node.routable)
    });
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for key in 0..100 {
                    assert_ne!(orders.alloc().expect("a node").id().as_str(), dead);
                    assert_ne!(orders.alloc_for(&key).expect("a node").id().as_str(), dead);
                }
            });
        }
    });
    jcm.shutdown();
    assert!(watching.join().expect("no panic").contains(&dead));
    assert!(matches!(orders.status(), Status::Stale { .. }));
    drop(orders.alloc().expect("handles outlive the thread"));
}

#[test]
fn what_is_waited_for_comes_or_the_time_is_up() {
    let Scene { runtime, server, api } = scene();
    let jcm = Subscriber::builder()
        .servers([server.url()])
        .ready_timeout(Duration::ZERO)
        .build()
        .expect("good input");
    let orders = jcm.cluster("orders").subscribe().expect("a good name");
    assert!(!orders.reached(Revision(1), Duration::from_millis(20)));
    let revision = runtime.block_on(api.put_cluster("orders", &cluster([1, 2]))).revision();
    assert!(orders.ready(Duration::MAX));
    assert!(orders.reached(Revision(revision), TURN_DEADLINE));
    assert_eq!((orders.name().as_str(), orders.nodes().len()), ("orders", 2));
    jcm.shutdown();
    assert!(!orders.reached(Revision(revision + 1), Duration::MAX), "nothing comes any more");
}

#[test]
fn a_call_goes_on_as_far_as_it_may() {
    let Scene { runtime, server, api } = scene();
    runtime.block_on(api.put_cluster("orders", &cluster(1..6))).ok();
    let jcm = subscriber(&server);
    let orders = jcm.cluster("orders").subscribe().expect("a good name");
    assert!(orders.ready(TURN_DEADLINE));
    let failing =
        |retry, failed: fn() -> Failed<&'static str>| match orders.call::<(), _>(retry, |_| Err(failed())) {
            Err(CallError::Failed { attempts, ended, .. }) => (attempts, ended),
            other => panic!("{other:?}"),
        };
    let refused = || Failed::refused("full");
    assert_eq!(failing(Retry::default(), refused), (3, Ended::Attempts));
    assert_eq!(failing(Retry::default().attempts(9), refused), (5, Ended::Nodes));
    assert_eq!(failing(Retry::default(), || Failed::broken("reset")), (1, Ended::NotRepeatable));
    assert_eq!(failing(Retry::default().deadline(Duration::ZERO), refused), (1, Ended::Deadline));
    let keyed = orders.call_for("seven", Retry::default(), |node| Ok::<_, Failed<()>>(node.id().clone()));
    assert_eq!(keyed.expect("a node").as_str(), orders.alloc_for("seven").expect("a node").id().as_str());
}

#[test]
fn what_cannot_work_is_refused_by_name() {
    let refused = Subscriber::builder().servers(["nonsense"]).build().expect_err("no address");
    assert!(
        matches!(refused, BuildError::Input(_)) && refused.to_string().contains("`nonsense`"),
        "{refused}"
    );
    let jcm = Subscriber::builder()
        .servers(["127.0.0.1:1"])
        .ready_timeout(Duration::ZERO)
        .build()
        .expect("good input");
    assert!(matches!(jcm.cluster("..").subscribe(), Err(SubscribeError::Name(_))));
    let other = jcm.clone();
    jcm.shutdown();
    assert!(matches!(other.cluster("orders").subscribe(), Err(SubscribeError::Stopped { .. })));
    other.shutdown();
}

#[test]
fn the_thread_ends_with_the_last_handle() {
    let threads = || {
        let tasks = std::fs::read_dir("/proc/self/task").expect("procfs").flatten();
        let named =
            |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        tasks.map(named).filter(|name| name.trim() == "jcm-subscriber").count()
    };
    // Other tests of this process may have threads of the same name; nextest gives each its own process.
    let jcm = Subscriber::builder()
        .servers(["127.0.0.1:1"])
        .ready_timeout(Duration::ZERO)
        .build()
        .expect("good input");
    let orders = jcm.cluster("orders").subscribe().expect("a good name");
    let changes = orders.changes();
    drop(jcm);
    assert!(threads() >= 1);
    drop(orders);
    assert_eq!(changes.count(), 0, "the changes end when it does");
}

// What `async` code must not do, and what must not end the program all the same.
#[tokio::test]
async fn within_a_runtime_it_neither_panics_nor_stops() {
    let (server, api) = server::start().await;
    api.put_cluster("orders", &cluster([1, 2])).await.ok();
    let jcm = subscriber(&server);
    let orders: Cluster = jcm.cluster("orders").subscribe().expect("a good name");
    // More often than a runtime lets a task go on without a break.
    for _ in 0..1000 {
        assert!(orders.ready(TURN_DEADLINE));
    }
    assert!(orders.changes().next().is_some());
    let answer = orders.call(Retry::default(), |node| Ok::<_, Failed<()>>(node.id().clone()));
    answer.expect("a node");
    let as_async = orders.as_async().clone();
    assert!(as_async.ready().await);
    drop((orders, as_async));
    jcm.shutdown();
}
