//! Who sees what: from a credential to the rows of each table.
//!
//! | role | tables of people (`user_key`) | tables of teams (`team_id`) | all other tables | `events` |
//! |---|---|---|---|---|
//! | service, admin | all | all | all | all |
//! | analyst with names | all | all | all | all |
//! | analyst | all, people under pseudonyms | all, too | all | closed: what identifies a person is in many of its columns |
//! | lead | the people of the team | the team | closed | the people of the team |
//! | member | oneself | closed | closed | oneself |
//!
//! What an organisation's admin has opted in to comes first: off closes everything, team-only what is about people, pseudonymous puts them under
//! pseudonyms for everyone and closes `events`. Oneself a person sees unless it is off.
//!
//! Every door asks here, and the fence below the tables applies it. A closed table is an error and never empty: that nothing may be seen must not look like
//! nothing happened.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use arrow::array::AsArray;
use directory::{Directory, OptIn, Principal, PseudonymKey, Role, Scope};
use futures::TryStreamExt;
use schemas::{EVENTS, OrgId, TEAM_MEMBERS, TableSpec};
use tokio::time::sleep;

use crate::{
    Catalog, Error, Query, Result, sql,
    views::{Viewer, is_about_people},
};

/// How often the key of an open connection or a running answer is looked at again.
pub(crate) const RECHECK: Duration = Duration::from_secs(2);
/// The column that says whom a row is about.
pub(crate) const USER_COLUMN: &str = "user_key";
/// The column that says which team a row is about.
const TEAM_COLUMN: &str = "team_id";

/// Whose rows a session sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// One organisation's, all of them.
    Org(OrgId),
    /// A part of one organisation's.
    Part(Arc<Part>),
    /// Everyone's. For whoever can read the lake's files anyway; no request over the network gets it.
    Operator,
}

/// A part of an organisation's rows.
#[derive(Debug, PartialEq, Eq)]
pub struct Part {
    org: OrgId,
    role: Role,
    opt_in: OptIn,
    who: Who,
    /// Others than oneself are under pseudonyms made with this key.
    pseudonyms: Option<PseudonymKey>,
    viewer: Viewer,
}

#[derive(Debug, PartialEq, Eq)]
enum Who {
    /// Everyone.
    All,
    /// These people, and this team.
    Team { team: BTreeSet<String>, people: BTreeSet<String> },
    /// One person.
    One(BTreeSet<String>),
}

/// What is seen of one table.
#[derive(Clone, Debug)]
pub(crate) enum Sight {
    /// All rows of all organisations.
    Everything,
    /// Rows of one organisation.
    Rows(Rows),
    /// Nothing, and that is said.
    Closed(Forbidden),
}

/// Which rows, and in what form.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    pub(crate) org: OrgId,
    /// Only rows with one of these values in this column.
    pub(crate) only: Option<(&'static str, Arc<BTreeSet<String>>)>,
    /// People are shown under pseudonyms made with this key.
    pub(crate) pseudonyms: Option<PseudonymKey>,
}

impl Rows {
    pub(crate) fn all(org: OrgId) -> Self {
        Self { org, only: None, pseudonyms: None }
    }
}

/// The table is closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("table `{table}` {why}")]
pub struct Forbidden {
    /// Table.
    pub table: &'static str,
    /// To whom.
    pub why: Why,
}

/// To whom a table is closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// To a role.
    #[error("is not for the role `{0}`")]
    Role(&'static str),
    /// To everyone.
    #[error("is closed: the organisation's opt-in is `{0}`")]
    OptIn(OptIn),
}

impl Forbidden {
    /// What can be done about it, as a sentence.
    pub(crate) fn help(&self) -> &'static str {
        match self.why {
            Why::Role(_) => "An admin of the organisation can make a token with another role.",
            Why::OptIn(_) => "An admin of the organisation can switch it: `daybook opt-in set`.",
        }
    }
}

/// Who presents `key`, and what may be seen with it now; `None` where it is no read key that is valid.
///
/// # Errors
/// [`Error::Directory`] and [`Error::Lake`] where what decides it cannot be read.
pub(crate) async fn admit(query: &Query, key: &str) -> Result<Option<(Principal, Access)>> {
    let directory = query.directory();
    let Some(principal) = directory.authenticate(key, Scope::Read).await.map_err(Error::Directory)? else {
        return Ok(None);
    };
    let views = query.views().clone();
    let viewer = Viewer { org: principal.org.clone(), key: principal.key_id.clone(), views };
    let access = access(query.catalog(), directory, &principal, viewer).await?;
    Ok(Some((principal, access)))
}

/// Returns when `key` is refused, or something else is seen with it than `access`. That it cannot be looked up is no reason to end what it once allowed.
pub(crate) async fn changed(query: &Query, key: &str, access: &Access) {
    loop {
        sleep(RECHECK).await;
        match admit(query, key).await {
            Ok(Some((_, now))) if now == *access => {}
            Ok(_) => return,
            Err(error) => tracing::debug!(error = &error as &dyn std::error::Error, "a key cannot be looked at again"),
        }
    }
}

