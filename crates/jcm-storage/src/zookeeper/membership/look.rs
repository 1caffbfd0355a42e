//! Looking at what the servers have in the store: one round trip, and one more when servers came or went.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, FutureExt, join_all, select_all};
use jcm_model::{ServerId, StoreId};
use tracing::warn;
use zookeeper_client as zk;

use super::super::layout;
use super::super::session::{CallError, Session};
use super::election::{Epoch, Queue};
use super::reading::{Reading, Registration, decode_leader, decode_member};
use super::{ELECTION, EPOCH, RING, Recognise, SERVERS, place};
use crate::RingMembers;
use crate::store::chain;

/// How long an answer is waited for: a third of the shortest session that makes sense, so that a look that is lost
/// leaves time for another one before a leader has to step down.
const LOOK_PATIENCE: Duration = Duration::from_secs(2);

/// What was found.
pub(super) struct Look {
    pub(super) store: StoreId,
    pub(super) reading: Reading,
    /// When it was asked for: this server was alive for ZooKeeper then.
    pub(super) sent: Instant,
    /// The session that asked.
    pub(super) session: i64,
    pub(super) session_timeout: Duration,
}

/// What there is to see.
pub(super) enum Sight {
    /// The servers of the store.
    Clear(Box<Look>),
    /// The znodes below which servers are kept are not all there.
    Bare,
    /// Another store, or none yet.
    Foreign,
}

/// Ready as soon as something of what was looked at may have changed.
pub(super) type Hint = BoxFuture<'static, ()>;

/// Looks, and remembers the servers between looks: their records are read only when some came or went.
#[derive(Default)]
pub(super) struct Looker {
    /// The store, and the change of the list of servers, that they were read at.
    read_at: Option<(StoreId, i64)>,
    servers: BTreeMap<ServerId, Registration>,
}

/// What one round trip brings.
struct Raw {
    session: i64,
    session_timeout: Duration,
    is_bare: bool,
    identity: Option<Vec<u8>>,
    epoch: (Vec<u8>, i32),
    servers: (Vec<String>, i64),
    ring: (Vec<String>, i64),
    queue: Vec<String>,
    own: Option<(Vec<u8>, zk::Stat)>,
    own_ring: Option<zk::Stat>,
    watchers: Vec<zk::OneshotWatcher>,
}

impl Looker {
    /// Looks once, for the server that is called `own`, in the store that it is bound to.
    pub(super) async fn look(
        &mut self,
        session: &Session,
        recognise: &Recognise,
        own: Option<&ServerId>,
    ) -> Result<(Sight, Hint), CallError> {
        let sent = Instant::now();
        let raw = session.call(sent + LOOK_PATIENCE, |client| read(client, own.cloned())).await?;
        let watchers: Vec<_> = raw.watchers.into_iter().map(|watcher| watcher.changed().boxed()).collect();
        let hint = if watchers.is_empty() {
            std::future::pending().boxed()
        } else {
            select_all(watchers).map(|_| ()).boxed()
        };
        let Some(store) = recognise(raw.identity.as_deref()) else {
            return Ok((Sight::Foreign, hint));
        };
        if raw.is_bare {
            return Ok((Sight::Bare, hint));
        }
        let (names, changed) = raw.servers;
        if self.read_at != Some((store, changed)) {
            self.servers = fetch_servers(session, &names).await?;
            self.read_at = Some((store, changed));
        }
        let mut servers = self.servers.clone();
        if let Some(own) = own {
            match raw.own {
                Some((bytes, stat)) => servers.insert(own.clone(), registration(own, &bytes, &stat)),
                None => servers.remove(own),
            };
        }
        let leader = decode_leader(&raw.epoch.0).unwrap_or_else(|error| {
            warn!(reason = chain(&error), "who leads cannot be read");
            None
        });
        let (ring, ring_epoch) = raw.ring;
        let mut in_ring: Vec<_> = ring.iter().filter_map(|name| server_in(name)).collect();
        in_ring.sort();
        let reading = Reading {
            servers,
            ring: RingMembers { store: Some(store), epoch: ring_epoch.cast_unsigned(), servers: in_ring },
            ring_session: raw.own_ring.map(|stat| stat.ephemeral_owner),
            queue: Queue::new(raw.queue.iter().map(String::as_str)),
            epoch: Epoch { number: u64::from(raw.epoch.1.cast_unsigned()), leader },
        };
        let look = Look { store, reading, sent, session: raw.session, session_timeout: raw.session_timeout };
        Ok((Sight::Clear(Box::new(look)), hint))
    }
}

