//! Who was in which team when, as SCIM's groups say: what tables of teams are made of.

use jiff::Timestamp;
use schemas::OrgId;
use sqlx::Row as _;

use crate::{Directory, Error, Result, parsed, time};

/// That events with a `user_key` were those of a team.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Membership {
    /// The group's name today.
    pub team: String,
    /// What events call the person.
    pub user_key: String,
    /// From then on, inclusive.
    pub from: Timestamp,
    /// Until then, exclusive. `None` = to this day.
    pub to: Option<Timestamp>,
}

impl Directory {
    /// Organisations whose teams come by SCIM, each with a number that grows with every change of its teams.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn scim_orgs(&self) -> Result<Vec<(OrgId, i64)>> {
        let select = "SELECT org_id, changes FROM scim_changes ORDER BY org_id";
        let rows = sqlx::query(select).fetch_all(&self.pool).await.map_err(Error::Database)?;
        rows.iter().map(|row| Ok((parsed(row, "org_id")?, row.try_get("changes").map_err(Error::Database)?))).collect()
    }

    /// All memberships of an organisation's groups, former ones and deleted groups too, for each of a person's `user_key`s while it was
    /// the person's; in no particular order.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn memberships(&self, org: &OrgId) -> Result<Vec<Membership>> {
        let select = "SELECT scim_groups.display AS team, person_keys.user_key AS user_key, \
                      memberships.valid_from_us AS member_from_us, memberships.valid_to_us AS member_to_us, \
                      person_keys.valid_from_us AS key_from_us, person_keys.valid_to_us AS key_to_us \
                      FROM memberships \
                      JOIN scim_groups ON scim_groups.org_id = memberships.org_id AND scim_groups.id = memberships.group_id \
                      JOIN person_keys ON person_keys.org_id = memberships.org_id AND person_keys.person_id = memberships.person_id \
                      WHERE memberships.org_id = $1";
        let rows = sqlx::query(select).bind(org.as_str()).fetch_all(&self.pool).await.map_err(Error::Database)?;
        let mut found = Vec::with_capacity(rows.len());
        for row in &rows {
            let from = time(row, "member_from_us")?.max(time(row, "key_from_us")?);
            let from = from.ok_or(sqlx::Error::RowNotFound).map_err(Error::Database)?;
            let ends = [time(row, "member_to_us")?, time(row, "key_to_us")?];
            let to = ends.into_iter().flatten().min();
            if to.is_none_or(|to| from < to) {
                found.push(Membership {
                    team: row.try_get("team").map_err(Error::Database)?,
                    user_key: row.try_get("user_key").map_err(Error::Database)?,
                    from,
                    to,
                });
            }
        }
        Ok(found)
    }
}
