//! The demo's organisations and their keys.

use directory::{Directory, NewKey, OptIn, Scope};
use schemas::OrgId;

use crate::{
    fault::{During as _, Result},
    generate::ORGANISATIONS,
    parts,
};

/// What the demo's keys are labelled with, so that the next run can tell them from others.
const LABEL: &str = "demo";

/// An organisation's keys, in clear: the demo shows them.
pub(super) struct Keys {
    pub(super) org: OrgId,
    pub(super) ingest: String,
    pub(super) read: String,
}

/// The first `number` organisations with fresh keys. Keys of earlier runs are revoked: only their hashes are left.
pub(super) async fn prepare(directory: &Directory, number: usize) -> Result<Vec<Keys>> {
    let known = directory.orgs().await.during("cannot list the organisations")?;
    let mut keys = Vec::new();
    for organisation in &ORGANISATIONS[..number] {
        let org: OrgId = organisation.id.parse().during("the demo's organisations have valid ids")?;
        let during = || format!("cannot set up organisation `{org}`");
        if !known.iter().any(|known| known.id == org) {
            let created = directory.create_org(&org, organisation.name, organisation.time_zone, parts::now()).await;
            created.during(during())?;
            let reason = "the demo's people are made up";
            directory.set_opt_in(&org, OptIn::Named, reason, parts::now()).await.during(during())?;
        }
        for key in directory.keys(&org).await.during(during())? {
            if key.label == LABEL && key.revoked_at.is_none() {
                directory.revoke_key(&key.id, parts::now()).await.during(during())?;
            }
        }
        // The demo sends as fast as it can.
        let new = NewKey { rate_limit: Some(0), ..NewKey::of(Scope::Ingest, LABEL) };
        let ingest = directory.create_key_as(&org, &new, parts::now()).await;
        let (_, ingest) = ingest.during(during())?;
        let (_, read) = directory.create_key(&org, Scope::Read, LABEL, parts::now()).await.during(during())?;
        keys.push(Keys { org, ingest: ingest.expose().to_owned(), read: read.expose().to_owned() });
    }
    Ok(keys)
}
