//! Writes to one cluster, and reads of it: linearizable, nothing lost, nothing undone, nothing twice.
//!
//! Every write brings one element that no other write brings: a node, or the value of a property. JCM names the order
//! of writes itself, by revisions, so no search for an order is needed: it only has to be shown that the order it names
//! is one that those who wrote and read could have seen.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Violation;

/// What became of a write, as far as its writer was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged, at this revision.
    Applied(u64),
    /// Refused, or said to be not applied.
    NotApplied,
    /// No answer, or one that leaves it open.
    Unknown,
}

/// One write, from before it was sent until its answer was there.
#[derive(Debug, Clone)]
pub struct Write {
    pub element: u64,
    /// The revision that the cluster had to have, for a write under a condition.
    pub expected: Option<u64>,
    pub begun: Duration,
    pub ended: Duration,
    pub outcome: Outcome,
}

/// One read of the whole cluster.
#[derive(Debug, Clone)]
pub struct Read {
    /// Who answered. A server's own reads never go back.
    pub server: usize,
    pub begun: Duration,
    pub ended: Duration,
    /// Asked for with `consistent=true`: everything acknowledged before it began is in it.
    pub is_consistent: bool,
    pub revision: u64,
    pub elements: BTreeSet<u64>,
}

/// How an element lives on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A write adds its element, and nobody removes it.
    Set,
    /// A write replaces what was there.
    Register,
}

/// Everything that was written to and read from one cluster.
#[derive(Debug, Clone)]
pub struct History {
    pub kind: Kind,
    pub writes: Vec<Write>,
    pub reads: Vec<Read>,
}

impl History {
    pub fn new(kind: Kind) -> Self {
        Self { kind, writes: Vec::new(), reads: Vec::new() }
    }

    pub fn acknowledged(&self) -> usize {
        self.applied().count()
    }

    pub fn unknown(&self) -> usize {
        self.writes.iter().filter(|write| write.outcome == Outcome::Unknown).count()
    }

    /// Every way in which the history breaks the promises.
    pub fn violations(&self) -> Vec<Violation> {
        let mut found = Vec::new();
        self.check_revisions(&mut found);
        self.check_order_of_writes(&mut found);
        self.check_conditions(&mut found);
        self.check_reads_against_time(&mut found);
        self.check_contents(&mut found);
        if self.kind == Kind::Register {
            self.check_register(&mut found);
        }
        found
    }

    fn applied(&self) -> impl Iterator<Item = (u64, &Write)> {
        self.writes.iter().filter_map(|write| match write.outcome {
            Outcome::Applied(revision) => Some((revision, write)),
            _ => None,
        })
    }

    /// Each acknowledged write has a revision of its own.
    fn check_revisions(&self, found: &mut Vec<Violation>) {
        let mut by_revision = BTreeMap::new();
        for (revision, write) in self.applied() {
            if let Some(other) = by_revision.insert(revision, write.element) {
                let text = format!("writes of {other} and {} both answered {revision}", write.element);
                found.push(Violation::new("same-revision", text));
            }
        }
    }

    /// A write that began after another's end has a larger revision.
    fn check_order_of_writes(&self, found: &mut Vec<Violation>) {
        let mut by_begin: Vec<_> = self.applied().collect();
        by_begin.sort_by_key(|(_, write)| write.begun);
        let mut by_end = by_begin.clone();
        by_end.sort_by_key(|(_, write)| write.ended);
        // The largest revision of all that had ended before this one began.
        let mut ended = by_end.into_iter().peekable();
        let mut largest = None;
        for (revision, write) in by_begin {
            while let Some((before, other)) = ended.next_if(|(_, other)| other.ended < write.begun) {
                largest = largest.max(Some((before, other.element)));
            }
            if let Some((before, other)) = largest.filter(|(before, _)| *before >= revision) {
                let text = format!(
                    "the write of {} began after that of {other} had answered {before}, and answered {revision}",
                    write.element
                );
                found.push(Violation::new("real-time", text));
            }
        }
    }

    /// Nothing was committed between the revision that a write insisted on and its own.
    fn check_conditions(&self, found: &mut Vec<Violation>) {
        let revisions: BTreeSet<u64> = self.applied().map(|(revision, _)| revision).collect();
        for (revision, write) in self.applied() {
            let Some(expected) = write.expected else { continue };
            if expected >= revision {
                let text = format!("{} insisted on {expected} and answered {revision}", write.element);
                found.push(Violation::new("lost-update", text));
            } else if let Some(between) = revisions.range(expected + 1..revision).next() {
                let text = format!(
                    "{} insisted on {expected}, answered {revision}, and overwrote {between}",
                    write.element
                );
                found.push(Violation::new("lost-update", text));
            }
        }
    }

