//! Committing: one request for the head, the definitions and the change log.
//!
//! The request is conditional on the version of the head, so of two that were worked out on the same head one is
//! refused. When its answer is lost the log tells what became of it; and before "it is not there" is said, the version
//! of the head is moved by an empty write, so that the lost request can never be carried out any more.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jcm_model::Revision;
use jcm_proto::Transaction;
use tokio::time::timeout_at;
use tracing::{error, info, warn};
use zookeeper_client as zk;

use super::draft::{Draft, Write, draft};
use super::fetch;
use super::inner::{Bound, Committed, Inner};
use super::layout::{IDENTITY, block_of};
use super::membership::EPOCH;
use super::mirror::Before;
use super::session::{CallError, Line};
use super::stored::Head;
use crate::CommitError;
use crate::store::chain;
use crate::submission::Submission;

/// How long a commit may take in all: a write has 2 s, and its answer has to be given in them.
const COMMIT_PATIENCE: Duration = Duration::from_millis(1_800);
/// How long its answer is waited for: the rest is for finding out what became of a request without one.
const ANSWER_PATIENCE: Duration = Duration::from_millis(1_200);
/// A loss that lasts longer is not waited for: whoever writes is told at once.
const OUTAGE_WAITED_MAX: Duration = Duration::from_secs(2);
/// The pause between attempts to find out.
const RESOLVE_PAUSE: Duration = Duration::from_millis(50);

/// The operations of a request that come before those of the draft.
const AT_IDENTITY: usize = 0;
const AT_HEAD: usize = 1;
/// Only where a commit is for the leader alone. No other operation behind the head has a version to be wrong about.
const AT_EPOCH: usize = 2;

/// What a commit is worked out on.
struct Base {
    bound: Bound,
    head: Head,
    excerpt: std::collections::BTreeMap<jcm_model::ClusterName, Before>,
}

/// What to do about a refusal.
enum Refused {
    /// Nothing but the version of the head moved.
    Again,
    For(CommitError),
}

impl Inner {
    pub(super) async fn commit(
        &self,
        transaction: Arc<Transaction>,
        on: jcm_model::Head,
        epoch: Option<u64>,
    ) -> Result<(), CommitError> {
        let expected = on.revision;
        let begun = Instant::now();
        let (answer_due, deadline) = (begun + ANSWER_PATIENCE, begun + COMMIT_PATIENCE);
        let submission = Submission::parse(transaction, expected)?;
        self.refuse_during_outage()?;
        let Ok(_writer) = timeout_at(deadline.into(), self.writer.lock()).await else {
            return Err(unavailable("commits before it did not end in time"));
        };
        loop {
            let base = self.base(&submission.transaction, on)?;
            let mut draft = draft(&base.bound.layout, &submission.transaction, &base.excerpt)?;
            let last = submission.transaction.last();
            let layout = &base.bound.layout;
            if block_of(last) != block_of(expected) {
                draft.writes.push(Write::Create { path: layout.block(block_of(last)), data: Vec::new() });
            }
            draft.writes.push(Write::Create { path: layout.change(last), data: submission.record.clone() });
            draft.refuse_oversized(self.root_bytes)?;
            match self.submit(&base, &draft, last, (&submission.record, epoch), answer_due).await {
                Ok(head) => {
                    self.publish(Committed {
                        on,
                        transaction: submission.transaction,
                        size_bytes: submission.unpacked_bytes,
                        record_bytes: submission.record.len(),
                        head,
                        after: draft.after,
                    });
                    return Ok(());
                }
                Err(CallError::NotSent { reason }) => return Err(unavailable(&reason)),
                Err(CallError::Unknown { reason }) => {
                    warn!(revision = last.0, reason, "a commit was not answered");
                    return self.resolve(&base, &submission, deadline, reason).await;
                }
                Err(CallError::Refused(refusal)) => {
                    if let (Some(epoch), true) = (epoch, is_over(&refusal)) {
                        return Err(CommitError::Fenced { epoch });
                    }
                    match self.judge_refusal(&base, refusal, expected, deadline).await {
                        Refused::Again if Instant::now() < answer_due => {}
                        Refused::Again => return Err(unavailable("the head was written all the time")),
                        Refused::For(error) => return Err(error),
                    }
                }
            }
        }
    }

