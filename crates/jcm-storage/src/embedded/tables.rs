//! What is in the file.
//!
//! A cluster is one row for its header and one row a node, so that registering one node writes one node. Keys are
//! bytes, not text: bytes that are no text are somebody's damage to report, not a reason to stop.

use jcm_model::{Revision, StoreId};
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, Table, TableDefinition, TableHandle};
use uuid::Uuid;

/// The format that this version writes. It refuses every later one.
pub(super) const FORMAT: u128 = 1;

/// Numbers by name; the store's uuid is one of them.
pub(super) const META: TableDefinition<'_, &str, u128> = TableDefinition::new("meta");
/// Cluster name to the record of a cluster without its nodes.
pub(super) const CLUSTERS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("clusters");
/// Cluster name and node id to the record of the node.
pub(super) const NODES: TableDefinition<'_, (&[u8], &[u8]), &[u8]> = TableDefinition::new("nodes");
/// Last revision of a transaction to the number of its operations and its record.
pub(super) const LOG: TableDefinition<'_, u64, (u32, &[u8])> = TableDefinition::new("log");

pub(super) const META_FORMAT: &str = "format";
pub(super) const META_STORE: &str = "store";
pub(super) const META_HEAD: &str = "head";
pub(super) const META_LOG_OPERATIONS: &str = "log operations";
pub(super) const META_LOG_BYTES: &str = "log bytes";

/// All rows of one cluster's nodes: names have no zero byte, so this is where the next name begins at the earliest.
pub(super) fn end_of(cluster: &str) -> Vec<u8> {
    let mut end = cluster.as_bytes().to_vec();
    end.push(0);
    end
}

/// A number of the meta table.
pub(super) fn number(meta: &impl ReadableTable<&'static str, u128>, name: &str) -> Result<u64, redb::Error> {
    let missing = || redb::Error::Corrupted(format!("the meta table has no valid row `{name}`"));
    let row = meta.get(name)?.ok_or_else(missing)?;
    u64::try_from(row.value()).map_err(|_| missing())
}

/// Which store this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) store: StoreId,
    /// The identities whose place it has taken, latest last.
    pub(super) replaced: Vec<StoreId>,
}

/// Which store this is, and its head.
pub(super) fn identity(database: &Database) -> Result<(Identity, Revision), redb::Error> {
    identity_in(&database.begin_read()?)
}

/// The same, in one read with what else is looked up in it.
pub(super) fn identity_in(read: &ReadTransaction) -> Result<(Identity, Revision), redb::Error> {
    let meta = read.open_table(META)?;
    let missing = || redb::Error::Corrupted(format!("the meta table has no row `{META_STORE}`"));
    let store = StoreId(Uuid::from_u128(meta.get(META_STORE)?.ok_or_else(missing)?.value()));
    let mut replaced = Vec::new();
    while let Some(row) = meta.get(replaced_row(replaced.len()).as_str())? {
        replaced.push(StoreId(Uuid::from_u128(row.value())));
    }
    Ok((Identity { store, replaced }, Revision(number(&meta, META_HEAD)?)))
}

/// The row of one identity that the store has replaced.
fn replaced_row(at: usize) -> String {
    format!("replaced {at}")
}

/// Writes the identity of a store that was restored.
pub(super) fn identify(
    meta: &mut Table<'_, &'static str, u128>,
    identity: &Identity,
) -> Result<(), redb::Error> {
    meta.insert(META_STORE, identity.store.0.as_u128())?;
    // The list is never shorter than the one before, so no row of that is left over.
    for (at, id) in identity.replaced.iter().enumerate() {
        meta.insert(replaced_row(at).as_str(), id.0.as_u128())?;
    }
    Ok(())
}

/// Makes an empty database an empty store, with an identity of its own.
pub(super) fn initialise(database: &Database) -> Result<(), redb::Error> {
    let write = database.begin_write()?;
    {
        let mut meta = write.open_table(META)?;
        meta.insert(META_FORMAT, FORMAT)?;
        meta.insert(META_STORE, Uuid::new_v4().as_u128())?;
        for name in [META_HEAD, META_LOG_OPERATIONS, META_LOG_BYTES] {
            meta.insert(name, 0)?;
        }
        write.open_table(CLUSTERS)?;
        write.open_table(NODES)?;
        write.open_table(LOG)?;
    }
    write.commit()?;
    Ok(())
}

/// The format of the database; `None` when it is not one of ours.
pub(super) fn format_of(database: &Database) -> Result<Option<u128>, redb::Error> {
    let read = database.begin_read()?;
    if !read.list_tables()?.any(|table| table.name() == META.name()) {
        return Ok(None);
    }
    match read.open_table(META) {
        Ok(meta) => Ok(meta.get(META_FORMAT)?.map(|format| format.value())),
        Err(redb::TableError::TableTypeMismatch { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
