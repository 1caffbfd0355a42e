//! The keeper: the one task that keeps this server what it wants to be, and the roster as it is.

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::FutureExt;
use jcm_model::StoreId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};
use zookeeper_client as zk;

use super::super::session::{CallError, Contact, Line, Session};
use super::election::Leader;
use super::lease::Lease;
use super::look::{Hint, Look, Looker, Sight};
use super::plan::{Plan, Wish, plan};
use super::{GHOST_SLACK, Recognise, Shared, steps};
use crate::{Roster, Standing};

/// How long nobody looks when nothing happens; a part of it is left to chance, so that servers do not look together.
const REVIEW: Duration = Duration::from_secs(4);
/// The same while something is not as it should be.
const RETRY: Duration = Duration::from_millis(500);
/// Steps without a rest in between: a start takes four. Two that fight over one id must not keep an ensemble busy.
const STEPS_MAX: u32 = 12;

/// What the keeper knows between its turns.
struct Keeper {
    session: Session,
    recognise: Recognise,
    shared: Arc<Shared>,
    looker: Looker,
    hint: Hint,
    /// The store whose servers the roster shows.
    shows: Option<StoreId>,
    /// Since when another server is seen to have this one's id.
    taken_since: Option<Instant>,
    /// It was said that the servers cannot be looked at.
    is_trouble_told: bool,
}

/// What comes after a turn.
enum Next {
    /// Another turn, at once.
    Turn,
    /// A rest, unless something happens.
    Rest(Duration),
}

pub(super) async fn run(
    session: Session,
    recognise: Recognise,
    shared: Arc<Shared>,
    stop: CancellationToken,
) {
    let mut keeper = Keeper {
        session,
        recognise,
        shared,
        looker: Looker::default(),
        hint: pending().boxed(),
        shows: None,
        taken_since: None,
        is_trouble_told: false,
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = keeper.keep() => {}
    }
    keeper.shared.set_lease(None);
}

impl Keeper {
    async fn keep(&mut self) {
        let mut contacts = self.session.contact();
        let mut wishes = self.shared.wish.subscribe();
        let mut session = 0;
        let mut steps = 0;
        loop {
            let contact = contacts.borrow_and_update().clone();
            if contact.session != session {
                session = contact.session;
                // What the last session held is gone, for others too before long.
                self.shared.set_lease(None);
            }
            let wish = wishes.borrow_and_update().clone();
            let next = self.turn(&contact, &wish).await;
            // A clone of the client would keep its session alive.
            drop(contact);
            match next {
                Next::Turn if steps < STEPS_MAX => {
                    steps += 1;
                    continue;
                }
                Next::Turn => self.rest(RETRY, &mut contacts, &mut wishes).await,
                Next::Rest(rest) => self.rest(rest, &mut contacts, &mut wishes).await,
            }
            steps = 0;
        }
    }

    /// Waits until there may be something to do.
    async fn rest(
        &mut self,
        rest: Duration,
        contacts: &mut watch::Receiver<Contact>,
        wishes: &mut watch::Receiver<Wish>,
    ) {
        let rest = rest.mul_f64(0.75 + fastrand::f64() / 4.0);
        tokio::select! {
            () = &mut self.hint => self.hint = pending().boxed(),
            Ok(()) = wishes.changed() => {}
            Ok(()) = contacts.changed() => {}
            () = tokio::time::sleep(rest) => {}
        }
    }

    /// Looks, tells, and does one thing if something is to be done.
    async fn turn(&mut self, contact: &Contact, wish: &Wish) -> Next {
        if matches!(contact.line, Line::Down { .. }) {
            return Next::Rest(REVIEW);
        }
        let own = wish.member.as_ref().map(|member| &member.id);
        let look = match self.looker.look(&self.session, &self.recognise, own).await {
            Ok((sight, hint)) => {
                self.hint = hint;
                match sight {
                    Sight::Clear(look) => look,
                    Sight::Bare => {
                        let made = steps::make_base(&self.session).await;
                        return self.after(made);
                    }
                    Sight::Foreign => return Next::Rest(RETRY),
                }
            }
            Err(error) => return self.after(Err(error)),
        };
        self.tell(wish, &look);
        match plan(wish, &look.reading, look.session) {
            Plan::Settled => {
                self.settle(wish);
                let is_leader = self.shared.leads_in().is_some();
                Next::Rest(if is_leader { Lease::renewal(look.session_timeout) } else { REVIEW })
            }
            Plan::Taken { advertise } => {
                self.wait_for_id(wish, &advertise, look.session_timeout);
                Next::Rest(RETRY)
            }
            Plan::Next(step) => {
                self.taken_since = None;
                let Some(member) = &wish.member else { return Next::Rest(REVIEW) };
                debug!(?step, "a step towards what this server wants to be");
                let done = steps::carry_out(&self.session, look.session, member, step).await;
                self.after(done)
            }
        }
    }

