//! `daybook org`.

use clap::{Args, Subcommand};
use directory::OrgChange;
use jiff::Timestamp;
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
  daybook org set acme --time-zone America/New_York
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
        /// Hours after its end in which a day still takes events as a matter of course; then it is final [default: 72]
        #[arg(long, value_name = "HOURS")]
        allowed_lateness: Option<u32>,
        /// Most events in a UTC day, all collectors together [default: no limit]
        #[arg(long, value_name = "N")]
        daily_quota: Option<u64>,
    },
    /// Change an organisation; running services follow within seconds
    Set(SetArgs),
    /// List the organisations
    List(Output),
}

#[derive(Debug, Args)]
#[command(after_help = "\
With another time zone or lateness, all days of the organisation are computed again, and nobody
else's. Rows that come out otherwise get a new revision; final ones become restated.")]
pub(crate) struct SetArgs {
    /// The organisation
    #[arg(value_name = "ORG")]
    id: schemas::OrgId,
    #[command(flatten)]
    changes: Changes,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct Changes {
    /// IANA time zone in which its days begin and end
    #[arg(long, value_name = "ZONE")]
    time_zone: Option<String>,
    /// Hours after its end in which a day still takes events as a matter of course; then it is final
    #[arg(long, value_name = "HOURS")]
    allowed_lateness: Option<u32>,
    /// Most events in a UTC day, all collectors together
    #[arg(long, value_name = "N")]
    daily_quota: Option<u64>,
    /// Any number of events
    #[arg(long, conflicts_with = "daily_quota")]
    no_daily_quota: bool,
}

impl Changes {
    fn change(&self) -> OrgChange {
        let quota = self.daily_quota.map(Some);
        OrgChange {
            time_zone: self.time_zone.clone(),
            allowed_lateness_hours: self.allowed_lateness,
            daily_quota: if self.no_daily_quota { Some(None) } else { quota },
        }
    }
}

pub(crate) async fn run(args: &OrgArgs, sources: &Sources, now: Timestamp) -> Result<()> {
    let directory = parts::directory(&sources.config()?).await?;
    match &args.command {
        OrgCommand::Create { id, name, time_zone, allowed_lateness, daily_quota } => {
            let failed = || format!("cannot create organisation `{id}`");
            let name = name.as_deref().unwrap_or(id.as_str());
            let change = OrgChange {
                allowed_lateness_hours: *allowed_lateness,
                daily_quota: daily_quota.map(Some),
                ..OrgChange::default()
            };
            // Before there is an organisation that is not what was asked for.
            change.check().during(failed())?;
            let org = directory.create_org(id, name, time_zone, now).await.during(failed())?;
            // In between it has no key, and so no events.
            directory.change_org(id, &change, now).await.during(failed())?;
            output::note(&format!("nothing is collected before `daybook opt-in set {id} LEVEL --reason TEXT`"));
            output::text(&format!("organisation {} ({}), days in {}\n", org.id, org.name, org.time_zone))
        }
        OrgCommand::Set(set) => {
            let id = &set.id;
            directory.change_org(id, &set.changes.change(), now).await.map_err(|error| {
                let fault = Fault::failed(format!("cannot change organisation `{id}`")).source(error);
                fault.help("nothing was changed; `daybook org list` shows the organisations")
            })?;
            let orgs = directory.orgs().await.during("cannot list the organisations")?;
            let Some(org) = orgs.iter().find(|org| org.id == *id) else { return Ok(()) };
            let quota =
                org.daily_quota.map_or_else(|| "any number of events".to_owned(), |n| format!("at most {n} events"));
            let (zone, hours) = (&org.time_zone, org.allowed_lateness_hours);
            output::text(&format!("organisation {id}: days in {zone}, final after {hours} hours; {quota} a day\n"))
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
                        json!(org.opt_in.as_str()),
                        json!(org.created_at.to_string()),
                    ]
                })
                .collect();
            let names = ["id", "name", "time_zone", "allowed_lateness_hours", "daily_quota", "opt_in", "created_at"];
            output::rows(&names, &rows, list.format)
        }
    }
}
