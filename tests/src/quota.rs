//! A share of a processor: what a process gets at most, by a control group of its own.

use std::path::{Path, PathBuf};

/// Where both versions are mounted on every Linux that has them.
const MOUNT: &str = "/sys/fs/cgroup";
const PERIOD_MICROS: u64 = 100_000;

/// Lifted when it is dropped.
#[derive(Debug)]
pub struct Quota {
    group: PathBuf,
    home: PathBuf,
    pid: u32,
}

impl Quota {
    /// The process gets this share of one processor from now on, in hundredths.
    pub fn of(pid: u32, percent: u64) -> Self {
        let mount = Path::new(MOUNT);
        let is_second = mount.join("cgroup.controllers").exists();
        let home = if is_second { mount.to_owned() } else { mount.join("cpu") };
        let group = home.join(format!("jcm-test-{pid}"));
        let write = |path: PathBuf, text: String| {
            std::fs::write(&path, &text).unwrap_or_else(|error| {
                panic!(
                    "write {text} to {}: {error}: this row needs to be allowed to make control groups",
                    path.display()
                )
            });
        };
        if is_second {
            write(home.join("cgroup.subtree_control"), "+cpu".to_owned());
        }
        std::fs::create_dir(&group).unwrap_or_else(|error| {
            panic!("make {}: {error}: this row needs to be allowed to make control groups", group.display())
        });
        let quota = PERIOD_MICROS * percent / 100;
        if is_second {
            write(group.join("cpu.max"), format!("{quota} {PERIOD_MICROS}"));
        } else {
            write(group.join("cpu.cfs_period_us"), PERIOD_MICROS.to_string());
            write(group.join("cpu.cfs_quota_us"), quota.to_string());
        }
        write(group.join("cgroup.procs"), pid.to_string());
        Self { group, home, pid }
    }

    /// How often the process was stopped because its share was used up.
    pub fn throttled(&self) -> u64 {
        let text = std::fs::read_to_string(self.group.join("cpu.stat")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("nr_throttled "));
        line.and_then(|count| count.trim().parse().ok()).unwrap_or_default()
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        // A process that has ended is in no group any more.
        let _ = std::fs::write(self.home.join("cgroup.procs"), self.pid.to_string());
        let _ = std::fs::remove_dir(&self.group);
    }
}
