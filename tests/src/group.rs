//! Several servers on one ZooKeeper, and whether they agree.
//!
//! Servers have the ids `s1`, `s2`, … and are counted from 0 here. Each can be killed, paused and restarted like any
//! [`Server`].

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value;
use tempfile::TempDir;

use crate::api::Client;
use crate::server::Starter as ServerStarter;
use crate::{Ensemble, Server, eventually};

/// A leader is there long before, unless something is wrong.
const LEADER_DEADLINE: Duration = Duration::from_mins(1);
/// Members of a group that starts find one another within a session timeout and some.
const START_CONVERGED: Duration = Duration::from_mins(1);

/// How a group is to be started.
#[derive(Debug, Clone)]
pub struct Starter {
    hosts: Vec<String>,
    root: String,
    session_timeout: Duration,
    advertise: Vec<SocketAddr>,
    places: Vec<(String, SocketAddr)>,
    environment: Vec<(String, String)>,
}

/// Running servers of one installation. They end with it.
#[derive(Debug)]
pub struct Group {
    servers: Vec<Server>,
    /// The file with the token by which they know one another.
    token: TempDir,
    starter: Starter,
}

impl Starter {
    /// After how long ZooKeeper gives a silent server up (4 s unless said otherwise).
    #[must_use]
    pub fn session_timeout(mut self, timeout: Duration) -> Self {
        self.session_timeout = timeout;
        self
    }

    /// Where a server finds ZooKeeper, when it is not where all do: behind a proxy of its own.
    #[must_use]
    pub fn hosts_of(mut self, server: usize, hosts: &str) -> Self {
        hosts.clone_into(&mut self.hosts[server]);
        self
    }

    /// Below which znode they keep everything, when two groups share a ZooKeeper.
    #[must_use]
    pub fn root(mut self, root: &str) -> Self {
        root.clone_into(&mut self.root);
        self
    }

    /// Where others are told to find each server: proxies in front of them.
    #[must_use]
    pub fn advertise(mut self, addresses: &[SocketAddr]) -> Self {
        self.advertise = addresses.to_vec();
        self
    }

    /// In these network namespaces, each at an address of it.
    #[must_use]
    pub fn within(mut self, places: &[(String, SocketAddr)]) -> Self {
        self.places = places.to_vec();
        self
    }

    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts all of them at once, and waits until they agree.
    pub async fn start(self) -> Group {
        let group = self.start_apart().await;
        group.converged(START_CONVERGED).await;
        group
    }

    /// Starts all of them at once, and waits until each listens.
    pub async fn start_apart(self) -> Group {
        let token = TempDir::with_prefix("jcm-token-").expect("a temporary directory");
        std::fs::write(token.path().join("token"), "servers-of-one-test-know-one-another-by-this\n")
            .expect("write the token");
        private(&token.path().join("token"));
        let servers = (0..self.hosts.len()).map(|index| self.server(index, &token).start());
        Group { servers: join_all(servers).await, token, starter: self }
    }

    fn server(&self, index: usize, token: &TempDir) -> ServerStarter {
        let advertise = self.advertise.get(index).map(|address| format!("advertise = '{address}'\n"));
        let config = format!(
            "id = 's{}'\n{}peer_token_file = '{}'\n[store]\nkind = 'zookeeper'\n[store.zookeeper]\nhosts = '{}'\nroot = '{}'\nsession_timeout = '{}ms'\n",
            index + 1,
            advertise.unwrap_or_default(),
            token.path().join("token").display(),
            self.hosts[index],
            self.root,
            self.session_timeout.as_millis(),
        );
        let mut starter = Server::serve(&config);
        for (name, value) in &self.environment {
            starter = starter.environment(name, value);
        }
        match self.places.get(index) {
            Some((namespace, address)) => {
                starter.within(namespace).listen(&address.to_string()).argument("--insecure")
            }
            None => starter,
        }
    }
}

impl Group {
    /// This many servers on the ensemble, which agree.
    pub async fn start(ensemble: &Ensemble, count: usize) -> Self {
        Self::of(ensemble, count).start().await
    }

