//! `daybook key`.

use clap::{Args, Subcommand, ValueEnum};
use directory::{Directory, NewKey, Scope};
use jiff::Timestamp;
use serde_json::json;

use crate::{
    args::Output,
    config::Sources,
    fault::{During as _, Fault, Result},
    output, parts,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum KeyScope {
    /// Send events
    Ingest,
    /// Read rollups
    Read,
    /// Sign records that a program writes to the log itself (docs/producers.md); not accepted over HTTP
    Produce,
    /// Push people and groups by SCIM, for an identity provider (docs/scim.md)
    Scim,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  daybook key create --org acme --scope ingest --label laptops
  daybook key create --org acme --label gateway --rate-limit 50000
  daybook key create --org acme --scope scim --label okta
  daybook key list --org acme
  daybook key revoke KEY_ID

The key is printed once, to standard output, and only its hash is kept; of a key with the scope `produce` also what its
signatures are checked with.")]
pub(crate) struct KeyArgs {
    #[command(subcommand)]
    pub(crate) command: KeyCommand,
}

/// What is listed.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// The organisation
    #[arg(long, value_name = "ORG")]
    pub(crate) org: schemas::OrgId,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Create a key
    Create {
        /// The organisation
        #[arg(long, value_name = "ORG")]
        org: schemas::OrgId,
        /// What the key allows
        #[arg(long, value_enum, default_value = "ingest", value_name = "SCOPE")]
        scope: KeyScope,
        /// What it is for
        #[arg(long, default_value = "", value_name = "TEXT")]
        label: String,
        /// Most events a second through each collector, 0 = any number [default: as collector.rate-limit-events says]
        #[arg(long, value_name = "N")]
        rate_limit: Option<u64>,
    },
    /// List an organisation's keys (never the secrets)
    List(ListArgs),
    /// Revoke a key; running services refuse it within seconds
    Revoke {
        /// The key's id, as `key list` shows it
        #[arg(value_name = "KEY_ID")]
        id: String,
    },
}

pub(crate) async fn run(args: &KeyArgs, sources: &Sources, now: Timestamp) -> Result<()> {
    let directory = parts::directory(&sources.config()?).await?;
    match &args.command {
        KeyCommand::Create { org, scope, label, rate_limit } => {
            let scope = match scope {
                KeyScope::Ingest => Scope::Ingest,
                KeyScope::Read => Scope::Read,
                KeyScope::Produce => Scope::Produce,
                KeyScope::Scim => Scope::Scim,
            };
            let created = directory
                .create_key_as(org, &NewKey { rate_limit: *rate_limit, ..NewKey::of(scope, label) }, now)
                .await;
            let (id, secret) = created.map_err(|error| not_made(error, "key", org))?;
            output::note(&format!("key {id} of {org}; it is shown this once:"));
            output::text(&format!("{}\n", secret.expose()))
        }
        KeyCommand::List(ListArgs { org, output: list }) => {
            let keys = directory.keys(org).await.during(format!("cannot list the keys of `{org}`"))?;
            let rows: Vec<_> = keys
                .iter()
                .map(|key| {
                    vec![
                        json!(key.id.to_string()),
                        json!(key.scope.as_str()),
                        json!(key.label),
                        json!(key.role.to_string()),
                        json!(key.rate_limit),
                        json!(key.created_at.to_string()),
                        json!(key.revoked_at.map(|at| at.to_string())),
                    ]
                })
                .collect();
            output::rows(
                &["id", "scope", "label", "role", "rate_limit", "created_at", "revoked_at"],
                &rows,
                list.format,
            )
        }
        KeyCommand::Revoke { id } => revoke(&directory, id, "key", now).await,
    }
}

/// Revokes a key or token by its id.
pub(crate) async fn revoke(directory: &Directory, id: &str, what: &str, now: Timestamp) -> Result<()> {
    let key = id.parse().map_err(|error| Fault::usage(format!("`{id}` is no {what} id")).source(error))?;
    if directory.revoke_key(&key, now).await.during(format!("cannot revoke {what} {id}"))? {
        return output::text(&format!("{what} {id} is revoked\n"));
    }
    Err(Fault::failed(format!("there is no {what} {id} that could be revoked"))
        .help(format!("`daybook {what} list --org ORG` shows its {what}s")))
}

/// Why a key or token cannot be made.
pub(crate) fn not_made(error: directory::Error, what: &str, org: &schemas::OrgId) -> Fault {
    let fault = Fault::failed(format!("cannot create a {what} for organisation `{org}`")).source(error);
    fault.help(format!("`daybook org list` shows the organisations, `daybook org create {org}` makes this one"))
}