/// Sends everything at once; the answers come in that order. The sync makes the member of the ensemble that answers
/// catch up first, so that a leader does not go on by what one that was cut off believes.
async fn read(client: zk::Client, own: Option<ServerId>) -> Result<Raw, zk::Error> {
    let client = &client;
    let own = own.as_ref();
    let (synced, identity, epoch, servers, ring, queue, own_server, own_ring) = futures_util::join!(
        client.sync("/"),
        client.get_and_watch_data(layout::IDENTITY),
        client.get_and_watch_data(EPOCH),
        client.get_and_watch_children(SERVERS),
        client.get_and_watch_children(RING),
        client.get_and_watch_children(ELECTION),
        async {
            match own {
                Some(own) => there(client.get_data(&place(SERVERS, own)).await),
                None => Ok(None),
            }
        },
        async {
            match own {
                Some(own) => client.check_stat(&place(RING, own)).await,
                None => Ok(None),
            }
        },
    );
    synced?;
    let mut raw = Raw {
        session: client.session_id().0,
        session_timeout: client.session_timeout(),
        is_bare: false,
        identity: None,
        epoch: (Vec::new(), 0),
        servers: (Vec::new(), 0),
        ring: (Vec::new(), 0),
        queue: Vec::new(),
        own: own_server?,
        own_ring: own_ring?,
        watchers: Vec::with_capacity(5),
    };
    if let Some((bytes, _, watcher)) = there(identity)? {
        raw.identity = Some(bytes);
        raw.watchers.push(watcher);
    }
    let (epoch, servers, ring, queue) = (there(epoch)?, there(servers)?, there(ring)?, there(queue)?);
    let (Some(epoch), Some(servers), Some(ring), Some(queue)) = (epoch, servers, ring, queue) else {
        raw.is_bare = true;
        return Ok(raw);
    };
    raw.epoch = (epoch.0, epoch.1.version);
    raw.servers = (servers.0, servers.1.pzxid);
    raw.ring = (ring.0, ring.1.pzxid);
    raw.queue = queue.0;
    raw.watchers.extend([epoch.2, servers.2, ring.2, queue.2]);
    Ok(raw)
}

/// What is not there is no failure.
fn there<T>(answer: Result<T, zk::Error>) -> Result<Option<T>, zk::Error> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(zk::Error::NoNode) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The records of these servers.
async fn fetch_servers(
    session: &Session,
    names: &[String],
) -> Result<BTreeMap<ServerId, Registration>, CallError> {
    let ids: Vec<_> = names.iter().filter_map(|name| server_in(name)).collect();
    let records = session
        .call(Instant::now() + LOOK_PATIENCE, |client| {
            let ids = ids.clone();
            async move {
                let fetches = ids.iter().map(|id| {
                    let record = client.get_data(&place(SERVERS, id));
                    async move { there(record.await) }
                });
                join_all(fetches).await.into_iter().collect::<Result<Vec<_>, _>>()
            }
        })
        .await?;
    let found = ids.into_iter().zip(records).filter_map(|(id, record)| {
        let (bytes, stat) = record?;
        let registration = registration(&id, &bytes, &stat);
        if registration.member.is_none() {
            warn!(server = %id, "a server's record cannot be read: it is left out");
        }
        Some((id, registration))
    });
    Ok(found.collect())
}

fn registration(server: &ServerId, bytes: &[u8], stat: &zk::Stat) -> Registration {
    Registration {
        session: stat.ephemeral_owner,
        version: stat.version,
        member: decode_member(server, bytes).ok(),
    }
}

/// The server that a znode is named after; others than ours are none.
fn server_in(name: &str) -> Option<ServerId> {
    ServerId::parse(&layout::decode(name)?).ok()
}