async fn access(catalog: &Catalog, directory: &Directory, principal: &Principal, viewer: Viewer) -> Result<Access> {
    let (org, opt_in) = (principal.org.clone(), principal.opt_in);
    let hidden = opt_in == OptIn::Pseudonymous || principal.role == Role::Analyst { names: false };
    let who = match &principal.role {
        // Whatever would be seen is closed.
        _ if opt_in == OptIn::Off => Who::All,
        Role::Service | Role::Admin | Role::Analyst { .. } => Who::All,
        Role::Lead { team } => {
            Who::Team { team: BTreeSet::from([team.clone()]), people: members(catalog, &org, team).await? }
        }
        Role::Member { user } => Who::One(BTreeSet::from([user.clone()])),
    };
    let pseudonyms = match &who {
        Who::All | Who::Team { .. } if hidden => Some(directory.pseudonym_key(&org).await.map_err(Error::Directory)?),
        _ => None,
    };
    Ok(Access::Part(Arc::new(Part { org, role: principal.role.clone(), opt_in, who, pseudonyms, viewer })))
}

/// Who is in the team today, by UTC.
async fn members(catalog: &Catalog, org: &OrgId, team: &str) -> Result<BTreeSet<String>> {
    let context = catalog.empty_session();
    let table = catalog.current(&TEAM_MEMBERS).await?.provider(&Access::Org(org.clone()));
    context.register_table(TEAM_MEMBERS.name, table).map_err(Error::engine)?;
    let team = team.replace('\'', "''");
    let select = format!(
        "SELECT DISTINCT {USER_COLUMN} FROM {} WHERE {TEAM_COLUMN} = '{team}' \
         AND valid_from <= today() AND (valid_to IS NULL OR valid_to > today())",
        TEAM_MEMBERS.name
    );
    let batches: Vec<_> = sql(&context, &select).await?.try_collect().await.map_err(Error::engine)?;
    let people = batches.iter().flat_map(|batch| batch.column(0).as_string_view().iter().flatten().map(str::to_owned));
    Ok(people.collect())
}

impl Access {
    /// The organisation; `None` = all.
    pub(crate) fn org(&self) -> Option<&OrgId> {
        match self {
            Self::Org(org) => Some(org),
            Self::Part(part) => Some(&part.org),
            Self::Operator => None,
        }
    }

    /// Tells apart what is seen through different accesses of one organisation.
    pub(crate) fn tag(&self) -> String {
        match self {
            Self::Org(_) | Self::Operator => String::new(),
            Self::Part(part) => {
                let Part { opt_in, who, pseudonyms, .. } = &**part;
                let hidden = if pseudonyms.is_some() { " under pseudonyms" } else { "" };
                match who {
                    // What most see, and so what stands in most caches.
                    Who::All if *opt_in == OptIn::Named && pseudonyms.is_none() => String::new(),
                    Who::All => format!("{opt_in}{hidden}"),
                    Who::Team { team, people } => format!("{opt_in}{hidden} {team:?} {people:?}"),
                    Who::One(person) => format!("{opt_in} {person:?}"),
                }
            }
        }
    }

    /// The organisation all of whose rows of a table are seen, as they are; `None` where it is less, or rows under other names.
    pub(crate) fn whole(&self, spec: &TableSpec) -> Option<OrgId> {
        match self.sight(spec) {
            Sight::Rows(Rows { org, only: None, pseudonyms: None }) => Some(org),
            _ => None,
        }
    }

    /// Who looks at people by name when looking at the table, but for oneself; `None` = nobody who has to be put on record.
    pub(crate) fn viewer(&self, spec: &TableSpec) -> Option<&Viewer> {
        match self {
            Self::Part(part) if part.pseudonyms.is_none() && !matches!(part.who, Who::One(_)) => {
                is_about_people(spec).then_some(&part.viewer)
            }
            // In this process, for whoever has the lake's own credentials.
            Self::Part(_) | Self::Org(_) | Self::Operator => None,
        }
    }

    /// What is seen of a table.
    pub(crate) fn sight(&self, spec: &TableSpec) -> Sight {
        let part = match self {
            Self::Operator => return Sight::Everything,
            Self::Org(org) => return Sight::Rows(Rows::all(org.clone())),
            Self::Part(part) => part,
        };
        let closed = |why| Sight::Closed(Forbidden { table: spec.name, why });
        let has = |column: &str| spec.schema().column_with_name(column).is_some();
        let (about_people, oneself) = (is_about_people(spec), matches!(part.who, Who::One(_)));
        match part.opt_in {
            OptIn::Off => return closed(Why::OptIn(OptIn::Off)),
            OptIn::TeamOnly if about_people && !oneself => return closed(Why::OptIn(OptIn::TeamOnly)),
            OptIn::Pseudonymous if spec.name == EVENTS.name && !oneself => {
                return closed(Why::OptIn(OptIn::Pseudonymous));
            }
            OptIn::TeamOnly | OptIn::Pseudonymous | OptIn::Named => {}
        }
        let not_for_role = || closed(Why::Role(part.role.name()));
        let pseudonyms = part.pseudonyms.clone().filter(|_| about_people);
        let only = |column, values: &BTreeSet<String>| {
            let only = Some((column, Arc::new(values.clone())));
            Sight::Rows(Rows { org: part.org.clone(), only, pseudonyms: pseudonyms.clone() })
        };
        match &part.who {
            Who::All if part.pseudonyms.is_some() && spec.name == EVENTS.name => not_for_role(),
            Who::All => Sight::Rows(Rows { org: part.org.clone(), only: None, pseudonyms }),
            Who::Team { team, .. } if has(TEAM_COLUMN) => only(TEAM_COLUMN, team),
            Who::Team { people, .. } if about_people => only(USER_COLUMN, people),
            Who::One(person) if about_people => only(USER_COLUMN, person),
            Who::Team { .. } | Who::One(_) => not_for_role(),
        }
    }
}
