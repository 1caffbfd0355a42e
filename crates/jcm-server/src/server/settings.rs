//! What one run of the server goes by, from the command line and the configuration.

use anyhow::{Context, Result, bail};

use crate::cli::{Dev, Serve};
use crate::config::{Config, Setting};

/// What one run of the server goes by.
pub(super) struct Settings {
    pub(super) config: Config,
    pub(super) insecure: bool,
    pub(super) demo: bool,
    /// Whether to print what to try next.
    pub(super) hints: bool,
}

/// A server to try things out, and the directory of its data where nobody named one.
pub(super) fn for_dev(dev: &Dev) -> Result<(Option<tempfile::TempDir>, Settings)> {
    if !dev.listen.ip().is_loopback() {
        bail!("`dev` listens on loopback only, and {} is not: use `jcm-server serve`", dev.listen.ip());
    }
    let temporary = match dev.data {
        Some(_) => None,
        None => Some(
            tempfile::Builder::new()
                .prefix("jcm-dev-")
                .tempdir()
                .context("no temporary directory for the data")?,
        ),
    };
    let data =
        dev.data.clone().or_else(|| temporary.as_ref().map(|dir| dir.path().to_owned())).unwrap_or_default();
    let mut config = Config::default();
    config.server.listen = dev.listen;
    config.server.data = data;
    Ok((temporary, Settings { config, insecure: false, demo: !dev.no_demo, hints: true }))
}

/// What flags say of the configuration.
pub(super) fn overrides(flags: &Serve) -> Vec<Setting> {
    [
        ("--listen", "server.listen", &flags.listen),
        ("--advertise", "server.advertise", &flags.advertise),
        ("--id", "server.id", &flags.id),
        ("--zone", "server.zone", &flags.zone),
        ("--data", "server.data", &flags.data),
    ]
    .into_iter()
    .filter_map(|(flag, key, value)| Some(Setting::flag(flag, key, value.as_ref()?.as_str())))
    .collect()
}