    pub fn of(ensemble: &Ensemble, count: usize) -> Starter {
        Starter {
            hosts: vec![ensemble.hosts(); count],
            root: "/jcm".to_owned(),
            session_timeout: Duration::from_secs(4),
            advertise: Vec::new(),
            places: Vec::new(),
            environment: Vec::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.servers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.servers.is_empty()
    }

    pub fn server(&self, index: usize) -> &Server {
        &self.servers[index]
    }

    pub fn server_mut(&mut self, index: usize) -> &mut Server {
        &mut self.servers[index]
    }

    pub fn client(&self, index: usize) -> Client {
        self.servers[index].client()
    }

    pub fn clients(&self) -> Vec<Client> {
        self.servers.iter().map(Server::client).collect()
    }

    pub fn urls(&self) -> Vec<String> {
        self.servers.iter().map(Server::url).collect()
    }

    /// The id of a server, as `/v1/servers` tells it.
    pub fn id(index: usize) -> String {
        format!("s{}", index + 1)
    }

    /// The index of a server by its id.
    pub fn index(id: &str) -> Option<usize> {
        id.strip_prefix('s')?.parse::<usize>().ok()?.checked_sub(1)
    }

    /// One server more, on the same ZooKeeper as the first.
    pub async fn add(&mut self) -> usize {
        let index = self.servers.len();
        self.starter.hosts.push(self.starter.hosts[0].clone());
        let server = self.starter.server(index, &self.token).start().await;
        self.servers.push(server);
        index
    }

    /// The server that leads, by its own word and that of every other one that is asked.
    pub async fn leader(&self) -> usize {
        self.leader_among(&(0..self.len()).collect::<Vec<_>>()).await
    }

    /// The one of these that leads by its own word, with the others of them agreeing.
    pub async fn leader_among(&self, servers: &[usize]) -> usize {
        eventually(LEADER_DEADLINE, "the servers agree on who leads", async || {
            let statuses = self.statuses(servers).await?;
            let leaders: BTreeSet<_> = statuses.iter().map(|status| status["leader"].as_str()).collect();
            let leader = match leaders.into_iter().collect::<Vec<_>>()[..] {
                [Some(leader)] => leader.to_owned(),
                _ => return Err(shown(&statuses)),
            };
            let index = Self::index(&leader).filter(|index| servers.contains(index));
            let position = index.and_then(|index| servers.iter().position(|server| *server == index));
            match (index, position) {
                (Some(index), Some(position)) if statuses[position]["role"] == "leader" => Ok(index),
                _ => Err(shown(&statuses)),
            }
        })
        .await
    }

    /// A server that does not lead.
    pub async fn follower(&self) -> usize {
        let leader = self.leader().await;
        (0..self.len()).find(|index| *index != leader).expect("a group has more than one server")
    }

    /// Waits until all servers agree in everything that a user can ask: the leader, the members, the ring, the
    /// definitions. Answers how long that took.
    pub async fn converged(&self, deadline: Duration) -> Duration {
        self.converged_among(&(0..self.len()).collect::<Vec<_>>(), deadline).await
    }

    /// The same for some of them, who must be all members there are.
    pub async fn converged_among(&self, servers: &[usize], deadline: Duration) -> Duration {
        let start = std::time::Instant::now();
        eventually(deadline, "the servers agree", async || {
            let statuses = self.statuses(servers).await?;
            let first = &statuses[0];
            for status in &statuses {
                let agree = status["leader"].is_string()
                    && status["leader"] == first["leader"]
                    && status["store"]["state"] == "ok"
                    && status["store"]["revision"] == first["store"]["revision"];
                if !agree {
                    return Err(shown(&statuses));
                }
            }
            let wanted: BTreeSet<_> = servers.iter().map(|index| Self::id(*index)).collect();
            for index in servers {
                let members = answer(&self.client(*index), "/v1/servers").await?;
                let ids = members["servers"].as_array().into_iter().flatten();
                let ids: BTreeSet<_> = ids.filter_map(|row| row["id"].as_str().map(str::to_owned)).collect();
                if ids != wanted {
                    return Err(format!("{} sees the members {ids:?}", Self::id(*index)));
                }
            }
            let ring = sharing(&answer(&self.client(servers[0]), "/v1/ring").await?);
            for index in &servers[1..] {
                let other = sharing(&answer(&self.client(*index), "/v1/ring").await?);
                if ring != other {
                    return Err(format!("rings differ: {ring:?}, {other:?}"));
                }
            }
            let list = answer(&self.client(servers[0]), "/v1/clusters").await?;
            for index in &servers[1..] {
                let other = answer(&self.client(*index), "/v1/clusters").await?;
                if definitions(&list) != definitions(&other) {
                    return Err(format!("lists differ:\n{list}\n{other}"));
                }
            }
            Ok(())
        })
        .await;
        start.elapsed()
    }

    async fn statuses(&self, servers: &[usize]) -> Result<Vec<Value>, String> {
        let mut statuses = Vec::new();
        for index in servers {
            statuses.push(answer(&self.client(*index), "/v1/status").await?);
        }
        Ok(statuses)
    }
}

/// The JSON of a path, or what came instead. A server that hangs is no answer.
pub async fn answer(client: &Client, path: &str) -> Result<Value, String> {
    let request = client.request(reqwest::Method::GET, path).timeout(Duration::from_secs(3));
    let answer = client.try_send(request).await.map_err(|error| format!("{path}: {error:?}"))?;
    if answer.status == 200 { Ok(answer.body) } else { Err(answer.to_string()) }
}

/// What a list says of definitions: names and revisions, without what checks found.
fn definitions(list: &Value) -> Vec<(Value, Value)> {
    let rows = list["clusters"].as_array().into_iter().flatten();
    rows.map(|row| (row["name"].clone(), row["revision"].clone())).collect()
}

/// What a ring says of who shares the checks: its epoch, and the servers in it.
fn sharing(ring: &Value) -> (Value, Vec<Value>) {
    let rows = ring["servers"].as_array().into_iter().flatten();
    (ring["epoch"].clone(), rows.map(|row| row["id"].clone()).collect())
}

fn shown(statuses: &[Value]) -> String {
    statuses.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Only the owner may read a secret.
fn private(path: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("set the mode of a file");
}
