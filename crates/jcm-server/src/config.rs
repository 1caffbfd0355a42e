//! The configuration: TOML, then environment, then flags, each refused by name where it is wrong.
//!
//! One table, [`KEYS`], says which keys there are, what each takes and its default: it reads, checks and prints.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jcm_model::invalid::quoted;
use jcm_model::{ServerId, duration};
use toml::Value;

const ENVIRONMENT_PREFIX: &str = "JCM__";

/// Everything that can be configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) server: Server,
    pub(crate) store: Store,
    pub(crate) health: Health,
    pub(crate) lease: Lease,
}

/// How carefully the leader clears away nodes that nobody keeps any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lease {
    /// How long many nodes that lapse together are left where they are.
    pub(crate) grace: Duration,
}

/// Limits of the engine that carries out checks, and whose certificates it believes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Health {
    pub(crate) threads: usize,
    pub(crate) ca_file: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) listen: SocketAddr,
    /// Where others reach this server; the address it listens on when not configured.
    pub(crate) advertise: Option<String>,
    pub(crate) id: Option<ServerId>,
    pub(crate) zone: String,
    pub(crate) data: PathBuf,
    pub(crate) peer_token_file: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Store {
    pub(crate) kind: StoreKind,
    pub(crate) zookeeper: ZooKeeper,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoreKind {
    /// One server with a file of its own.
    Embedded,
    /// Any number of servers on one ensemble.
    ZooKeeper,
}

/// The ensemble that several servers share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ZooKeeper {
    /// `host:port` of each member, separated by commas; a path may follow the last.
    pub(crate) hosts: String,
    /// Below that path.
    pub(crate) root: String,
    pub(crate) session_timeout: Duration,
    pub(crate) digest_file: Option<PathBuf>,
}

impl ZooKeeper {
    /// `host:port` of each member.
    pub(crate) fn members(&self) -> impl Iterator<Item = &str> {
        self.hosts.split_once('/').map_or(self.hosts.as_str(), |(members, _)| members).split(',')
    }

    /// The znode below which everything is kept: the path in the hosts, then the root.
    pub(crate) fn full_root(&self) -> String {
        match self.hosts.split_once('/') {
            Some((_, path)) => format!("/{path}{}", self.root),
            None => self.root.clone(),
        }
    }
}

/// `/a/b`: nothing that could mean another znode than it seems to.
fn is_znode_path(text: &str) -> bool {
    text.strip_prefix('/').is_some_and(|path| {
        path.split('/').all(|part| {
            !matches!(part, "" | "." | "..") && !part.contains(|c: char| c.is_control() || c.is_whitespace())
        })
    })
}

impl Default for Config {
    fn default() -> Self {
        Self {
            server: Server {
                listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
                advertise: None,
                id: None,
                zone: String::new(),
                data: PathBuf::from("/var/lib/jcm"),
                peer_token_file: None,
            },
            store: Store {
                kind: StoreKind::Embedded,
                zookeeper: ZooKeeper {
                    hosts: String::new(),
                    root: "/jcm".to_owned(),
                    session_timeout: Duration::from_secs(6),
                    digest_file: None,
                },
            },
            health: Health { threads: 1, ca_file: None },
            lease: Lease { grace: Duration::from_mins(10) },
        }
    }
}

/// A setting that was refused: which, where it came from, and what is allowed.
#[derive(Debug, thiserror::Error)]
#[error("{source_name}: `{key}`: {reason}")]
pub(crate) struct Refused {
    /// The dotted key.
    key: String,
    /// The file, the variable or the flag.
    source_name: String,
    /// What is wrong and what is allowed.
    reason: String,
}

/// One key: how it is written into the configuration, and what it takes.
struct Key {
    name: &'static str,
    allowed: &'static str,
    default: &'static str,
    set: fn(&mut Config, &str) -> Option<()>,
}

