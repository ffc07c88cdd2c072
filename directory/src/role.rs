//! What the holder of a read key may see of the organisation's people.

use std::{fmt, sync::Arc};

use sqlx::{Row as _, any::AnyRow};

use crate::{Error, MacKey, Result};

/// What the holder of a read key may see.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Role {
    /// A program: everything of the organisation.
    #[default]
    Service,
    /// Everything of the organisation.
    Admin,
    /// Everything of the organisation; who people are only with `names`, else pseudonyms.
    Analyst {
        /// Sees who people are.
        names: bool,
    },
    /// The people of one team, and the team.
    Lead {
        /// The team.
        team: String,
    },
    /// Oneself.
    Member {
        /// The person's `user_key`.
        user: String,
    },
}

impl Role {
    /// The role's stable name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Admin => "admin",
            Self::Analyst { .. } => "analyst",
            Self::Lead { .. } => "lead",
            Self::Member { .. } => "member",
        }
    }

    /// The team of a lead, the person of a member.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        match self {
            Self::Lead { team } => Some(team),
            Self::Member { user } => Some(user),
            _ => None,
        }
    }

    /// As it stands in a row with the columns `role`, `subject` and `sees_names`.
    pub(crate) fn of(row: &AnyRow) -> Result<Self> {
        let role: Option<String> = row.try_get("role").map_err(Error::Database)?;
        let subject: Option<String> = row.try_get("subject").map_err(Error::Database)?;
        let names: Option<i64> = row.try_get("sees_names").map_err(Error::Database)?;
        let subject = || subject.ok_or(Error::Corrupt { column: "subject", value: "nothing".to_owned() });
        match role.as_deref() {
            None | Some("service") => Ok(Self::Service),
            Some("admin") => Ok(Self::Admin),
            Some("analyst") => Ok(Self::Analyst { names: names == Some(1) }),
            Some("lead") => Ok(Self::Lead { team: subject()? }),
            Some("member") => Ok(Self::Member { user: subject()? }),
            Some(other) => Err(Error::Corrupt { column: "role", value: other.chars().take(80).collect() }),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Analyst { names: true } => f.write_str("analyst, names"),
            Self::Lead { team } => write!(f, "lead of {team}"),
            Self::Member { user } => write!(f, "member {user}"),
            other => f.write_str(other.name()),
        }
    }
}

/// What pseudonyms of an organisation's people are made with. `Debug` does not print it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PseudonymKey(pub(crate) Arc<MacKey>);

impl PseudonymKey {
    /// What stands for `person`, a `user_key`: the same day after day, and traced back by nobody who has not the key. 128 bits of an HMAC.
    #[must_use]
    pub fn pseudonym(&self, person: &str) -> String {
        format!("pseudonym:{}", hex::encode(&self.0.mac(&[person.as_bytes()])[..16]))
    }
}
