//! What a session makes of the messages of a server.

use std::time::{Duration, Instant};

use jcm_model::ClusterName;
use jcm_model::invalid::quoted;
use jcm_proto::v1::watch_request::{Acknowledge, Request};
use jcm_proto::v1::watch_response::{self as wire, Event as Answer};
use jcm_proto::{Malformed, WATCH_PROTOCOLS};
use tracing::{info, warn};

use super::peer::{Awaits, Talk};
use super::{ACKNOWLEDGE_AFTER, ACKNOWLEDGE_SPREAD_MS, Effect, LinkId, Session};
use crate::held::{Held, Step};

impl Session {
    pub(super) fn hear(&mut self, link: LinkId, answer: Answer, now: Instant) {
        let Some(peer) = self.peers.iter_mut().find(|peer| peer.link == link) else {
            return;
        };
        if peer.hear(now) {
            self.servers.settle_on(&peer.server);
        }
        match answer {
            Answer::Welcome(welcome) => self.welcome(link, &welcome, now),
            Answer::View(view) => {
                let name = view.cluster.as_ref().map(|cluster| cluster.name.clone()).unwrap_or_default();
                let (store, stale) = (jcm_proto::discovery::store_id(&view.store).ok(), view.stale);
                self.answered(link, &name, stale, now, |held, talk| {
                    talk.full_view_came(store);
                    held.apply_view(view)
                });
            }
            Answer::Delta(delta) => {
                let (name, stale) = (delta.cluster.clone(), delta.stale);
                // The first delta after a question has the whole token; others were on their way when it was asked.
                let on_its_way = |talk: &Talk| talk.awaits == Awaits::Answer && delta.token.is_empty();
                if ClusterName::parse(&name).is_ok_and(|name| peer.talks.get(&name).is_some_and(on_its_way)) {
                    return;
                }
                self.answered(link, &name, stale, now, |held, talk| {
                    // A delta counts from what this link was told or sent; another link may have swapped the store since.
                    if talk.store == held.store() { held.apply_delta(delta) } else { Ok(Step::Misfit) }
                });
            }
            Answer::Removed(removed) => {
                let name = removed.cluster.clone();
                let stale = peer.stale;
                self.answered(link, &name, stale, now, |held, talk| {
                    talk.full_view_came(None);
                    held.apply_removed(&removed)
                });
            }
            Answer::Unknown(unknown) => self.cannot_tell(link, &unknown, now),
            Answer::Servers(servers) => {
                self.servers.learn(servers.servers.iter().map(|server| server.advertise.as_str()));
            }
            Answer::Heartbeat(heartbeat) => {
                peer.stale = heartbeat.stale;
                for followed in self.clusters.values_mut() {
                    followed.server_says(link, heartbeat.stale, now);
                }
            }
            Answer::Lost(lost) => self.leases.lost(&lost, now, &mut self.random, &mut self.effects),
            Answer::GoAway(go_away) => self.leave(link, &go_away.reason, now),
        }
    }

    fn welcome(&mut self, link: LinkId, welcome: &wire::Welcome, now: Instant) {
        if !WATCH_PROTOCOLS.speaks(welcome.protocol) {
            let reason = format!("it speaks protocol {}, this program {WATCH_PROTOCOLS}", welcome.protocol);
            self.effects.push(Effect::Close { link });
            return self.lose(link, &reason, now);
        }
        if let Some(peer) = self.peers.iter_mut().find(|peer| peer.link == link) {
            peer.welcome(welcome.protocol, Duration::from_millis(u64::from(welcome.heartbeat_ms)), now);
            info!(server = %peer.server, id = %quoted(&welcome.server), "connected");
            if welcome.protocol < jcm_proto::LEASES_SINCE && !self.leases.is_empty() {
                warn!(server = %peer.server, "this server knows no leases: registrations wait for one that does");
            }
            self.unreachable = false;
        }
    }

    /// A server answered for a cluster; `apply` takes the answer over.
    fn answered(
        &mut self,
        link: LinkId,
        name: &str,
        stale: bool,
        now: Instant,
        apply: impl FnOnce(&mut Held, &mut Talk) -> Result<Step, Malformed>,
    ) {
        let Ok(cluster) = ClusterName::parse(name) else {
            return warn!(name = %quoted(name), "a server sent a view of a cluster with an invalid name");
        };
        let Some(peer) = self.peers.iter_mut().find(|peer| peer.link == link) else {
            return;
        };
        let Some(followed) = self.clusters.get_mut(&cluster) else {
            return;
        };
        if followed.source.is_some_and(|source| source > link) {
            return;
        }
        peer.stale = stale;
        let server = &peer.server;
        let talk = peer.talks.entry(cluster.clone()).or_default();
        let step = match apply(&mut followed.held, talk) {
            Ok(step) => step,
            Err(error) => {
                // Whatever else this server sends may be sound, and another server may be no better: keep what is held
                // and ask again in a while.
                warn!(%cluster, %server, error = &error as &dyn std::error::Error, "a server sent what this program cannot read");
                followed.doubted_by(link, now);
                return talk.unreadable(now);
            }
        };
        match step {
            Step::Changed | Step::Same => {
                talk.answered();
                followed.confirmed_by(link, stale, now);
                if talk.acknowledged != followed.held.head() {
                    peer.unacknowledged.insert(cluster.clone());
                    let spread = self.random.below(ACKNOWLEDGE_SPREAD_MS);
                    peer.acknowledge_at
                        .get_or_insert(now + ACKNOWLEDGE_AFTER + Duration::from_millis(spread.into()));
                }
                if step != Step::Same {
                    self.changed.insert(cluster.clone());
                }
            }
            Step::Misfit if talk.awaits == Awaits::View => {}
            Step::Misfit => self.ask(link, &cluster, true, now),
            Step::Foreign => {
                followed.doubted_by(link, now);
                talk.answered();
            }
            Step::Behind => {
                followed.doubted_by(link, now);
                if talk.corrected {
                    talk.wait(now);
                } else {
                    self.ask(link, &cluster, false, now);
                    if let Some(peer) = self.peers.iter_mut().find(|peer| peer.link == link) {
                        peer.talk(&cluster).corrected = true;
                    }
                }
            }
        }
    }

    /// Tells servers what is held, where the time for that has come.
    pub(super) fn acknowledge(&mut self, now: Instant) {
        for peer in self.peers.iter_mut().filter(|peer| peer.acknowledge_at.is_some_and(|at| at <= now)) {
            peer.acknowledge_at = None;
            for cluster in std::mem::take(&mut peer.unacknowledged) {
                let Some(head) = self.clusters.get(&cluster).and_then(|followed| followed.held.head()) else {
                    continue;
                };
                peer.talk(&cluster).acknowledged = Some(head);
                let acknowledge = Acknowledge {
                    cluster: cluster.to_string(),
                    revision: head.revision.0,
                    store: head.store.0.as_bytes().to_vec(),
                };
                let request = Request::Acknowledge(acknowledge);
                self.effects.push(Effect::Send { link: peer.link, request });
            }
        }
    }

    fn cannot_tell(&mut self, link: LinkId, unknown: &wire::Unknown, now: Instant) {
        let Ok(cluster) = ClusterName::parse(&unknown.cluster) else {
            return;
        };
        let Some(peer) = self.peers.iter_mut().find(|peer| peer.link == link) else {
            return;
        };
        let Some(followed) = self.clusters.get_mut(&cluster) else {
            return;
        };
        followed.doubted_by(link, now);
        peer.talk(&cluster).wait(now);
    }
}