    fn check_reads_against_time(&self, found: &mut Vec<Violation>) {
        // Memory of one server goes forward only.
        let mut servers: BTreeMap<usize, Vec<&Read>> = BTreeMap::new();
        for read in &self.reads {
            servers.entry(read.server).or_default().push(read);
        }
        for (server, mut reads) in servers {
            reads.sort_by_key(|read| read.begun);
            let mut by_end: Vec<_> = reads.clone();
            by_end.sort_by_key(|read| read.ended);
            let mut ended = by_end.into_iter().peekable();
            let mut largest = 0;
            for read in reads {
                while let Some(before) = ended.next_if(|before| before.ended < read.begun) {
                    largest = largest.max(before.revision);
                }
                if read.revision < largest {
                    let text = format!("server {server} was read at {largest}, then at {}", read.revision);
                    found.push(Violation::new("read-went-back", text));
                }
            }
        }
        // A consistent read has everything that anybody was told before it began.
        for read in self.reads.iter().filter(|read| read.is_consistent) {
            let told =
                self.applied().filter(|(_, write)| write.ended < read.begun).map(|(revision, _)| revision);
            let seen = self.reads.iter().filter(|other| other.ended < read.begun).map(|other| other.revision);
            if let Some(known) = told.chain(seen).max().filter(|known| *known > read.revision) {
                let text = format!("a consistent read came at {}, {known} was known before", read.revision);
                found.push(Violation::new("stale-read", text));
            }
        }
    }

    /// What was read at a revision is what the writes up to it make.
    fn check_contents(&self, found: &mut Vec<Violation>) {
        let outcomes: BTreeMap<u64, Outcome> =
            self.writes.iter().map(|write| (write.element, write.outcome)).collect();
        let applied: BTreeMap<u64, u64> =
            self.applied().map(|(revision, write)| (revision, write.element)).collect();
        let mut reads: Vec<_> = self.reads.iter().collect();
        reads.sort_by_key(|read| read.revision);
        let mut before: Option<&Read> = None;
        for read in reads {
            let at = read.revision;
            for element in &read.elements {
                match outcomes.get(element) {
                    None => found.push(Violation::new("nobody-wrote", format!("{element} was read at {at}"))),
                    Some(Outcome::NotApplied) => {
                        found.push(Violation::new(
                            "refused-and-applied",
                            format!("{element} was read at {at}"),
                        ));
                    }
                    Some(Outcome::Applied(revision)) if *revision > at => {
                        let text = format!("{element} of {revision} was read at {at}");
                        found.push(Violation::new("from-the-future", text));
                    }
                    Some(Outcome::Applied(_) | Outcome::Unknown) => {}
                }
            }
            match self.kind {
                Kind::Set => {
                    for (revision, element) in applied.range(..=at) {
                        if !read.elements.contains(element) {
                            let text =
                                format!("{element} was acknowledged at {revision} and is not there at {at}");
                            found.push(Violation::new("lost", text));
                        }
                    }
                    if let Some(gone) =
                        before.and_then(|before| before.elements.difference(&read.elements).next())
                    {
                        let text = format!("{gone} was there before {at} and is not there then");
                        found.push(Violation::new("undone", text));
                    }
                }
                Kind::Register => {
                    if let Some(element) = applied.get(&at)
                        && !read.elements.contains(element)
                    {
                        let text =
                            format!("{element} was acknowledged at {at}, read there: {:?}", read.elements);
                        found.push(Violation::new("lost", text));
                    }
                }
            }
            if let Some(before) =
                before.filter(|before| before.revision == at && before.elements != read.elements)
            {
                let only = before.elements.symmetric_difference(&read.elements).collect::<Vec<_>>();
                found.push(Violation::new("two-contents", format!("reads at {at} differ by {only:?}")));
            }
            before = Some(read);
        }
    }

