//! Which servers to talk to, and with which token: flags, then the environment, then the context in use, then the
//! default. The file is `~/.config/jcm/config.toml`; it names servers and files, never a secret itself.

mod file;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;

use crate::cli::Global;
use crate::failure::{Exit, Failure};
pub(crate) use crate::settings::file::{Context, File};

/// Where a server started by `jcm-server dev` listens.
const SERVER_DEFAULT: &str = "http://127.0.0.1:8080";
/// Tokens are short; whatever is longer is another file.
const TOKEN_BYTES_MAX: u64 = 8192;

/// The base of a server's URLs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server(Url);

impl Server {
    /// Parses `http://HOST:PORT` or `HOST:PORT`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let url = Url::parse(&full).map_err(|error| format!("`{text}` is no URL of a server: {error}"))?;
        if url.scheme() != "http" {
            return Err(format!("`{text}`: this version speaks plain http only, write http://HOST:PORT"));
        }
        let bare = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
        if !bare || !url.username().is_empty() || url.password().is_some() {
            return Err(format!("`{text}`: write http://HOST:PORT and nothing more"));
        }
        Ok(Self(url))
    }

    pub(crate) fn url(&self) -> &Url {
        &self.0
    }
}

impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

/// What the environment says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment {
    pub server: Option<String>,
    pub token_file: Option<PathBuf>,
    pub config: Option<PathBuf>,
    pub home: Option<PathBuf>,
}

impl Environment {
    pub(crate) fn read() -> Self {
        let path = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        Self {
            server: std::env::var("JCM_SERVER").ok().filter(|value| !value.is_empty()),
            token_file: path("JCM_TOKEN_FILE"),
            config: path("JCM_CONFIG"),
            home: path("HOME"),
        }
    }
}

/// Everything the client needs.
#[derive(Debug)]
pub(crate) struct Settings {
    /// At least one.
    pub servers: Vec<Server>,
    /// Visible ASCII.
    pub token: Option<String>,
    pub request_timeout: Duration,
    pub retry_for: Duration,
    pub idempotency_key: Option<String>,
}

impl Settings {
    /// Puts flags, environment and file together.
    pub(crate) fn fetch(global: &Global, environment: &Environment) -> Result<Self, Failure> {
        let path = File::path(global, environment);
        let file = File::fetch(path.as_deref())?;
        let (servers, token_file) = choose(global, environment, &file)?;
        let token = token_file.as_deref().map(fetch_token).transpose()?;
        if let Some(key) = &global.idempotency_key
            && (key.is_empty() || key.len() > 200 || !key.bytes().all(|b| b.is_ascii_graphic()))
        {
            return Err(Failure::usage(
                "--idempotency-key: from 1 to 200 visible ASCII characters are allowed",
            )
            .next("the same command without it"));
        }
        if global.request_timeout.is_zero() {
            return Err(Failure::usage("--request-timeout: more than 0 is needed")
                .next("the same command with --request-timeout 5s"));
        }
        Ok(Self {
            servers,
            token,
            request_timeout: global.request_timeout,
            retry_for: global.retry_for,
            idempotency_key: global.idempotency_key.clone(),
        })
    }
}

/// Servers and token file by precedence. A token file of the context goes only to the context's servers.
fn choose(
    global: &Global,
    environment: &Environment,
    file: &File,
) -> Result<(Vec<Server>, Option<PathBuf>), Failure> {
    let parse = |source: &str, servers: &[String]| {
        let parsed: Result<Vec<Server>, String> =
            servers.iter().map(|text| Server::parse(text.trim())).collect();
        let wrong = |what: String| {
            Failure::usage(format!("{source}: {what}"))
                .next("the same command with --server http://HOST:PORT")
        };
        match parsed {
            Ok(parsed) if parsed.is_empty() => Err(wrong("no server is named".to_owned())),
            Ok(parsed) => Ok(parsed),
            Err(what) => Err(wrong(what)),
        }
    };
    let token_file = global.token_file.clone().or_else(|| environment.token_file.clone());
    let named = global.context.as_deref();
    if !global.server.is_empty() {
        return Ok((parse("--server", &global.server)?, token_file));
    }
    if let (Some(servers), None) = (&environment.server, named) {
        let servers: Vec<String> = servers.split(',').map(str::to_owned).collect();
        return Ok((parse("JCM_SERVER", &servers)?, token_file));
    }
    if let Some(name) = named.or(file.current_context.as_deref()) {
        let context = file.contexts.get(name).ok_or_else(|| {
            Failure::new(Exit::NotFound, format!("there is no context `{name}`")).next("jcmctl config view")
        })?;
        let servers = parse(&format!("context `{name}`"), &context.servers)?;
        return Ok((servers, token_file.or_else(|| context.token_file.clone())));
    }
    Ok((parse("default", &[SERVER_DEFAULT.to_owned()])?, token_file))
}

