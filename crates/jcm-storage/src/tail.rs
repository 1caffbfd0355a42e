//! The latest commits, kept in memory for those who follow them.
//!
//! Invariant: the transactions are contiguous and the last one ends at the head. What is older was dropped and has to
//! be read elsewhere, or is gone. Pure: whoever changes it tells those who wait.

use std::collections::VecDeque;
use std::sync::Arc;

use jcm_model::Revision;
use jcm_proto::Transaction;

use crate::Feed;

/// The latest commits.
#[derive(Debug)]
pub(crate) struct Tail {
    head: Revision,
    /// Each with the size of its record.
    transactions: VecDeque<(Arc<Transaction>, usize)>,
    size_bytes: usize,
    transactions_max: usize,
    size_bytes_max: usize,
}

/// What follows a revision.
#[derive(Debug)]
pub(crate) enum Next {
    /// This commit.
    Committed(Arc<Transaction>),
    /// Nothing yet.
    Nothing,
    /// Something that is no longer here.
    Older,
    /// Nothing ever will: no commit ended at that revision.
    Gap,
}

/// Where a follower is, and what was read for it ahead of what it was told. It hands out what follows without a gap, or
/// is lost for good.
#[derive(Debug)]
pub(crate) struct Cursor {
    /// The last revision that was handed out.
    at: Revision,
    /// Read and not handed out yet.
    backlog: VecDeque<Arc<Transaction>>,
    is_lost: bool,
}

impl Cursor {
    pub(crate) fn new(from: Revision) -> Self {
        Self { at: from, backlog: VecDeque::new(), is_lost: false }
    }

    pub(crate) fn at(&self) -> Revision {
        self.at
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// Takes what was read, in order. Answers whether there is anything.
    pub(crate) fn read_ahead(&mut self, transactions: Vec<Arc<Transaction>>) -> bool {
        self.backlog.extend(transactions);
        !self.backlog.is_empty()
    }

    /// The next of what was read.
    pub(crate) fn next_read(&mut self) -> Option<Feed> {
        let transaction = self.backlog.pop_front()?;
        Some(self.hand_out(transaction))
    }

    pub(crate) fn hand_out(&mut self, transaction: Arc<Transaction>) -> Feed {
        if transaction.first() != self.at.next() {
            return self.lose();
        }
        self.at = transaction.last();
        Feed::Committed(transaction)
    }

    /// Nothing can follow.
    pub(crate) fn lose(&mut self) -> Feed {
        self.is_lost = true;
        self.backlog.clear();
        Feed::Reset
    }
}

impl Tail {
    /// A tail that holds nothing of what led to the head.
    pub(crate) fn new(head: Revision, transactions_max: usize, size_bytes_max: usize) -> Self {
        Self { head, transactions: VecDeque::new(), size_bytes: 0, transactions_max, size_bytes_max }
    }

    pub(crate) fn head(&self) -> Revision {
        self.head
    }

    /// Takes the next commit. The newest one is always kept, whatever its size.
    pub(crate) fn push(&mut self, transaction: Arc<Transaction>, size_bytes: usize) {
        debug_assert_eq!(transaction.first(), self.head.next(), "a tail has no gap");
        self.head = transaction.last();
        self.size_bytes += size_bytes;
        self.transactions.push_back((transaction, size_bytes));
        while self.transactions.len() > 1
            && (self.transactions.len() > self.transactions_max || self.size_bytes > self.size_bytes_max)
        {
            if let Some((_, size_bytes)) = self.transactions.pop_front() {
                self.size_bytes -= size_bytes;
            }
        }
    }

    /// Forgets everything and goes on from a head that was read elsewhere.
    pub(crate) fn restart(&mut self, head: Revision) {
        *self = Self::new(head, self.transactions_max, self.size_bytes_max);
    }

    /// What follows a revision.
    pub(crate) fn after(&self, revision: Revision) -> Next {
        if revision == self.head {
            return Next::Nothing;
        }
        if revision > self.head {
            return Next::Gap;
        }
        let at = self.transactions.partition_point(|(transaction, _)| transaction.last() <= revision);
        match self.transactions.get(at) {
            Some((transaction, _)) if transaction.first() == revision.next() => {
                Next::Committed(Arc::clone(transaction))
            }
            _ if at == 0 => Next::Older,
            _ => Next::Gap,
        }
    }
}