    /// After a step it is looked again, whatever became of it.
    fn after(&mut self, done: Result<(), CallError>) -> Next {
        match done {
            Ok(()) => Next::Turn,
            // Somebody else was faster, or it was done before and the answer was lost.
            Err(CallError::Refused(zk::Error::NoNode | zk::Error::NodeExists | zk::Error::BadVersion)) => {
                Next::Turn
            }
            Err(error) => {
                let reason = crate::store::chain(&error);
                // Once, however often it is tried until it can be done.
                if std::mem::replace(&mut self.is_trouble_told, true) {
                    debug!(reason, "the servers still cannot be looked at");
                } else {
                    warn!(reason, "the servers cannot be looked at; trying on");
                }
                Next::Rest(RETRY)
            }
        }
    }

    /// Publishes what was seen. A leadership that is over ends before anybody can read of the next one.
    fn tell(&mut self, wish: &Wish, look: &Look) {
        let reading = &look.reading;
        let own = reading.queue.of(look.session).zip(wish.member.as_ref());
        let mine = own.map(|(own, member)| Leader { server: member.id.clone(), candidate: own.name() });
        let leads = mine.is_some() && reading.leader() == mine.as_ref() && wish.stands();
        if !leads {
            self.shared.set_lease(None);
        }
        // Another store is another history: its numbers are no continuation.
        let is_new = self.shows.replace(look.store) != Some(look.store);
        self.shared.roster.send_if_modified(|roster| {
            let before = if is_new { Arc::default() } else { Arc::clone(roster) };
            let after = reading.roster(&before);
            announce_changes(roster, &after);
            let is_news = **roster != after;
            if is_news {
                *roster = Arc::new(after);
            }
            is_news
        });
        if leads {
            let lease = Lease::new(reading.epoch.number, look.sent, look.session_timeout);
            self.shared.set_lease(Some(lease));
        }
        let shares = match reading.ring_session {
            None => Some(false),
            Some(session) if session == look.session => Some(true),
            Some(_) => None,
        };
        self.shared.shares.send_if_modified(|told| std::mem::replace(told, shares) != shares);
    }

    /// Everything is as it is wanted.
    fn settle(&mut self, wish: &Wish) {
        self.is_trouble_told = false;
        self.taken_since = None;
        let is_known = wish.member.is_some() && !wish.is_leaving;
        let standing = if is_known { Standing::Known } else { Standing::Absent };
        self.set_standing(standing);
    }

    /// Another server has the id. It may be dead: then its registration ends with its session.
    fn wait_for_id(&mut self, wish: &Wish, advertise: &str, session_timeout: Duration) {
        let since = *self.taken_since.get_or_insert_with(Instant::now);
        if since.elapsed() < session_timeout + GHOST_SLACK {
            return;
        }
        if let Some(member) = &wish.member
            && self.set_standing(Standing::Taken { advertise: advertise.to_owned() })
        {
            error!(id = %member.id, advertise, "another server has this server's id: give one of both another");
        }
    }

    /// Answers whether that is news.
    fn set_standing(&self, standing: Standing) -> bool {
        self.shared.standing.send_if_modified(|told| {
            let is_news = *told != standing;
            *told = standing;
            is_news
        })
    }
}

fn announce_changes(before: &Roster, after: &Roster) {
    if before.epoch != after.epoch || before.leader != after.leader {
        let leader = after.leader.as_ref().map(tracing::field::display);
        info!(leader, epoch = after.epoch, "who leads");
    }
    if before.members != after.members {
        let ids: Vec<_> = after.members.iter().map(|member| member.id.as_str()).collect();
        info!(servers = ids.join(","), "the servers");
    }
}
