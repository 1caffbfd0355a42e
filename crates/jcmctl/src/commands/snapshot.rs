//! `snapshot save|restore`: all definitions in one file, and back.

use std::io::{ErrorKind, Read as _, Write as _};
use std::path::Path;
use std::time::Duration;

use jcm_proto::SavedDefinitions;
use reqwest::Method;
use serde_json::json;

use super::{Session, counted};
use crate::cli::{Restore, Save, SnapshotCommand};
use crate::client::Call;
use crate::failure::{Exit, Failure};

/// Largest file: what a server takes.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// How long a store of the largest size may take to be replaced.
const RESTORE_PATIENCE: Duration = Duration::from_mins(5);

pub(super) async fn run(session: &Session, command: SnapshotCommand) -> Result<Exit, Failure> {
    match command {
        SnapshotCommand::Save(save) => self::save(session, save).await,
        SnapshotCommand::Restore(restore) => self::restore(session, restore).await,
    }
}

async fn save(session: &Session, save: Save) -> Result<Exit, Failure> {
    let shown = save.file.display().to_string();
    let again = || format!("jcmctl snapshot save {shown} --force");
    if save.file.exists() && !save.force {
        return Err(Failure::new(Exit::Condition, format!("`{shown}` is there already")).next(again()));
    }
    let bytes = session.client.fetch(&Call::get(["snapshot"])).await?;
    // What cannot be read back is no backup.
    let saved = SavedDefinitions::decode(&bytes).map_err(|error| {
        Failure::new(Exit::Failure, format!("the server's snapshot cannot be used: {error}"))
    })?;
    write(&save.file, &bytes, save.force).map_err(|error| {
        let failure = Failure::new(Exit::Failure, format!("`{shown}` cannot be written: {error}"));
        if error.kind() == ErrorKind::AlreadyExists { failure.next(again()) } else { failure }
    })?;
    for (cluster, reason) in &saved.quarantined {
        session.note(&format!(
            "cluster `{cluster}` is not in it, the store's record of it cannot be read: {reason}"
        ));
    }
    let sentence = format!("{} saved to {shown}", described(&saved));
    let answer = json!({
        "file": shown,
        "store": saved.store.to_string(),
        "revision": saved.revision.0,
        "clusters": saved.clusters.len(),
        "nodes": saved.node_count(),
    });
    session.done(&shown, &sentence, answer)?;
    Ok(Exit::Ok)
}

async fn restore(session: &Session, restore: Restore) -> Result<Exit, Failure> {
    let shown = restore.file.display().to_string();
    let unusable = |reason: String| Failure::usage(format!("`{shown}` cannot be restored: {reason}"));
    let bytes = read(&restore.file).map_err(|error| unusable(error.to_string()))?;
    let saved = SavedDefinitions::decode(&bytes).map_err(|error| unusable(error.to_string()))?;
    let status = session.client.send(Call::get(["status"])).await?;
    let store = status.body["store"]["id"].as_str().unwrap_or_default().to_owned();
    let held = status.body["clusters"].as_u64().unwrap_or_default();
    session.confirm(
        &format!(
            "{} of {shown} take the place of everything in store {store} ({} now), under a new store id. Go on?",
            described(&saved),
            counted(usize::try_from(held).unwrap_or(usize::MAX), "cluster"),
        ),
        restore.yes,
    )?;
    let call = Call::new(Method::POST, ["snapshot"])
        .with_query("replaces", store.as_str())
        .with_bytes(bytes)
        .with_patience(RESTORE_PATIENCE);
    let answer = session.client.send(call).await?;
    let new = answer.body["store"].as_str().unwrap_or_default().to_owned();
    let sentence = format!(
        "{} restored: the store is {new} now, in the place of {store}; servers and subscribers follow",
        described(&saved)
    );
    session.done(&new, &sentence, answer.body)?;
    Ok(Exit::Ok)
}

fn described(saved: &SavedDefinitions) -> String {
    format!(
        "{} with {} at revision {} of store {}",
        counted(saved.clusters.len(), "cluster"),
        counted(saved.node_count(), "node"),
        saved.revision,
        saved.store
    )
}

fn read(file: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(file)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(std::io::Error::new(
            ErrorKind::FileTooLarge,
            format!("it is larger than {FILE_BYTES_MAX} bytes"),
        ));
    }
    Ok(bytes)
}

/// The whole file or none: a crash in the middle must not leave something that looks like a backup.
fn write(file: &Path, bytes: &[u8], replace: bool) -> std::io::Result<()> {
    if !replace && file.exists() {
        return Err(std::io::Error::new(ErrorKind::AlreadyExists, "it is there already"));
    }
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let part = file.with_file_name(name);
    let written = std::fs::File::create(&part)
        .and_then(|mut to| to.write_all(bytes).and_then(|()| to.sync_all()))
        .and_then(|()| std::fs::rename(&part, file));
    if written.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    written
}
