//! Reading znodes: single ones, many at once, the change log, and all definitions.

use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt, TryStreamExt};
use jcm_model::Revision;
use jcm_proto::Transaction;
use zookeeper_client as zk;

use super::layout::{IDENTITY, Layout, block_of, parse_block, parse_change};
use super::session::{CallError, Session};
use super::stored::{Head, Identity, decode_change};
use crate::LoadError;
use crate::store::chain;

/// How long one answer may take.
pub(super) const REQUEST_PATIENCE: Duration = Duration::from_secs(2);
/// Znodes that are read with one request. Most are small; the largest possible still fit a few times into memory.
const BATCH: usize = 16;
/// Requests of one reader at a time: enough to hide the way there and back, few beside those of commits.
const READERS: usize = 8;

/// A znode's bytes, with what is known about it.
pub(super) type Znode = (Vec<u8>, zk::Stat);

/// ZooKeeper did not answer, or not with what was asked for.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("the ensemble is not the one that this server is bound to")]
    NotOurs,
    #[error("znode `{path}` cannot be read")]
    Refused {
        path: String,
        #[source]
        source: zk::Error,
    },
}

impl From<ReadError> for LoadError {
    fn from(error: ReadError) -> Self {
        Self::Unavailable { reason: chain(&error) }
    }
}

fn soon() -> Instant {
    Instant::now() + REQUEST_PATIENCE
}

/// A znode that may not be there.
pub(super) async fn get(
    session: &Session,
    path: &str,
    deadline: Instant,
) -> Result<Option<Znode>, ReadError> {
    found(path, session.call(deadline, |client| async move { client.get_data(path).await }).await)
}

/// What an answer says about a znode that may not be there.
fn found<T>(path: &str, answer: Result<T, CallError>) -> Result<Option<T>, ReadError> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(CallError::Refused(zk::Error::NoNode)) => Ok(None),
        Err(CallError::Refused(source)) => Err(ReadError::Refused { path: path.to_owned(), source }),
        Err(error) => Err(error.into()),
    }
}

/// The names below a znode that may not be there.
pub(super) async fn children(session: &Session, path: &str) -> Result<Option<Vec<String>>, ReadError> {
    found(path, session.call(soon(), |client| async move { client.list_children(path).await }).await)
}

/// Makes the member that we ask catch up with the leader.
pub(super) async fn sync(session: &Session, deadline: Instant) -> Result<(), ReadError> {
    Ok(session.call(deadline, |client| async move { client.sync("/").await }).await?)
}

/// Some znodes with one request, in the order of their paths.
pub(super) async fn get_batch(session: &Session, paths: &[String]) -> Result<Vec<Option<Znode>>, ReadError> {
    let answer = session
        .call(soon(), |client| async move {
            let mut reader = client.new_multi_reader();
            for path in paths {
                reader.add_get_data(path)?;
            }
            reader.commit().await
        })
        .await?;
    let read = |(path, result): (&String, zk::MultiReadResult)| match result {
        zk::MultiReadResult::Data { data, stat } => Ok(Some((data, stat))),
        zk::MultiReadResult::Error { err: zk::Error::NoNode } => Ok(None),
        zk::MultiReadResult::Error { err } => Err(ReadError::Refused { path: path.clone(), source: err }),
        _ => Err(ReadError::Refused { path: path.clone(), source: zk::Error::RuntimeInconsistent }),
    };
    paths.iter().zip(answer).map(read).collect()
}

/// Any number of znodes, in the order of their paths.
pub(super) async fn get_many(session: &Session, paths: &[String]) -> Result<Vec<Option<Znode>>, ReadError> {
    let batches: Vec<Vec<String>> = paths.chunks(BATCH).map(<[String]>::to_vec).collect();
    let batches: Vec<Vec<Option<Znode>>> = stream::iter(batches)
        .map(|batch| async move { get_batch(session, &batch).await })
        .buffered(READERS)
        .try_collect()
        .await?;
    Ok(batches.into_iter().flatten().collect())
}

/// The names below any number of znodes, in the order of their paths. One that is not there has none.
pub(super) async fn children_of_many(
    session: &Session,
    paths: &[String],
) -> Result<Vec<Vec<String>>, ReadError> {
    stream::iter(paths.to_vec())
        .map(|path| async move { Ok(children(session, &path).await?.unwrap_or_default()) })
        .buffered(READERS)
        .try_collect()
        .await
}

/// Which store the ensemble says it is, with the version of that znode; or why it cannot be read.
pub(super) type Introduction = (Result<Identity, String>, i32);

/// Which store is there. `None`: none is.
pub(super) async fn identity(session: &Session) -> Result<Option<Introduction>, ReadError> {
    let znode = get(session, IDENTITY, soon()).await?;
    Ok(znode.map(|(bytes, stat)| (Identity::decode(&bytes), stat.version)))
}

