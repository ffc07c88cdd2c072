//! `daybook key`.

use directory::Scope;
use jiff::Timestamp;
use serde_json::json;

use crate::{
    args::{KeyArgs, KeyCommand, KeyScope},
    config::Sources,
    fault::{During as _, Fault, Result},
    output, parts,
};

pub(crate) async fn run(args: &KeyArgs, sources: &Sources, now: Timestamp) -> Result<()> {
    let directory = parts::directory(&sources.config()?).await?;
    match &args.command {
        KeyCommand::Create { org, scope, label, rate_limit } => {
            let scope = match scope {
                KeyScope::Ingest => Scope::Ingest,
                KeyScope::Read => Scope::Read,
                KeyScope::Produce => Scope::Produce,
            };
            let created = directory.create_limited_key(org, scope, label, *rate_limit, now).await;
            let (id, secret) = created.map_err(|error| {
                let fault = Fault::failed(format!("cannot create a key for organisation `{org}`")).source(error);
                fault.help(format!(
                    "`daybook org list` shows the organisations, `daybook org create {org}` makes this one"
                ))
            })?;
            output::note(&format!("key {id} of {org}; it is shown this once:"));
            output::text(&format!("{}\n", secret.expose()))
        }
        KeyCommand::List { org, output: list } => {
            let keys = directory.keys(org).await.during(format!("cannot list the keys of `{org}`"))?;
            let rows: Vec<_> = keys
                .iter()
                .map(|key| {
                    vec![
                        json!(key.id.to_string()),
                        json!(key.scope.as_str()),
                        json!(key.label),
                        json!(key.rate_limit),
                        json!(key.created_at.to_string()),
                        json!(key.revoked_at.map(|at| at.to_string())),
                    ]
                })
                .collect();
            output::rows(&["id", "scope", "label", "rate_limit", "created_at", "revoked_at"], &rows, list.format)
        }
        KeyCommand::Revoke { id } => {
            let key = id.parse().map_err(|error| Fault::usage(format!("`{id}` is no key id")).source(error))?;
            if directory.revoke_key(&key, now).await.during(format!("cannot revoke key {id}"))? {
                return output::text(&format!("key {id} is revoked\n"));
            }
            Err(Fault::failed(format!("there is no key {id} that could be revoked"))
                .help("`daybook key list --org ORG` shows its keys"))
        }
    }
}