    /// Moves the version of the head and nothing else: a request that is conditional on an earlier one comes too late.
    pub(super) async fn settle(&self, on: jcm_model::Head) -> Result<(), CommitError> {
        let deadline = Instant::now() + COMMIT_PATIENCE;
        self.refuse_during_outage()?;
        let Ok(_writer) = timeout_at(deadline.into(), self.writer.lock()).await else {
            return Err(unavailable("commits before it did not end in time"));
        };
        let nothing = Transaction { epoch: 0, entries: Vec::new() };
        loop {
            let Base { bound, head, .. } = self.base(&nothing, on)?;
            let (path, data) = (bound.layout.head(), head.encode());
            let moved = self
                .session
                .call(deadline, |client| async move {
                    let mut writer = client.new_multi_writer();
                    writer.add_check_version(IDENTITY, bound.version)?;
                    add_head(&mut writer, &path, &data, head.version)?;
                    head_version(&writer.commit().await?)
                })
                .await;
            match moved {
                Ok(version) => {
                    self.state().note_head(on.store, Head { version, ..head });
                    return Ok(());
                }
                Err(CallError::NotSent { reason }) => return Err(unavailable(&reason)),
                Err(CallError::Unknown { reason }) => return Err(CommitError::Unknown { reason }),
                Err(CallError::Refused(refusal)) => {
                    match self.judge_refusal(&self.base(&nothing, on)?, refusal, on.revision, deadline).await
                    {
                        Refused::Again if Instant::now() < deadline => {}
                        Refused::Again => return Err(unavailable("the head was written all the time")),
                        Refused::For(error) => return Err(error),
                    }
                }
            }
        }
    }

    fn refuse_during_outage(&self) -> Result<(), CommitError> {
        match self.session.contact().borrow().line {
            Line::Down { since } if since.elapsed() > OUTAGE_WAITED_MAX => Err(unavailable(&format!(
                "no connection with ZooKeeper for {} ms",
                since.elapsed().as_millis()
            ))),
            _ => Ok(()),
        }
    }

    /// What is known, if it is what the transaction was worked out on.
    fn base(&self, transaction: &Transaction, on: jcm_model::Head) -> Result<Base, CommitError> {
        let expected = on.revision;
        let state = self.state();
        if let Some(reason) = state.refusal() {
            return Err(unavailable(reason));
        }
        if let Some(bound) = &state.bound
            && bound.identity.store != on.store
        {
            return Err(CommitError::Replaced { expected: on.store, found: bound.identity.store });
        }
        let (Some(bound), Some(held)) = (&state.bound, &state.held) else {
            // Without the log nobody knows whether the operation was carried out already.
            return Err(unavailable("its definitions are not loaded yet"));
        };
        let found = held.tail.head();
        if found != expected {
            return Err(CommitError::Conflict { expected, found });
        }
        if held.head.revision != expected {
            // More is being taken just now.
            return Err(CommitError::Conflict { expected, found: expected.next() });
        }
        let excerpt = held.mirror.excerpt(transaction);
        Ok(Base { bound: bound.clone(), head: held.head.clone(), excerpt })
    }

    /// Sends the request. The answer is the head that it made.
    async fn submit(
        &self,
        base: &Base,
        draft: &Draft,
        last: Revision,
        (record, epoch): (&[u8], Option<u64>),
        deadline: Instant,
    ) -> Result<Head, CallError<zk::MultiWriteError>> {
        let (recent, data) = base.head.next(last, record);
        let path = base.bound.layout.head();
        let options = zk::CreateMode::Persistent.with_acls(self.session.acls());
        let version = self
            .session
            .call(deadline, |client| async move {
                let mut writer = client.new_multi_writer();
                writer.add_check_version(IDENTITY, base.bound.version)?;
                add_head(&mut writer, &path, &data, base.head.version)?;
                if let Some(epoch) = epoch {
                    // One that is no version is none that anybody begins.
                    writer.add_check_version(EPOCH, i32::try_from(epoch).unwrap_or(i32::MAX))?;
                }
                for write in &draft.writes {
                    match write {
                        Write::Create { path, data } => writer.add_create(path, data, &options)?,
                        Write::Set { path, data } => writer.add_set_data(path, data, None)?,
                        Write::Delete { path } => writer.add_delete(path, None)?,
                    }
                }
                head_version(&writer.commit().await?)
            })
            .await?;
        Ok(Head { revision: last, version, recent, latest: Vec::new() })
    }