const KEYS: &[Key] = &[
    Key {
        name: "server.listen",
        allowed: "an address and port to listen on, like \"127.0.0.1:8080\"; port 0 picks a free one",
        default: "\"127.0.0.1:8080\"",
        set: |config, text| text.parse().ok().map(|listen| config.server.listen = listen),
    },
    Key {
        name: "server.advertise",
        allowed: "host:port under which others reach this server",
        default: "where it listens",
        set: |config, text| {
            let (host, port) = text.rsplit_once(':')?;
            let sound = !host.is_empty()
                && !host.contains(char::is_whitespace)
                && port.parse::<u16>().is_ok_and(|port| port > 0);
            sound.then(|| config.server.advertise = Some(text.to_owned()))
        },
    },
    Key {
        name: "server.id",
        allowed: "a name of letters, digits, `.`, `_` and `-`, kept for good",
        default: "random, kept in the data directory",
        set: |config, text| ServerId::parse(text).ok().map(|id| config.server.id = Some(id)),
    },
    Key {
        name: "server.zone",
        allowed: "a text that says where this server stands",
        default: "\"\"",
        set: |config, text| {
            jcm_model::text::refuse_unless_text(text, "zone")
                .ok()
                .map(|()| text.clone_into(&mut config.server.zone))
        },
    },
    Key {
        name: "server.data",
        allowed: "the path of a directory that belongs to this server alone",
        default: "\"/var/lib/jcm\"",
        set: |config, text| (!text.is_empty()).then(|| config.server.data = PathBuf::from(text)),
    },
    Key {
        name: "server.peer_token_file",
        allowed: "the path of a file with the token that servers know each other by, the same on all of them and readable by its owner alone",
        default: "none",
        set: |config, text| {
            (!text.is_empty()).then(|| config.server.peer_token_file = Some(PathBuf::from(text)))
        },
    },
    Key {
        name: "store.kind",
        allowed: "\"embedded\" (one server, its own file) or \"zookeeper\" (several servers, needs store.zookeeper.hosts)",
        default: "\"embedded\"",
        set: |config, text| {
            let kind = match text {
                "embedded" => StoreKind::Embedded,
                "zookeeper" => StoreKind::ZooKeeper,
                _ => return None,
            };
            config.store.kind = kind;
            Some(())
        },
    },
    Key {
        name: "store.zookeeper.hosts",
        allowed: "host:port of each member, separated by commas; a path that everything lies below may follow the last",
        default: "none",
        set: |config, text| {
            let (members, path) = match text.find('/') {
                Some(at) => (&text[..at], is_znode_path(&text[at..])),
                None => (text, true),
            };
            let is_member = |member: &str| {
                member.rsplit_once(':').is_some_and(|(host, port)| {
                    let is_name = !host.is_empty() && !host.contains(char::is_whitespace);
                    is_name && port.parse::<u16>().is_ok_and(|port| port > 0)
                })
            };
            (path && members.split(',').all(is_member))
                .then(|| text.clone_into(&mut config.store.zookeeper.hosts))
        },
    },
    Key {
        name: "store.zookeeper.root",
        allowed: "the path of a znode, like \"/jcm\"",
        default: "\"/jcm\"",
        set: |config, text| is_znode_path(text).then(|| text.clone_into(&mut config.store.zookeeper.root)),
    },
    Key {
        name: "store.zookeeper.session_timeout",
        allowed: "a duration from \"2s\" to \"60s\"",
        default: "\"6s\"",
        set: |config, text| {
            let timeout = duration::parse(text).ok()?;
            let sound = (Duration::from_secs(2)..=Duration::from_mins(1)).contains(&timeout);
            sound.then(|| config.store.zookeeper.session_timeout = timeout)
        },
    },
    Key {
        name: "store.zookeeper.digest_file",
        allowed: "the path of a file with one line, user:password of ZooKeeper's digest scheme; nobody but its owner may read it",
        default: "none",
        set: |config, text| {
            (!text.is_empty()).then(|| config.store.zookeeper.digest_file = Some(PathBuf::from(text)))
        },
    },
    Key {
        name: "health.threads",
        allowed: "from 1 to 64 threads that carry out checks; one is enough for some 20,000 checks a second",
        default: "1",
        set: |config, text| {
            let threads = text.parse().ok().filter(|threads| (1..=64).contains(threads))?;
            config.health.threads = threads;
            Some(())
        },
    },
    Key {
        name: "health.ca_file",
        allowed: "the path of a PEM file with certificate authorities that HTTPS checks believe, beside those of this machine",
        default: "none",
        set: |config, text| (!text.is_empty()).then(|| config.health.ca_file = Some(PathBuf::from(text))),
    },
    Key {
        name: "lease.grace",
        allowed: "a duration up to \"1h\": how long nodes whose leases lapse together are left where they are",
        default: "\"10m\"",
        set: |config, text| {
            let grace = duration::parse(text).ok().filter(|grace| *grace <= Duration::from_hours(1))?;
            config.lease.grace = grace;
            Some(())
        },
    },
];

