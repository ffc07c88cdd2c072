//! Table `team_members`: who belongs to which team. `daybook team import` writes it, and for organisations whose groups come by SCIM
//! `daybook serve` does ([`scim`]).
//!
//! The table is replaced as far as the organisation is concerned, in one commit: what is given is the membership, with its history.

pub(crate) mod scim;

use std::{pin::pin, sync::Arc};

use arrow::{
    array::{Array as _, ArrayRef, AsArray as _, Date32Array, RecordBatch, StringArray},
    compute::cast,
    datatypes::{DataType, Date32Type},
    error::ArrowError,
};
use futures::TryStreamExt as _;
use jiff::civil::Date;
use lake::{Change, CommitError, Lake};
use schemas::{OrgId, TEAM_MEMBERS, epoch_date, epoch_days};

use crate::fault::{During as _, Fault, Result};

/// Times that a replacement starts again because another one was faster.
const ATTEMPTS_MAX: usize = 8;

/// A membership.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Member {
    pub(crate) org: String,
    pub(crate) team: String,
    pub(crate) user: String,
    /// First day.
    pub(crate) from: Date,
    /// First day after it; `None` = it lasts.
    pub(crate) to: Option<Date>,
}

/// How a replacement changed the table.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Done {
    pub(crate) added: usize,
    pub(crate) removed: usize,
}

/// Makes what `members` gives (sorted) the membership of an organisation. Writes nothing where it is that already.
///
/// It is asked anew at each attempt, after the table was read: what is written is no older than what it replaces.
pub(crate) async fn replace<F>(lake: &Lake, org: &OrgId, members: impl Fn() -> F, dry_run: bool) -> Result<Done>
where
    F: Future<Output = Result<Vec<Member>>>,
{
    for _ in 0..ATTEMPTS_MAX {
        let (snapshot, before) = match table(lake).await? {
            Some((snapshot, before)) => (Some(snapshot), before),
            None => (None, Vec::new()),
        };
        let members = members().await?;
        let (own, mut all): (Vec<Member>, Vec<Member>) =
            before.into_iter().partition(|member| member.org == org.as_str());
        let missing =
            |from: &[Member], of: &[Member]| from.iter().filter(|member| of.binary_search(member).is_err()).count();
        let done = Done { added: missing(&members, &own), removed: missing(&own, &members) };
        if dry_run || done == Done::default() {
            return Ok(done);
        }
        let table = lake.table(&TEAM_MEMBERS);
        let Some(snapshot) = snapshot else {
            // Others may have written by the time it is made.
            table.create_if_missing().await.during(WRITING)?;
            continue;
        };
        all.extend(members);
        all.sort();
        let mut head = snapshot.head();
        // Of a table without rows nothing is removed, and so nothing else would tell that another import was faster.
        let only_after = Some(head.version());
        let mut change = Change { operation: "WRITE", data_change: true, only_after, ..Change::default() };
        change.remove = snapshot.files;
        if !all.is_empty() {
            change.add.push(table.write_file(None, &[batch(&all)]).await.during(WRITING)?);
        }
        match table.commit(&mut head, change).await {
            Ok(_) => return Ok(done),
            Err(CommitError::Conflict { .. } | CommitError::Moved { .. }) => {}
            Err(error) => return Err(Fault::failed(WRITING).source(error)),
        }
    }
    Err(Fault::failed("others who write teams were faster every time")
        .help("nothing was written; try again when they are done"))
}

const WRITING: &str = "cannot write table team_members";

/// The newest version of the table and its rows, sorted; `None` where there is none.
pub(crate) async fn table(lake: &Lake) -> Result<Option<(lake::Snapshot, Vec<Member>)>> {
    const READING: &str = "cannot read table team_members";
    let table = lake.table(&TEAM_MEMBERS);
    let snapshot = match table.snapshot().await {
        Err(lake::Error::Missing { .. }) => return Ok(None),
        snapshot => snapshot.during(READING)?,
    };
    let schema = TEAM_MEMBERS.schema();
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let mut batches = pin!(table.read_newest(snapshot.files.clone(), &names));
    let mut members = Vec::new();
    while let Some(batch) = batches.try_next().await.during(READING)? {
        members.extend(rows(&batch).during(READING)?);
    }
    members.sort();
    Ok(Some((snapshot, members)))
}

fn rows(batch: &RecordBatch) -> Result<Vec<Member>, ArrowError> {
    let text = |name: &str| cast(&batch[name], &DataType::Utf8);
    let (org, team, user) = (text("org_id")?, text("team_id")?, text("user_key")?);
    let [org, team, user] = [&org, &team, &user].map(|column| column.as_string::<i32>());
    let [from, to] = ["valid_from", "valid_to"].map(|name| batch[name].as_primitive::<Date32Type>());
    let date = |days: i32| epoch_date(days).ok_or_else(|| ArrowError::CastError(format!("day {days} is no date")));
    let member = |row: usize| {
        Ok(Member {
            org: org.value(row).to_owned(),
            team: team.value(row).to_owned(),
            user: user.value(row).to_owned(),
            from: date(from.value(row))?,
            to: to.is_valid(row).then(|| date(to.value(row))).transpose()?,
        })
    };
    (0..batch.num_rows()).map(member).collect()
}

/// When a membership began of which nobody knows since when: before any activity.
pub(crate) const EPOCH: Date = jiff::civil::date(1970, 1, 1);

fn batch(members: &[Member]) -> RecordBatch {
    let text = |of: fn(&Member) -> &str| -> ArrayRef {
        Arc::new(members.iter().map(|member| Some(of(member))).collect::<StringArray>())
    };
    let columns: Vec<ArrayRef> = vec![
        text(|member| &member.org),
        text(|member| &member.team),
        text(|member| &member.user),
        Arc::new(members.iter().map(|member| Some(epoch_days(member.from))).collect::<Date32Array>()),
        Arc::new(members.iter().map(|member| member.to.map(epoch_days)).collect::<Date32Array>()),
    ];
    RecordBatch::try_new(TEAM_MEMBERS.schema(), columns).expect("columns of the schema")
}