    /// Finds out why a request was refused: nothing of it is there.
    async fn judge_refusal(
        &self,
        base: &Base,
        refusal: zk::MultiWriteError,
        expected: Revision,
        deadline: Instant,
    ) -> Refused {
        self.hint.notify_one();
        let reason = chain(&refusal);
        match refusal {
            zk::MultiWriteError::OperationFailed { index: AT_HEAD, source: zk::Error::BadVersion } => {
                match fetch::head(&self.session, &base.bound.layout, deadline).await {
                    Ok(Some(Ok(head))) if head.revision == expected => {
                        self.state().note_head(base.bound.identity.store, head);
                        Refused::Again
                    }
                    Ok(Some(Ok(head))) => {
                        Refused::For(CommitError::Conflict { expected, found: head.revision })
                    }
                    // It moved, and that is all that can be said.
                    _ => Refused::For(CommitError::Conflict { expected, found: expected.next() }),
                }
            }
            zk::MultiWriteError::OperationFailed { index: AT_IDENTITY | AT_HEAD, .. } => Refused::For(
                unavailable(&format!("the store in the ensemble is not the one it was: {reason}")),
            ),
            zk::MultiWriteError::OperationFailed {
                source: zk::Error::NoNode | zk::Error::NodeExists | zk::Error::NotEmpty,
                ..
            } => {
                // Somebody else's hand: what is held is not what is there.
                error!(reason, "the znodes are not as they were left: definitions are loaded again");
                self.lose("a commit met znodes that are not as they were left");
                Refused::For(unavailable(&format!("its znodes are not as they were left: {reason}")))
            }
            _ => Refused::For(unavailable(&format!("ZooKeeper refused it: {reason}"))),
        }
    }

    /// Finds out what became of a request without an answer.
    async fn resolve(
        &self,
        base: &Base,
        submission: &Submission,
        deadline: Instant,
        lost: String,
    ) -> Result<(), CommitError> {
        #[cfg(feature = "planted")]
        if crate::planted::is_planted("blind-retry") {
            return self.retry_blindly(base, submission, deadline).await;
        }
        self.hint.notify_one();
        let mut reason = lost;
        while Instant::now() < deadline {
            let found = self.session.as_one(self.find_out(base, submission, deadline)).await;
            match found.unwrap_or_else(|| Err("the session was lost while it was looked for".to_owned())) {
                Ok(outcome) => {
                    self.hint.notify_one();
                    return outcome;
                }
                Err(why) => reason = why,
            }
            tokio::time::sleep(RESOLVE_PAUSE).await;
        }
        Err(CommitError::Unknown { reason })
    }

    /// One attempt to find out. The outer error: it is not known yet.
    async fn find_out(
        &self,
        base: &Base,
        submission: &Submission,
        deadline: Instant,
    ) -> Result<Result<(), CommitError>, String> {
        let layout = &base.bound.layout;
        let expected = base.head.revision;
        let unread = |error: fetch::ReadError| chain(&error);
        fetch::sync(&self.session, deadline).await.map_err(unread)?;
        let head = match fetch::head(&self.session, layout, deadline).await.map_err(unread)? {
            Some(Ok(head)) => head,
            Some(Err(reason)) => return Err(reason),
            None => return Err(format!("`{}` is not there", layout.head())),
        };
        if head.revision != expected {
            let path = layout.change(submission.transaction.last());
            let record = fetch::get(&self.session, &path, deadline).await.map_err(unread)?;
            // The same bytes are the same operations on the same head, whoever sent them.
            if record.is_some_and(|(bytes, _)| bytes == submission.record) {
                info!(revision = submission.transaction.last().0, "a commit without an answer is there");
                return Ok(Ok(()));
            }
            return Ok(Err(CommitError::Conflict { expected, found: head.revision }));
        }
        if head.version == base.head.version {
            // The request may still be on its way: after this it comes too late.
            let (path, data) = (layout.head(), head.encode());
            self.session
                .call(deadline, |client| async move {
                    let mut writer = client.new_multi_writer();
                    add_head(&mut writer, &path, &data, head.version)?;
                    writer.commit().await
                })
                .await
                .map_err(|error| chain(&error))?;
        }
        Ok(Err(unavailable("it was submitted, not answered, and is certainly not there")))
    }

