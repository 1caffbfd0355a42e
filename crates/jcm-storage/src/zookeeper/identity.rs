//! Which store an ensemble holds, and whether it is ours.
//!
//! A server that holds definitions of one store must not take those of another for them, nor write its own into an
//! empty one: whoever wiped an ensemble, or names another by mistake, is told so, and nothing is lost. Only a server
//! that holds nothing makes a store, and one that was put in the place of ours is followed to.

use std::time::Instant;

use jcm_model::StoreId;
use uuid::Uuid;
use zookeeper_client as zk;

use super::fetch::{Introduction, REQUEST_PATIENCE};
use super::layout::{IDENTITY, Layout, STORES};
use super::session::{CallError, Session};
use super::stored::{Head, Identity};

/// What to do about what an ensemble says it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is ours, or has become it.
    Ours { identity: Identity, version: i32 },
    /// It holds nothing, and neither do we.
    Make,
    /// It holds nothing, and we hold definitions.
    Emptied(String),
    /// It is not ours, for this reason.
    Alien(String),
}

/// Judges what an ensemble says it is by the store that is expected.
pub(super) fn judge(expected: Option<StoreId>, found: Option<Introduction>) -> Verdict {
    match (expected, found) {
        (None, None) => Verdict::Make,
        (Some(expected), None) => Verdict::Emptied(format!(
            "this server holds the definitions of store {expected}, and the ensemble holds none: it was wiped, or it is \
             another one; put its data back, or restore a snapshot"
        )),
        (_, Some((Err(reason), _))) => Verdict::Alien(reason),
        (None, Some((Ok(identity), version))) => Verdict::Ours { identity, version },
        (Some(expected), Some((Ok(identity), version))) => {
            if identity.store == expected || identity.replaces.contains(&expected) {
                return Verdict::Ours { identity, version };
            }
            Verdict::Alien(format!(
                "this server holds the definitions of store {expected}, and the ensemble those of store {}; name the \
                 right ensemble, or start with an empty data directory",
                identity.store
            ))
        }
    }
}

/// Makes an empty store, whole or not at all. Of several who try at the same time one does.
pub(super) async fn make(session: &Session) -> Result<(), CallError<zk::MultiWriteError>> {
    let options = zk::CreateMode::Persistent.with_acls(session.acls());
    let identity = Identity { store: StoreId(Uuid::new_v4()), replaces: Vec::new() };
    let layout = Layout::of(identity.store);
    let head =
        Head { revision: jcm_model::Revision::ZERO, version: 0, recent: Vec::new(), latest: Vec::new() };
    session
        .call(Instant::now() + REQUEST_PATIENCE, |client| async move {
            match client.create(STORES, &[], &options).await {
                Ok(_) | Err(zk::Error::NodeExists) => {}
                Err(error) => return Err(error.into()),
            }
            let mut writer = client.new_multi_writer();
            writer.add_create(IDENTITY, &identity.encode(), &options)?;
            writer.add_create(layout.base(), &[], &options)?;
            writer.add_create(&layout.head(), &head.encode(), &options)?;
            writer.add_create(&layout.changes(), &[], &options)?;
            writer.add_create(&layout.block(0), &[], &options)?;
            writer.add_create(&layout.clusters(), &[], &options)?;
            for bucket in layout.buckets() {
                writer.add_create(&bucket, &[], &options)?;
            }
            writer.commit().await
        })
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(number: u128) -> StoreId {
        StoreId(Uuid::from_u128(number))
    }

    #[test]
    fn only_who_holds_nothing_makes_a_store_and_only_ours_is_taken() {
        let found = |id, replaces: &[u128]| {
            let replaces = replaces.iter().copied().map(store).collect();
            Some((Ok(Identity { store: store(id), replaces }), 3))
        };
        assert_eq!(judge(None, None), Verdict::Make);
        for (expected, found) in
            [(None, found(1, &[])), (Some(store(1)), found(1, &[])), (Some(store(1)), found(9, &[5, 1]))]
        {
            assert!(matches!(judge(expected, found), Verdict::Ours { version: 3, .. }), "{expected:?}");
        }
        let newer = Some((Err("its format 7 is newer".to_owned()), 0));
        for (expected, found, named) in [
            (Some(store(1)), found(2, &[3]), vec![store(1).to_string(), store(2).to_string()]),
            (None, newer.clone(), vec!["newer".to_owned()]),
            (Some(store(1)), newer, vec!["newer".to_owned()]),
        ] {
            let Verdict::Alien(reason) = judge(expected, found) else { panic!("{named:?} was taken") };
            assert!(named.iter().all(|name| reason.contains(name)), "{reason}");
        }
        let Verdict::Emptied(reason) = judge(Some(store(1)), None) else { panic!("it holds nothing") };
        assert!(reason.contains(&store(1).to_string()), "{reason}");
    }
}