/// A value with where it came from.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    key: String,
    value: String,
    source: String,
}

impl Setting {
    /// A flag of the command line.
    pub(crate) fn flag(flag: &str, key: &str, value: impl Into<String>) -> Self {
        Self { key: key.to_owned(), value: value.into(), source: format!("flag {flag}") }
    }
}

/// Reads file, environment and flags, the later over the earlier.
pub(crate) fn load(
    file: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
    flags: Vec<Setting>,
) -> Result<Config, Refused> {
    let mut settings = Vec::new();
    if let Some(file) = file {
        let source = file.display().to_string();
        let refused = |reason: String| Refused { key: "*".to_owned(), source_name: source.clone(), reason };
        let text = std::fs::read_to_string(file)
            .map_err(|error| refused(format!("the file cannot be read: {error}")))?;
        let table: toml::Table =
            text.parse().map_err(|error: toml::de::Error| refused(format!("no valid TOML: {error}")))?;
        flatten("", &Value::Table(table), &source, &mut settings)?;
    }
    let mut variables: Vec<Setting> = environment
        .filter_map(|(name, value)| {
            let key = name.strip_prefix(ENVIRONMENT_PREFIX)?.to_ascii_lowercase().replace("__", ".");
            Some(Setting { key, value, source: format!("environment variable {name}") })
        })
        .collect();
    variables.sort_by(|a, b| a.key.cmp(&b.key));
    settings.extend(variables);
    settings.extend(flags);

    let mut config = Config::default();
    let mut kind_source = String::new();
    for Setting { key, value, source } in settings {
        let refused = |reason: String| Refused { key: key.clone(), source_name: source.clone(), reason };
        let known = KEYS.iter().find(|known| known.name == key);
        let known = known.ok_or_else(|| {
            let names: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
            refused(format!("there is no such key; there are {}", names.join(", ")))
        })?;
        (known.set)(&mut config, &value)
            .ok_or_else(|| refused(format!("{} is refused: {}", quoted(&value), known.allowed)))?;
        if key == "store.kind" {
            kind_source = source;
        }
    }
    if config.store.kind == StoreKind::ZooKeeper && config.store.zookeeper.hosts.is_empty() {
        return Err(Refused {
            key: "store.zookeeper.hosts".to_owned(),
            source_name: kind_source,
            reason: "store.kind = \"zookeeper\" needs it: host:port of each member, separated by commas"
                .to_owned(),
        });
    }
    Ok(config)
}

fn flatten(prefix: &str, value: &Value, source: &str, settings: &mut Vec<Setting>) -> Result<(), Refused> {
    let text = match value {
        Value::Table(table) => {
            let is_section =
                prefix.is_empty() || KEYS.iter().any(|key| key.name.starts_with(&format!("{prefix}.")));
            if !is_section {
                let reason =
                    "there is no such section; there are server, store, store.zookeeper, health and lease"
                        .to_owned();
                return Err(Refused { key: prefix.to_owned(), source_name: source.to_owned(), reason });
            }
            for (name, value) in table {
                let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                flatten(&key, value, source, settings)?;
            }
            return Ok(());
        }
        Value::String(text) => text.clone(),
        Value::Integer(number) => number.to_string(),
        Value::Boolean(flag) => flag.to_string(),
        Value::Float(_) | Value::Array(_) | Value::Datetime(_) => {
            let reason = format!("a {} stands there, and no key takes one", value.type_str());
            return Err(Refused { key: prefix.to_owned(), source_name: source.to_owned(), reason });
        }
    };
    settings.push(Setting { key: prefix.to_owned(), value: text, source: source.to_owned() });
    Ok(())
}

