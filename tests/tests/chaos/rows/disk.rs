//! What a server kept on its disk, damaged, while the store is gone.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::row::Row;
use crate::scene::{self, PATIENCE, is_short};

/// A start without a store and without a snapshot to serve does not listen: it has nothing to say.
const STARTED: Duration = Duration::from_secs(6);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_50_damaged_snapshot() {
    let mut row = Row::begin(
        "50",
        "a server's files cut short or with a bit turned, at many places, while ZooKeeper is gone",
        "a checksum tells; the previous one, or nothing until the store is there: bad data served 0",
    );
    let (zookeeper, mut group) = scene::three().await;
    scene::followed(&group, "kept").await;
    let marks = ["first", "second", "third"];
    for mark in marks {
        let revision = scene::mark(&group.clients(), "kept", mark).await;
        for client in group.clients() {
            assert!(scene::comes_to(&client, revision, PATIENCE).await.is_some());
        }
        tokio::time::sleep(Duration::from_secs(if is_short() { 6 } else { 15 })).await;
    }
    zookeeper.stop_all().await;
    let server = 1;
    group.server_mut(server).kill_9().await;
    let data = group.server(server).data();
    let sound = TempDir::with_prefix("jcm-sound-").expect("a temporary directory");
    copy(&data, sound.path());
    let files: Vec<_> =
        files(&data).into_iter().filter(|file| file.metadata().is_ok_and(|file| file.len() > 16)).collect();
    eprintln!("the files: {files:?}");
    let places = if is_short() { 3 } else { 8_u64 };
    let (mut bad, mut served, mut waited, mut damages) = (0, 0, 0, 0);
    for file in &files {
        for place in 0..places {
            for cut in [true, false] {
                restore(sound.path(), &data);
                damage(file, place, places, cut);
                damages += 1;
                if group.server_mut(server).restarts_within(STARTED).await {
                    let kept = group.client(server).get_cluster("kept").await;
                    match kept.status {
                        200 => {
                            served += 1;
                            let mark = kept.body["properties"]["mark"].as_str().unwrap_or_default();
                            let is_good = (mark == "0" || marks.contains(&mark))
                                && kept.body["nodes"].as_array().is_some_and(|nodes| nodes.len() == 3);
                            bad += usize::from(!is_good);
                        }
                        404 => bad += 1,
                        _ => waited += 1,
                    }
                    group.server_mut(server).kill_9().await;
                } else {
                    waited += 1;
                }
            }
        }
    }
    row.traffic("damages", damages, 4);
    row.none("bad_data_served", bad);
    row.figure("served_an_older_one", served);
    row.figure("waited_for_the_store", waited);
    restore(sound.path(), &data);
    zookeeper.start_all().await;
    group.server_mut(server).restart().await;
    row.converged(&group).await;
    row.end();
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory)
        .expect("the data directory")
        .map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("an entry has a name"));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).expect("copy a file");
        }
    }
}

fn restore(sound: &Path, data: &Path) {
    std::fs::remove_dir_all(data).expect("the data of a killed server");
    copy(sound, data);
}

/// Cuts the file short at a place, or turns a bit there.
fn damage(file: &Path, place: u64, places: u64, cut: bool) {
    let mut bytes = std::fs::read(file).expect("a file of the server");
    let at = usize::try_from(bytes.len() as u64 * place / places).expect("a small file");
    if cut {
        bytes.truncate(at);
    } else {
        bytes[at] ^= 0x10;
    }
    std::fs::write(file, bytes).expect("write the damaged file");
}
