//! `daybook org`.

use jiff::Timestamp;
use serde_json::json;

use crate::{
    args::{OrgArgs, OrgCommand},
    config::Sources,
    fault::{During as _, Result},
    output, parts,
};

pub(crate) async fn run(args: &OrgArgs, sources: &Sources, now: Timestamp) -> Result<()> {
    let directory = parts::directory(&sources.config()?).await?;
    match &args.command {
        OrgCommand::Create { id, name, time_zone } => {
            let name = name.as_deref().unwrap_or(id.as_str());
            let created = directory.create_org(id, name, time_zone, now).await;
            let org = created.during(format!("cannot create organisation `{id}`"))?;
            output::text(&format!("organisation {} ({}), days in {}\n", org.id, org.name, org.time_zone))
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
                        json!(org.created_at.to_string()),
                    ]
                })
                .collect();
            output::rows(&["id", "name", "time_zone", "allowed_lateness_hours", "created_at"], &rows, list.format)
        }
    }
}