/// All keys with their defaults and what they take, as a TOML file to start from.
pub(crate) fn defaults() -> String {
    let mut text = String::new();
    let mut section = "";
    for key in KEYS {
        let (in_section, name) = key.name.rsplit_once('.').expect("every key has a section");
        if in_section != section {
            let gap = if section.is_empty() { "" } else { "\n" };
            text.extend([gap, "[", in_section, "]\n"]);
            section = in_section;
        }
        let written = key.default.starts_with('"') || key.default.parse::<i64>().is_ok();
        let line = if written {
            format!("{name} = {}", key.default)
        } else {
            format!("# {name} = …  (default: {})", key.default)
        };
        text.extend(["# ", key.allowed, "\n", line.as_str(), "\n"]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_file(text: &str, environment: &[(&str, &str)], flags: Vec<Setting>) -> Result<Config, Refused> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let environment: Vec<_> =
            environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        load(Some(file.path()), environment.into_iter(), flags)
    }

    #[test]
    fn flags_win_over_environment_over_file() {
        let file = "[server]\nlisten = \"127.0.0.1:1\"\nzone = \"a\"\nid = \"one\"";
        let environment =
            [("JCM__SERVER__LISTEN", "127.0.0.1:2"), ("JCM__SERVER__ZONE", "b"), ("HOME", "/root")];
        let config =
            with_file(file, &environment, vec![Setting::flag("--listen", "server.listen", "127.0.0.1:3")])
                .unwrap();
        assert_eq!(config.server.listen.port(), 3);
        assert_eq!(config.server.zone, "b");
        assert_eq!(config.server.id.unwrap().as_str(), "one");
    }

    #[test]
    fn a_refusal_names_key_source_and_what_is_allowed() {
        for (file, parts) in [
            ("[server]\nlissen = \"x\"", ["server.lissen", "no such key"]),
            ("[server]\nlisten = \"localhost\"", ["server.listen", "an address and port"]),
            ("[server]\nlisten = 3.5", ["server.listen", "float"]),
            ("[store]\nkind = \"mysql\"", ["store.kind", "\"embedded\""]),
            ("[health]\nthreads = 0", ["health.threads", "is refused"]),
            ("[store.zookeeper]\nsession_timeout = \"6\"", ["session_timeout", "a duration"]),
            ("[nonsense]", ["nonsense", "no such section"]),
            ("listen = ", ["*", "no valid TOML"]),
        ] {
            let error = with_file(file, &[], Vec::new()).unwrap_err().to_string();
            assert!(parts.iter().all(|part| error.contains(part)), "{file}: {error}");
        }
        let error = with_file("", &[("JCM__SERVER__DATA", "")], Vec::new()).unwrap_err().to_string();
        assert!(error.contains("environment variable JCM__SERVER__DATA"), "{error}");
    }

    #[test]
    fn zookeeper_needs_hosts_and_takes_a_path_after_them() {
        let error = with_file("[store]\nkind = \"zookeeper\"", &[], Vec::new()).unwrap_err().to_string();
        assert!(error.contains("`store.zookeeper.hosts`") && error.contains("host:port"), "{error}");
        let file =
            "[store]\nkind = \"zookeeper\"\n[store.zookeeper]\nhosts = \"a:1,b:2/prod/x\"\nroot = \"/jcm\"";
        let config = with_file(file, &[], Vec::new()).unwrap().store.zookeeper;
        assert_eq!(config.members().collect::<Vec<_>>(), ["a:1", "b:2"]);
        assert_eq!(config.full_root(), "/prod/x/jcm");
        for (key, value) in [
            ("hosts", "a"),
            ("hosts", "a:0"),
            ("hosts", "a:1,"),
            ("hosts", "a:1/"),
            ("hosts", "a:1/../x"),
            ("hosts", ":1"),
            ("root", "/"),
            ("root", "jcm"),
            ("root", "/a/../b"),
            ("root", "/a/"),
        ] {
            let file = format!("[store.zookeeper]\n{key} = \"{value}\"");
            let error = with_file(&file, &[], Vec::new()).map(|_| ()).expect_err(&file).to_string();
            assert!(error.contains(key) && error.contains(value), "{file}: {error}");
        }
    }

    #[test]
    fn the_printed_defaults_are_the_defaults() {
        assert_eq!(with_file(&defaults(), &[], Vec::new()).unwrap(), Config::default());
    }
}