    /// A value stands from its write until the next one, and never comes again.
    fn check_register(&self, found: &mut Vec<Violation>) {
        let mut seen: BTreeMap<u64, u64> =
            self.applied().map(|(revision, write)| (revision, write.element)).collect();
        for read in &self.reads {
            if let (Some(element), 1) = (read.elements.first(), read.elements.len()) {
                seen.entry(read.revision).or_insert(*element);
            }
        }
        let mut begun = BTreeMap::new();
        for (revision, element) in seen {
            if let Some(first) = begun.insert(element, revision) {
                found.push(Violation::new(
                    "doubled",
                    format!("{element} was written at {first} and again at {revision}"),
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::assert_keys;
    use super::*;

    fn write(element: u64, begun: u64, ended: u64, outcome: Outcome) -> Write {
        let (begun, ended) = (Duration::from_millis(begun), Duration::from_millis(ended));
        Write { element, expected: None, begun, ended, outcome }
    }

    fn read(server: usize, begun: u64, revision: u64, elements: &[u64]) -> Read {
        let (begun, ended) = (Duration::from_millis(begun), Duration::from_millis(begun + 1));
        let elements = elements.iter().copied().collect();
        Read { server, begun, ended, is_consistent: false, revision, elements }
    }

    fn consistent(read: Read) -> Read {
        Read { is_consistent: true, ..read }
    }

    #[track_caller]
    fn check(kind: Kind, writes: &[Write], reads: &[Read], keys: &[&str]) {
        let history = History { kind, writes: writes.to_vec(), reads: reads.to_vec() };
        assert_keys(&history.violations(), keys);
    }

    use Outcome::{Applied, NotApplied, Unknown};

    #[test]
    fn a_history_that_keeps_the_promises_is_accepted() {
        let writes = [
            write(1, 0, 10, Applied(5)),
            // At the same time: either order will do.
            write(2, 5, 20, Applied(4)),
            write(3, 21, 30, Applied(9)),
            write(4, 31, 32, NotApplied),
            write(5, 31, 40, Unknown),
            write(6, 31, 40, Unknown),
        ];
        let reads = [
            read(0, 8, 4, &[2]),
            consistent(read(0, 11, 5, &[1, 2])),
            // From another server's memory, later and older.
            read(1, 50, 5, &[1, 2]),
            read(0, 50, 9, &[1, 2, 3]),
            read(0, 60, 10, &[1, 2, 3, 5]),
            consistent(read(1, 70, 10, &[1, 2, 3, 5])),
        ];
        check(Kind::Set, &writes, &reads, &[]);
        let reads = [read(0, 8, 4, &[2]), read(0, 11, 5, &[1]), read(0, 60, 10, &[5]), read(1, 60, 9, &[3])];
        check(Kind::Register, &writes, &reads, &[]);
    }

    #[test]
    fn a_lost_acknowledged_write_is_found() {
        let writes = [write(1, 0, 1, Applied(1)), write(2, 2, 3, Applied(2))];
        check(Kind::Set, &writes, &[read(0, 9, 2, &[2])], &["lost"]);
        check(Kind::Register, &writes, &[read(0, 9, 2, &[1])], &["lost"]);
    }

    #[test]
    fn a_write_that_was_there_and_is_gone_is_found() {
        let writes = [write(1, 0, 1, Unknown), write(2, 2, 3, Applied(2))];
        check(Kind::Set, &writes, &[read(0, 9, 1, &[1]), read(0, 19, 2, &[2])], &["undone"]);
    }

    #[test]
    fn a_revision_given_twice_is_found() {
        let writes = [write(1, 0, 9, Applied(3)), write(2, 2, 8, Applied(3))];
        check(Kind::Set, &writes, &[], &["same-revision"]);
    }

    #[test]
    fn an_order_against_time_is_found() {
        let writes = [write(1, 0, 1, Applied(7)), write(2, 2, 3, Applied(6))];
        check(Kind::Set, &writes, &[], &["real-time"]);
    }

    #[test]
    fn an_update_lost_between_a_condition_and_its_write_is_found() {
        let mut conditional = write(2, 0, 9, Applied(5));
        conditional.expected = Some(3);
        check(Kind::Set, &[write(1, 0, 9, Applied(4)), conditional.clone()], &[], &["lost-update"]);
        check(Kind::Set, &[write(1, 0, 9, Applied(3)), conditional], &[], &[]);
    }

    #[test]
    fn what_nobody_wrote_what_was_refused_and_what_comes_too_early_are_found() {
        let writes = [write(1, 0, 1, NotApplied), write(2, 0, 1, Applied(8))];
        check(Kind::Set, &writes, &[read(0, 2, 7, &[3])], &["nobody-wrote"]);
        check(Kind::Set, &writes, &[read(0, 2, 7, &[1])], &["refused-and-applied"]);
        check(Kind::Set, &writes, &[read(0, 2, 7, &[2])], &["from-the-future"]);
    }

    #[test]
    fn reads_that_go_back_or_come_too_late_are_found() {
        let writes = [write(1, 0, 1, Applied(1)), write(2, 2, 3, Applied(2))];
        check(Kind::Set, &writes, &[read(0, 9, 2, &[1, 2]), read(0, 19, 1, &[1])], &["read-went-back"]);
        check(Kind::Set, &writes, &[consistent(read(0, 9, 1, &[1]))], &["stale-read"]);
        check(Kind::Set, &writes, &[read(0, 9, 1, &[1])], &[]);
    }

    #[test]
    fn a_value_that_comes_again_is_found() {
        let writes = [write(1, 0, 1, Applied(1)), write(2, 2, 3, Applied(2))];
        check(Kind::Register, &writes, &[read(0, 9, 3, &[1])], &["doubled"]);
        // Also when its writer was never told.
        let writes = [write(1, 0, 1, Unknown), write(2, 2, 3, Applied(2))];
        check(Kind::Register, &writes, &[read(0, 1, 1, &[1]), read(0, 9, 3, &[1])], &["doubled"]);
    }

    #[test]
    fn two_contents_of_one_revision_are_found() {
        let writes = [write(1, 0, 1, Unknown), write(2, 2, 3, Applied(2))];
        check(Kind::Set, &writes, &[read(0, 9, 2, &[2]), read(1, 9, 2, &[1, 2])], &["two-contents"]);
    }
}
