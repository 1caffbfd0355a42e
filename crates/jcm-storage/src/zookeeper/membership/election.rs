//! Who leads: the queue of candidates, and the epoch that the first of them begins.
//!
//! A candidate is an ephemeral sequential znode, so that the queue is in the order in which they came and a server
//! that restarts stands at its end. Whoever is first begins a new epoch in one transaction with the proof that its
//! candidacy still stands; only then it leads. A candidate's name says which session made it: after an answer was lost,
//! a server finds its own.
//!
//! The epoch is the version of its znode, which is never deleted: what only a leader may do checks that version in the
//! same transaction.

use jcm_model::ServerId;

/// One place in the queue.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Candidate {
    /// The order in which they came.
    sequence: u64,
    /// The session that it lasts with.
    pub(super) session: i64,
    /// Who it is.
    pub(super) server: ServerId,
}

impl Candidate {
    /// What a candidate's name begins with; ZooKeeper adds the sequence.
    pub(super) fn prefix(session: i64, server: &ServerId) -> String {
        format!("{session:016x}-{server}-")
    }

    /// Reads a name; `None`: it is not one of ours.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let (session, rest) = name.split_at_checked(16)?;
        let (server, sequence) = rest.strip_prefix('-')?.rsplit_once('-')?;
        Some(Self {
            sequence: sequence.parse().ok()?,
            session: u64::from_str_radix(session, 16).ok()?.cast_signed(),
            server: ServerId::parse(server).ok()?,
        })
    }

    /// Its name, as ZooKeeper made it.
    pub(super) fn name(&self) -> String {
        format!("{}{:010}", Self::prefix(self.session, &self.server), self.sequence)
    }
}

/// The queue, first come first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Queue(Vec<Candidate>);

impl Queue {
    /// The queue that these names make; others than ours are no part of it.
    pub(super) fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut candidates: Vec<_> = names.into_iter().filter_map(Candidate::parse).collect();
        candidates.sort();
        Self(candidates)
    }

    /// The one whose turn it is to lead.
    pub(super) fn first(&self) -> Option<&Candidate> {
        self.0.first()
    }

    /// The first place that a session holds.
    pub(super) fn of(&self, session: i64) -> Option<&Candidate> {
        self.0.iter().find(|candidate| candidate.session == session)
    }

    /// A place of this server that must not be there: of a session that is over, or a second one of this session.
    pub(super) fn left_over(&self, server: &ServerId, session: i64) -> Option<&Candidate> {
        let kept = self.of(session);
        self.0.iter().find(|candidate| candidate.server == *server && Some(*candidate) != kept)
    }

    /// Whether a candidate of that name stands.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|candidate| candidate.name() == name)
    }
}

/// The epoch and who began it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Epoch {
    /// The version of the epoch's znode.
    pub(super) number: u64,
    /// The leader that it began with, where one did.
    pub(super) leader: Option<Leader>,
}

/// Who became leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leader {
    pub(super) server: ServerId,
    /// The name of its candidate: it leads while that stands.
    pub(super) candidate: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> ServerId {
        ServerId::parse(name).unwrap()
    }

    #[test]
    fn a_candidate_reads_back_whatever_letters_its_server_has() {
        for (session, server, sequence) in [(1, "a", "0000000000"), (-5, "x-9.y_2-0000000003", "2147483647")]
        {
            let name = format!("{}{sequence}", Candidate::prefix(session, &id(server)));
            let candidate = Candidate::parse(&name).unwrap();
            assert_eq!((candidate.session, candidate.server.as_str()), (session, server));
            assert_eq!(candidate.name(), name);
        }
        for alien in
            ["", "lock-0000000001", "000000000000000g-a-1", "0000000000000001-a", "é000000000000001-a-1"]
        {
            assert_eq!(Candidate::parse(alien), None, "{alien:?}");
        }
    }

    #[test]
    fn the_queue_is_in_the_order_in_which_they_came_not_in_that_of_their_names() {
        let queue = Queue::new(["00000000000000ff-a-0000000002", "0000000000000001-b-0000000010", "alien"]);
        assert_eq!(queue.first().unwrap().server, id("a"));
        assert_eq!(queue.of(1).unwrap().server, id("b"));
        assert!(queue.has("0000000000000001-b-0000000010") && !queue.has("alien"));
    }

    #[test]
    fn a_place_of_a_session_that_is_over_and_a_second_place_are_left_over_and_the_first_is_not() {
        let names = [
            "0000000000000001-a-0000000001",
            "0000000000000002-a-0000000003",
            "0000000000000003-b-0000000002",
        ];
        let queue = Queue::new(names);
        assert_eq!(queue.left_over(&id("a"), 2).unwrap().name(), names[0]);
        assert_eq!(queue.left_over(&id("b"), 3), None);
        let doubled = Queue::new(["0000000000000002-a-0000000003", "0000000000000002-a-0000000004"]);
        assert_eq!(doubled.left_over(&id("a"), 2).unwrap().sequence, 4);
    }
}
