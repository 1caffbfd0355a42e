//! Where the ensemble is, and how to be let in.

use std::time::Duration;

use jcm_model::Invalid;

/// Where the ensemble is, and how to be let in.
#[derive(Clone)]
pub struct Config {
    /// `host:port` of its members, separated by commas.
    pub hosts: String,
    /// The znode below which everything is kept, like `/jcm`; made where it is missing.
    pub root: String,
    /// How long the ensemble keeps a session that it does not hear of. It has limits of its own for that.
    pub session_timeout: Duration,
    /// User and password of the digest scheme. With it only who has it can read or write what is made here.
    pub digest: Option<(String, String)>,
}

/// Without the password.
impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("hosts", &self.hosts)
            .field("root", &self.root)
            .field("session_timeout", &self.session_timeout)
            .field("user", &self.digest.as_ref().map(|(user, _)| user))
            .finish()
    }
}

impl Config {
    /// Refuses what can never work, and names it.
    pub fn check(&self) -> Result<(), Invalid> {
        for host in self.hosts.split(',') {
            refuse_unless_host(host)?;
        }
        refuse_unless_root(&self.root)?;
        if self.session_timeout < Duration::from_secs(1) || self.session_timeout > Duration::from_mins(5) {
            return Err(Invalid::new(format!(
                "a session timeout of {:?} is refused: it is between 1 s and 5 min",
                self.session_timeout
            )));
        }
        match &self.digest {
            Some((user, _)) if user.is_empty() || user.contains(':') => {
                Err(Invalid::new("the ZooKeeper user is empty or has a `:` in it".to_owned()))
            }
            _ => Ok(()),
        }
    }
}

fn refuse_unless_host(host: &str) -> Result<(), Invalid> {
    let refused = |why: &str| Err(Invalid::new(format!("ZooKeeper host `{host}` is refused: {why}")));
    if host.contains('/') {
        return refused("a path belongs into the root");
    }
    let (name, port) = match host.rsplit_once(':') {
        // The colons of an IPv6 address without a port.
        Some((_, rest)) if rest.ends_with(']') => (host, None),
        Some((name, port)) => (name, Some(port)),
        None => (host, None),
    };
    if name.is_empty() || name.contains(char::is_whitespace) {
        return refused("a host is `name:port`");
    }
    match port.map(str::parse::<u16>) {
        Some(Ok(0) | Err(_)) => refused("its port is no number from 1 to 65535"),
        _ => Ok(()),
    }
}

fn refuse_unless_root(root: &str) -> Result<(), Invalid> {
    let refused = |why: &str| Err(Invalid::new(format!("ZooKeeper root `{root}` is refused: {why}")));
    let Some(path) = root.strip_prefix('/') else {
        return refused("a root starts with `/`");
    };
    if path.is_empty() {
        return Ok(());
    }
    for part in path.split('/') {
        if matches!(part, "" | "." | "..") {
            return refused("it has an empty part, `.` or `..` in it");
        }
        if part.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return refused("it has a space or a control character in it");
        }
    }
    if path == "zookeeper" || path.starts_with("zookeeper/") {
        return refused("`/zookeeper` belongs to ZooKeeper itself");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(hosts: &str, root: &str) -> Config {
        let digest = Some(("jcm".to_owned(), "hunter2".to_owned()));
        Config {
            hosts: hosts.to_owned(),
            root: root.to_owned(),
            session_timeout: Duration::from_secs(6),
            digest,
        }
    }

    #[test]
    fn what_can_never_work_is_refused_and_named() {
        for (hosts, root, named) in [
            ("zk1:2181,", "/jcm", "``"),
            ("zk1:0", "/jcm", "zk1:0"),
            ("zk1:port", "/jcm", "zk1:port"),
            ("zk1:2181/jcm", "/jcm", "zk1:2181/jcm"),
            ("zk1", "jcm", "`jcm`"),
            ("zk1", "/jcm/", "`/jcm/`"),
            ("zk1", "/a/../b", "`/a/../b`"),
            ("zk1", "/zookeeper", "`/zookeeper`"),
        ] {
            let error = config(hosts, root).check().expect_err(hosts).to_string();
            assert!(error.contains(named), "{hosts} {root}: {error}");
        }
        for (hosts, root) in [("zk1", "/"), ("zk1:2181,zk2:2181,[::1]:2181,[::1]", "/prod/jcm")] {
            config(hosts, root).check().unwrap();
        }
    }

    #[test]
    fn the_password_is_not_in_its_debug_form() {
        let text = format!("{:?}", config("zk1", "/jcm"));
        assert!(text.contains("\"jcm\"") && !text.contains("hunter2"), "{text}");
    }
}
