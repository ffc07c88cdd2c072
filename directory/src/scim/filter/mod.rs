//! Filters: `userName eq "ada" and not (emails[type eq "work"] or title pr)` (RFC 7644 §3.4.2.2).

use std::fmt;

use serde_json::Value;

use super::{path::Path, schema::Type};

mod matching;
mod parse;
#[cfg(test)]
mod tests;

pub(super) use matching::{fold, matches, matches_value, sorted_by};
pub(super) use parse::{parse, parse_prefix};

/// How two values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Eq,
    Ne,
    Co,
    Sw,
    Ew,
    Gt,
    Ge,
    Lt,
    Le,
}

impl Op {
    const ALL: [(Self, &'static str); 9] = [
        (Self::Eq, "eq"),
        (Self::Ne, "ne"),
        (Self::Co, "co"),
        (Self::Sw, "sw"),
        (Self::Ew, "ew"),
        (Self::Gt, "gt"),
        (Self::Ge, "ge"),
        (Self::Lt, "lt"),
        (Self::Le, "le"),
    ];

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(_, own)| own.eq_ignore_ascii_case(name)).map(|(op, _)| op)
    }

    fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(op, _)| *op == self).map_or("", |(_, name)| name)
    }
}

/// A filter. `and` and `or` hold two or more.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Filter {
    Compare {
        path: Path,
        op: Op,
        /// A text, a number, a truth value or null.
        value: Value,
    },
    /// `pr`: has a value.
    Present(Path),
    /// `emails[type eq "work"]`: one value of several for which the filter holds.
    Within {
        path: Path,
        filter: Box<Filter>,
    },
    And(Vec<Filter>),
    Or(Vec<Filter>),
    Not(Box<Filter>),
}

impl Filter {
    /// Whether it looks at that attribute of the resource itself.
    pub(super) fn mentions(&self, of: Type, name: &str) -> bool {
        let is = |path: &Path| {
            let path = Path { sub: None, ..path.clone() };
            path.is(of, name)
        };
        match self {
            Self::Compare { path, .. } | Self::Present(path) | Self::Within { path, .. } => is(path),
            Self::And(all) | Self::Or(all) => all.iter().any(|one| one.mentions(of, name)),
            Self::Not(one) => one.mentions(of, name),
        }
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joined = |f: &mut fmt::Formatter<'_>, all: &[Self], word: &str, brackets: fn(&Self) -> bool| {
            for (at, one) in all.iter().enumerate() {
                if at > 0 {
                    write!(f, " {word} ")?;
                }
                if brackets(one) { write!(f, "({one})")? } else { write!(f, "{one}")? }
            }
            Ok(())
        };
        match self {
            Self::Compare { path, op, value } => write!(f, "{path} {} {value}", op.name()),
            Self::Present(path) => write!(f, "{path} pr"),
            Self::Within { path, filter } => write!(f, "{path}[{filter}]"),
            Self::And(all) => joined(f, all, "and", |one| matches!(one, Self::And(_) | Self::Or(_))),
            Self::Or(all) => joined(f, all, "or", |one| matches!(one, Self::Or(_))),
            Self::Not(one) => write!(f, "not ({one})"),
        }
    }
}
