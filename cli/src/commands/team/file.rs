//! A file of members, as people export it from a directory of theirs.

use std::{
    fs::File,
    io::{Read, stdin},
    path::Path,
};

use jiff::civil::Date;
use schemas::OrgId;

use super::COLUMNS;
use crate::{
    fault::{During as _, Fault, Result},
    teams::{EPOCH, Member},
};

/// Faults that are told; of more only the number is.
const FAULTS_MAX: usize = 10;
/// Longest team id and user key [bytes].
const TEXT_MAX: usize = 512;

/// The members in a file, sorted.
///
/// # Errors
/// Where it cannot be read or any of its lines is wrong; then what is wrong with which.
pub(super) fn read(path: &Path, org: &OrgId) -> Result<Vec<Member>> {
    if path == Path::new("-") {
        return parse(stdin().lock(), "standard input", org);
    }
    let name = path.display().to_string();
    parse(File::open(path).during(format!("cannot open {name}"))?, &name, org)
}

/// As [`read`]; `name` is what the input is called in errors.
pub(super) fn parse(input: impl Read, name: &str, org: &OrgId) -> Result<Vec<Member>> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(input);
    let header = reader.headers().during(format!("cannot read {name}"))?.clone();
    let at = columns(&header, name)?;
    let (mut members, mut faults) = (Vec::new(), Vec::new());
    for record in reader.records() {
        let (position, read) = match record {
            Ok(record) => (record.position().cloned(), member(&record, at, org)),
            Err(error) if error.is_io_error() => return Err(error).during(format!("cannot read {name}")),
            Err(error) => (error.position().cloned(), Err(broken(&error))),
        };
        // A field may have line breaks: the line is another than the row's number.
        let line = position.map_or(0, |position| position.line());
        match read {
            Ok(member) => members.push((line, member)),
            Err(fault) => faults.push((line, fault)),
        }
    }
    members.sort_by(|(_, a), (_, b)| a.cmp(b));
    for pair in members.windows(2) {
        let [(first, a), (second, b)] = pair else { continue };
        if (&a.team, &a.user) == (&b.team, &b.user) && a.to.is_none_or(|to| b.from < to) {
            faults.push((*second, format!("says again what line {first} says: `{}` is in `{}` then", b.user, b.team)));
        }
    }
    if faults.is_empty() {
        return Ok(members.into_iter().map(|(_, member)| member).collect());
    }
    faults.sort();
    let told: Vec<String> =
        faults.iter().take(FAULTS_MAX).map(|(line, fault)| format!("line {line} {fault}")).collect();
    let more = match faults.len().saturating_sub(FAULTS_MAX) {
        0 => String::new(),
        more => format!("\nand {more} more"),
    };
    Err(Fault::refused(format!("{name} is not imported:\n{}{more}", told.join("\n")))
        .help("mend these lines; nothing was written"))
}

/// What is wrong with a line that is no record.
fn broken(error: &csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("has {len} fields, and the header {expected_len}")
        }
        csv::ErrorKind::Utf8 { .. } => "is not UTF-8".to_owned(),
        _ => format!("cannot be read: {error}"),
    }
}

/// Where each of our columns stands in the file.
fn columns(header: &csv::StringRecord, name: &str) -> Result<[Option<usize>; 4]> {
    let known = format!("the header is `{}`, separated by commas; the last two may be left out", COLUMNS.join(","));
    if let Some(foreign) = header.iter().find(|column| !COLUMNS.contains(column)) {
        return Err(Fault::refused(format!("{name} has a column `{foreign}`")).help(known));
    }
    let at = COLUMNS.map(|column| header.iter().position(|have| have == column));
    if at[0].is_none() || at[1].is_none() {
        return Err(Fault::refused(format!("{name} has no column team_id or no column user_key")).help(known));
    }
    Ok(at)
}

fn member(record: &csv::StringRecord, at: [Option<usize>; 4], org: &OrgId) -> Result<Member, String> {
    let [team, user, from, to] = at.map(|at| at.and_then(|at| record.get(at)).unwrap_or_default());
    for (column, value) in [(COLUMNS[0], team), (COLUMNS[1], user)] {
        if value.is_empty() {
            return Err(format!("has no {column}"));
        }
        if value.len() > TEXT_MAX {
            return Err(format!("has a {column} of {} bytes, more than {TEXT_MAX}", value.len()));
        }
    }
    let date = |column: &str, value: &str| match value {
        "" => Ok(None),
        text => match text.parse::<Date>() {
            // jiff takes times, too: then the day would be a guess.
            Ok(date) if date.to_string() == text => Ok(Some(date)),
            _ => Err(format!("has the {column} `{text}`, which is no YYYY-MM-DD")),
        },
    };
    let (from, to) = (date(COLUMNS[2], from)?.unwrap_or(EPOCH), date(COLUMNS[3], to)?);
    if to.is_some_and(|to| to <= from) {
        return Err("ends before it begins: valid_to is the first day after the membership".to_owned());
    }
    Ok(Member { org: org.to_string(), team: team.to_owned(), user: user.to_owned(), from, to })
}
