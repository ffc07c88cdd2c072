//! `daybook org`.

use clap::{Args, Subcommand};
use directory::Directory;
use jiff::Timestamp;
use schemas::OrgId;
use serde_json::json;

use crate::{
    args::Output,
    config::Sources,
    fault::{During as _, Fault, Result},
    output, parts,
};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  daybook org create acme --name \"Acme\" --time-zone Europe/Berlin
  daybook org set acme --daily-quota 5000000
  daybook org list --format json")]
pub(crate) struct OrgArgs {
    #[command(subcommand)]
    pub(crate) command: OrgCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum OrgCommand {
    /// Create an organisation
    Create {
        /// Id: a-z, 0-9, `.`, `_`, `-`
        #[arg(value_name = "ORG")]
        id: schemas::OrgId,
        /// Name to show [default: the id]
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// IANA time zone in which its days begin and end
        #[arg(long, default_value = "UTC", value_name = "ZONE")]
        time_zone: String,
        /// Most events in a UTC day, all collectors together [default: no limit]
        #[arg(long, value_name = "N")]
        daily_quota: Option<u64>,
    },
    /// Change an organisation; running collectors follow within seconds
    Set {
        /// The organisation
        #[arg(value_name = "ORG")]
        id: schemas::OrgId,
        /// Most events in a UTC day, all collectors together
        #[arg(long, value_name = "N", required_unless_present = "no_daily_quota")]
        daily_quota: Option<u64>,
        /// Any number of events
        #[arg(long, conflicts_with = "daily_quota")]
        no_daily_quota: bool,
    },
    /// List the organisations
    List(Output),
}

pub(crate) async fn run(args: &OrgArgs, sources: &Sources, now: Timestamp) -> Result<()> {
    let directory = parts::directory(&sources.config()?).await?;
    match &args.command {
        OrgCommand::Create { id, name, time_zone, daily_quota } => {
            let name = name.as_deref().unwrap_or(id.as_str());
            let created = directory.create_org(id, name, time_zone, now).await;
            let org = created.during(format!("cannot create organisation `{id}`"))?;
            // In between it has no key, and so no events.
            set_quota(&directory, id, *daily_quota).await?;
            output::text(&format!("organisation {} ({}), days in {}\n", org.id, org.name, org.time_zone))
        }
        OrgCommand::Set { id, daily_quota, no_daily_quota: _ } => {
            set_quota(&directory, id, *daily_quota).await?;
            let quota =
                daily_quota.map_or_else(|| "any number of events".to_owned(), |n| format!("at most {n} events"));
            output::text(&format!("organisation {id}: {quota} a day\n"))
        }
        OrgCommand::List(list) => {
            let orgs = directory.orgs().await.during("cannot list the organisations")?;
            let rows: Vec<_> = orgs
                .iter()
                .map(|org| {
                    vec![
                        json!(org.id.as_str()),
                        json!(org.name),
                        json!(org.time_zone),
                        json!(org.allowed_lateness_hours),
                        json!(org.daily_quota),
                        json!(org.created_at.to_string()),
                    ]
                })
                .collect();
            let names = ["id", "name", "time_zone", "allowed_lateness_hours", "daily_quota", "created_at"];
            output::rows(&names, &rows, list.format)
        }
    }
}

async fn set_quota(directory: &Directory, id: &OrgId, quota: Option<u64>) -> Result<()> {
    let set = directory.set_daily_quota(id, quota).await;
    set.map_err(|error| {
        let fault = Fault::failed(format!("cannot set the daily quota of organisation `{id}`")).source(error);
        fault.help("`daybook org list` shows the organisations")
    })
}
