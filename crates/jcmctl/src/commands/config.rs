//! `config view|use-context|set-context`: the file that says which servers to talk to. No server is asked.

use serde_json::json;

use crate::cli::{ConfigCommand, Format, Global};
use crate::failure::{Exit, Failure};
use crate::output::{self, Report, Table};
use crate::settings::{Context, Environment, File, Server};

pub(super) fn run(
    command: ConfigCommand,
    global: &Global,
    environment: &Environment,
) -> Result<Exit, Failure> {
    let path = File::path(global, environment).ok_or_else(|| {
        Failure::usage("HOME is not set, so there is no configuration file")
            .next("the same command with --config PATH")
    })?;
    let mut file = File::fetch(Some(&path))?;
    match command {
        ConfigCommand::View => view(&file, global.output.unwrap_or(Format::Table))?,
        ConfigCommand::UseContext { name } => {
            if !file.contexts.contains_key(&name) {
                return Err(Failure::new(Exit::NotFound, format!("there is no context `{name}`"))
                    .next(format!("jcmctl config set-context {name} --server http://HOST:PORT")));
            }
            file.current_context = Some(name);
            file.store(&path)?;
        }
        ConfigCommand::SetContext { name } => {
            set_context(&mut file, name, global)?;
            file.store(&path)?;
        }
    }
    Ok(Exit::Ok)
}

/// What was not given stays as it was; the first context is in use at once.
fn set_context(file: &mut File, name: String, global: &Global) -> Result<(), Failure> {
    let wrong =
        |what: String| Failure::usage(what).next("jcmctl config set-context NAME --server http://HOST:PORT");
    if name.is_empty() {
        return Err(wrong("the name of a context is not empty".to_owned()));
    }
    let mut context = file.contexts.get(&name).cloned().unwrap_or_default();
    if !global.server.is_empty() {
        let servers: Result<Vec<Server>, String> =
            global.server.iter().map(|text| Server::parse(text)).collect();
        let servers = servers.map_err(|error| wrong(format!("--server: {error}")))?;
        context.servers = servers.iter().map(Server::to_string).collect();
    }
    if let Some(token_file) = &global.token_file {
        // Commands run in any directory; the file stays where it is.
        context.token_file =
            Some(std::path::absolute(token_file).map_err(|error| wrong(format!("--token-file: {error}")))?);
    }
    if context.servers.is_empty() {
        return Err(wrong(format!("context `{name}` needs a server")));
    }
    file.current_context.get_or_insert_with(|| name.clone());
    file.contexts.insert(name, context);
    Ok(())
}

fn view(file: &File, format: Format) -> Result<(), Failure> {
    let mut table = Table::new(&["CURRENT", "NAME", "SERVERS", "TOKEN FILE"]);
    let shown = |context: &Context| context.token_file.as_ref().map(|path| path.display().to_string());
    for (name, context) in &file.contexts {
        let current = file.current_context.as_ref() == Some(name);
        table.row(vec![
            if current { "*" } else { "" }.to_owned(),
            name.clone(),
            context.servers.join(","),
            shown(context).unwrap_or_default(),
        ]);
    }
    let item = |(name, context): (&String, &Context)| json!({ "name": name, "servers": context.servers, "token_file": shown(context) });
    let items: Vec<_> = file.contexts.iter().map(item).collect();
    output::print(&output::render(
        &Report {
            document: json!({ "current_context": file.current_context, "contexts": items }),
            items,
            names: file.contexts.keys().cloned().collect(),
            table,
            ..Report::default()
        },
        format,
    ))
}
