//! Directories in memory, for what a server or ZooKeeper keeps on disk where the disk is not the subject.
//!
//! A write is acknowledged once a disk has it. On a machine whose disk is busy with something else that takes seconds,
//! which is nobody's promise and no test's subject.

use tempfile::TempDir;

/// A file system in memory, and the room that the logs of one ensemble need at most.
const MEMORY: &str = "/dev/shm";
const MEMORY_BYTES_MIN: u64 = 1 << 30;

/// A temporary directory: in memory where there is room, else on the disk.
pub fn directory(prefix: &str) -> std::io::Result<TempDir> {
    let room = rustix::fs::statvfs(MEMORY).map_or(0, |memory| memory.f_bavail * memory.f_frsize);
    if room < MEMORY_BYTES_MIN {
        return TempDir::with_prefix(prefix);
    }
    TempDir::with_prefix_in(prefix, MEMORY).or_else(|_| TempDir::with_prefix(prefix))
}