    /// A fault on purpose: the same operations once more, on whatever the head is now, until that is answered.
    #[cfg(feature = "planted")]
    async fn retry_blindly(
        &self,
        base: &Base,
        submission: &Submission,
        deadline: Instant,
    ) -> Result<(), CommitError> {
        loop {
            match self.submit_once_more(base, submission, deadline).await {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() >= deadline => {
                    return Err(CommitError::Unknown { reason: error.to_string() });
                }
                // Others commit meanwhile: the head has moved again.
                Err(_) => tokio::time::sleep(RESOLVE_PAUSE).await,
            }
        }
    }

    #[cfg(feature = "planted")]
    async fn submit_once_more(
        &self,
        base: &Base,
        submission: &Submission,
        deadline: Instant,
    ) -> Result<(), CommitError> {
        let unavailable = |error: crate::LoadError| unavailable(&error.to_string());
        drop(self.look(&base.bound).await.map_err(unavailable)?);
        let head = self.state().held.as_ref().map_or(base.head.revision, |held| held.tail.head());
        let transaction = crate::planted::renumbered(&submission.transaction, head);
        let again = Submission::parse(Arc::new(transaction), head)?;
        let base = self.base(&again.transaction, base.bound.identity.head(head))?;
        let mut draft = draft(&base.bound.layout, &again.transaction, &base.excerpt)?;
        let (last, data) = (again.transaction.last(), again.record.clone());
        draft.writes.push(Write::Create { path: base.bound.layout.change(last), data });
        match self.submit(&base, &draft, last, (&again.record, None), deadline).await {
            Ok(_) => Ok(()),
            Err(error) => Err(CommitError::Unknown { reason: error.to_string() }),
        }
    }
}

/// Whether another leader has begun a later epoch.
fn is_over(refusal: &zk::MultiWriteError) -> bool {
    matches!(
        refusal,
        zk::MultiWriteError::OperationFailed {
            index: AT_EPOCH,
            source: zk::Error::BadVersion | zk::Error::NoNode
        }
    )
}

/// Writes the head on condition of its version. The version -1 would be no condition the next time: it is skipped.
fn add_head(
    writer: &mut zk::MultiWriter<'_>,
    path: &str,
    data: &[u8],
    version: i32,
) -> Result<(), zk::Error> {
    #[cfg(feature = "planted")]
    let condition = if crate::planted::is_planted("no-head-check") { None } else { Some(version) };
    #[cfg(not(feature = "planted"))]
    let condition = Some(version);
    writer.add_set_data(path, data, condition)?;
    if version == -2 {
        writer.add_set_data(path, data, None)?;
    }
    Ok(())
}

/// The version that the head has now.
fn head_version(results: &[zk::MultiWriteResult]) -> Result<i32, zk::MultiWriteError> {
    match results.get(AT_HEAD) {
        // It was written twice.
        Some(zk::MultiWriteResult::SetData { stat }) if stat.version == -1 => Ok(0),
        Some(zk::MultiWriteResult::SetData { stat }) => Ok(stat.version),
        _ => Err(zk::Error::UnexpectedError("the answer says nothing of the head".to_owned()).into()),
    }
}

fn unavailable(reason: &str) -> CommitError {
    CommitError::Unavailable { reason: reason.to_owned() }
}