fn fetch_token(path: &Path) -> Result<String, Failure> {
    let wrong = |what: &str| {
        Failure::usage(format!("token file {}: {what}", path.display()))
            .next("the same command with --token-file PATH")
    };
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(TOKEN_BYTES_MAX + 1).read_to_string(&mut text))
        .map_err(|error| wrong(&error.to_string()))?;
    let token = text.trim();
    if token.is_empty() {
        return Err(wrong("it is empty"));
    }
    // The content is never shown: it may be a secret, only not a well-formed one.
    if text.len() as u64 > TOKEN_BYTES_MAX || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(wrong("it holds no token: one word of visible ASCII is expected"));
    }
    Ok(token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    fn global(arguments: &[&str]) -> Global {
        let all = ["jcmctl"].iter().chain(arguments).chain(&["version"]);
        crate::cli::Arguments::parse_from(all).global
    }

    fn chosen(arguments: &[&str], server: Option<&str>, file: &File) -> Result<Vec<String>, String> {
        let environment = Environment { server: server.map(str::to_owned), ..Environment::default() };
        choose(&global(arguments), &environment, file)
            .map(|(servers, _)| servers.iter().map(Server::to_string).collect())
            .map_err(|failure| failure.what)
    }

    #[test]
    fn flags_come_before_the_environment_and_that_before_the_file() {
        let file: File = toml::from_str(
            "current_context = 'prod'\n[contexts.prod]\nservers = ['http://127.0.0.1:1', '127.0.0.1:2']\n[contexts.test]\nservers = ['127.0.0.1:3']",
        )
        .unwrap();
        let check = |arguments: &[&str], env: Option<&str>, file: &File, expected: &[&str]| {
            assert_eq!(chosen(arguments, env, file).unwrap(), expected, "{arguments:?} {env:?}");
        };
        check(&[], None, &File::default(), &["http://127.0.0.1:8080"]);
        check(&[], None, &file, &["http://127.0.0.1:1", "http://127.0.0.1:2"]);
        check(&[], Some("127.0.0.1:8,127.0.0.1:9"), &file, &["http://127.0.0.1:8", "http://127.0.0.1:9"]);
        check(&["--context", "test"], Some("127.0.0.1:8"), &file, &["http://127.0.0.1:3"]);
        check(
            &["--server", "127.0.0.1:4", "--server", "http://127.0.0.1:5/"],
            Some("127.0.0.1:8"),
            &file,
            &["http://127.0.0.1:4", "http://127.0.0.1:5"],
        );
        assert!(chosen(&["--context", "none"], None, &file).unwrap_err().contains("`none`"));
    }

    #[test]
    fn a_server_is_scheme_host_and_port_and_nothing_else() {
        for (text, part) in [
            ("https://127.0.0.1:1", "plain http"),
            ("ftp://127.0.0.1", "plain http"),
            ("http://127.0.0.1:1/v1", "nothing more"),
            ("http://user:pw@127.0.0.1:1", "nothing more"),
            ("http://127.0.0.1:99999", "no URL"),
            ("", "no URL"),
            ("http://", "no URL"),
        ] {
            let wrong = Server::parse(text).expect_err(text);
            assert!(wrong.contains(part), "{text}: {wrong}");
        }
        assert_eq!(Server::parse("localhost:8080").unwrap().to_string(), "http://localhost:8080");
        assert_eq!(Server::parse("[::1]:8080").unwrap().to_string(), "http://[::1]:8080");
    }
}
