//! `version`: this program's, and the servers' when one answers.

use serde_json::{Value, json};

use super::Session;
use crate::client::Call;
use crate::failure::{Exit, Failure};
use crate::output::{Report, Table};

pub(super) async fn run(session: &Session) -> Result<Exit, Failure> {
    let own = env!("CARGO_PKG_VERSION");
    let servers = match session.client.send(Call::get(["servers"]).once()).await {
        Ok(answer) => answer.body["servers"].clone(),
        Err(error) => {
            session.note(&format!("servers unknown: {error}"));
            Value::Null
        }
    };
    let mut table = Table::new(&["PROGRAM", "VERSION", "ID", "ADDRESS", "+ROLE", "+ZONE"]);
    let mut row = |program: &str, version: &str, server: &Value| {
        let text = |field: &str| server[field].as_str().unwrap_or_default().to_owned();
        table.row(vec![
            program.to_owned(),
            version.to_owned(),
            text("id"),
            text("advertise"),
            text("role"),
            text("zone"),
        ]);
    };
    row("jcmctl", own, &Value::Null);
    for server in servers.as_array().into_iter().flatten() {
        row("jcm-server", server["version"].as_str().unwrap_or_default(), server);
    }
    let document = json!({ "client": own, "servers": servers });
    session.show(&Report {
        items: vec![document.clone()],
        document,
        names: vec![own.to_owned()],
        table,
        ..Report::default()
    })?;
    Ok(Exit::Ok)
}