/// The head. `None`: the store is not there. The inner error says why it cannot be read.
pub(super) async fn head(
    session: &Session,
    layout: &Layout,
    deadline: Instant,
) -> Result<Option<Result<Head, String>>, ReadError> {
    let znode = get(session, &layout.head(), deadline).await?;
    Ok(znode.map(|(bytes, stat)| Head::decode(&bytes, stat.version).map_err(|error| chain(&error))))
}

/// The head, and a watch that fires when it is written the next time.
pub(super) async fn watched_head(
    session: &Session,
    layout: &Layout,
) -> Result<(Option<Result<Head, String>>, zk::OneshotWatcher), ReadError> {
    let path = layout.head();
    let watched = |client: zk::Client| {
        let path = path.clone();
        async move {
            loop {
                match client.get_and_watch_data(&path).await {
                    Ok((bytes, stat, watch)) => return Ok((Some((bytes, stat)), watch)),
                    Err(zk::Error::NoNode) => {}
                    Err(error) => return Err(error),
                }
                if let (None, watch) = client.check_and_watch_stat(&path).await? {
                    return Ok((None, watch));
                }
            }
        }
    };
    let (znode, watch) = match session.call(soon(), watched).await {
        Ok(found) => found,
        Err(CallError::Refused(source)) => return Err(ReadError::Refused { path, source }),
        Err(error) => return Err(error.into()),
    };
    Ok((znode.map(|(bytes, stat)| Head::decode(&bytes, stat.version).map_err(|error| chain(&error))), watch))
}

/// A watch that fires when the identity is written, made or deleted.
pub(super) async fn watch_identity(session: &Session) -> Result<zk::OneshotWatcher, ReadError> {
    let watch = |client: zk::Client| async move { client.check_and_watch_stat(IDENTITY).await };
    Ok(session.call(soon(), watch).await?.1)
}

/// A part of the log that cannot be given.
#[derive(Debug, thiserror::Error)]
pub(super) enum LogError {
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It was trimmed, or cannot be read.
    #[error("the change log has a gap after {after}: {reason}")]
    Gap { after: Revision, reason: String },
}

/// The transactions that end at these revisions. The first follows `after`, each of the others the one before.
pub(super) async fn transactions(
    session: &Session,
    layout: &Layout,
    mut after: Revision,
    ends: &[Revision],
) -> Result<Vec<(Transaction, usize)>, LogError> {
    let paths: Vec<String> = ends.iter().map(|last| layout.change(*last)).collect();
    let mut transactions = Vec::with_capacity(ends.len());
    for (last, znode) in ends.iter().zip(get_many(session, &paths).await?) {
        let gap = |reason: String| LogError::Gap { after, reason };
        let (bytes, _) = znode.ok_or_else(|| gap(format!("the record of {last} is not there")))?;
        let transaction = decode_change(*last, &bytes).map_err(|error| gap(chain(&error)))?;
        if transaction.first() != after.next() {
            return Err(gap(format!("{} follows", transaction.first())));
        }
        after = transaction.last();
        transactions.push((transaction, bytes.len()));
    }
    Ok(transactions)
}

/// The ends of the transactions after a revision and up to another, in order; of many the first ones.
pub(super) async fn ends(
    session: &Session,
    layout: &Layout,
    after: Revision,
    until: Revision,
    max: usize,
) -> Result<Vec<Revision>, ReadError> {
    let mut blocks = blocks(session, layout).await?;
    blocks.retain(|block| (block_of(after.next())..=block_of(until)).contains(block));
    let mut ends = Vec::new();
    for block in blocks {
        ends.extend(
            ends_in(session, layout, block).await?.into_iter().filter(|last| *last > after && *last <= until),
        );
        if ends.len() >= max {
            break;
        }
    }
    ends.truncate(max);
    Ok(ends)
}

/// The ends of all transactions in the log, in order.
pub(super) async fn all_ends(session: &Session, layout: &Layout) -> Result<Vec<Revision>, ReadError> {
    let blocks = blocks(session, layout).await?;
    let ends: Vec<Vec<Revision>> = stream::iter(blocks)
        .map(|block| ends_in(session, layout, block))
        .buffered(READERS)
        .try_collect()
        .await?;
    Ok(ends.into_iter().flatten().collect())
}

/// The blocks of the log, in order. What has another name is left alone.
pub(super) async fn blocks(session: &Session, layout: &Layout) -> Result<Vec<u64>, ReadError> {
    let path = layout.changes();
    let names = children(session, &path).await?;
    let names = names.ok_or(ReadError::Refused { path, source: zk::Error::NoNode })?;
    let mut blocks: Vec<u64> = names.iter().filter_map(|name| parse_block(name)).collect();
    blocks.sort_unstable();
    Ok(blocks)
}

/// The ends of the transactions in a block, in order.
pub(super) async fn ends_in(
    session: &Session,
    layout: &Layout,
    block: u64,
) -> Result<Vec<Revision>, ReadError> {
    let names = children(session, &layout.block(block)).await?.unwrap_or_default();
    let mut ends: Vec<Revision> = names.iter().filter_map(|name| parse_change(name)).collect();
    ends.sort_unstable();
    Ok(ends)
}
