//! `daybook audit`.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    str::FromStr,
};

use clap::{Args, Subcommand};
use directory::{Broken, Chain, Entry};
use schemas::OrgId;
use serde_json::json;

use crate::{
    args::Output,
    config::Sources,
    fault::{During as _, Fault, Result},
    output, parts,
};

/// An entry has a few fields of text; what is longer is none.
const LINE_MAX: u64 = 1 << 20;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  daybook audit list --org acme
  daybook audit export --org acme > acme-audit.ndjson
  daybook audit verify --org acme
  daybook audit verify --org acme --expect 41:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
  daybook audit verify --file acme-audit.ndjson

An organisation's entries are a chain: each has a hash over its fields and the hash before it. Keep the
number and hash that `verify` prints where those who run Daybook cannot write: with --expect they show
later that nothing up to there was changed.")]
pub(crate) struct AuditArgs {
    #[command(subcommand)]
    pub(crate) command: AuditCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// List who did what, oldest first
    List {
        /// The organisation
        #[arg(long, value_name = "ORG")]
        org: OrgId,
        #[command(flatten)]
        output: Output,
    },
    /// Write all entries as NDJSON, for `verify --file` and other tools
    Export {
        /// The organisation
        #[arg(long, value_name = "ORG")]
        org: OrgId,
    },
    /// Check that no entry was changed, taken out or put in; exit code 3 where one was
    Verify(VerifyArgs),
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The organisation
    #[arg(long, value_name = "ORG", required_unless_present = "file")]
    org: Option<OrgId>,
    /// An export in place of the directory; `-` reads standard input
    #[arg(long, value_name = "FILE", conflicts_with = "org")]
    file: Option<PathBuf>,
    /// What an earlier check printed: that entry must be there, with that hash
    #[arg(long, value_name = "NUMBER:HASH")]
    expect: Option<Anchor>,
}

/// An entry as it was once.
#[derive(Clone, Debug)]
struct Anchor {
    number: i64,
    hash: String,
}

impl FromStr for Anchor {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let wrong = || "takes the number and the hash that `verify` printed, such as 41:9f86d081…".to_owned();
        let (number, hash) = text.split_once(':').ok_or_else(wrong)?;
        let number = number.parse().ok().filter(|number| *number > 0).ok_or_else(wrong)?;
        let is_hash =
            hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        if is_hash { Ok(Self { number, hash: hash.to_owned() }) } else { Err(wrong()) }
    }
}

pub(crate) async fn run(args: &AuditArgs, sources: &Sources) -> Result<()> {
    const READING: &str = "cannot read the audit log";
    let (org, list) = match &args.command {
        AuditCommand::Verify(VerifyArgs { file: Some(file), expect, .. }) => {
            return told(verify_file(file, expect.as_ref())?);
        }
        AuditCommand::Verify(VerifyArgs { org, expect, .. }) => {
            let Some(org) = org else { return Err(Fault::usage("--org or --file says what to verify")) };
            let directory = parts::directory(&sources.config()?).await?;
            let expect = expect.as_ref().map(|anchor| (anchor.number, anchor.hash.as_str()));
            return told(directory.verify_audit(org, expect).await.during(READING)?);
        }
        AuditCommand::List { org, output } => (org, Some(output)),
        AuditCommand::Export { org } => (org, None),
    };
    let directory = parts::directory(&sources.config()?).await?;
    let (mut after, mut rows) = (0, Vec::new());
    loop {
        let entries = directory.audit_after(org, after).await.during(READING)?;
        let Some(last) = entries.last() else { break };
        after = last.number;
        for entry in &entries {
            if list.is_some() {
                let (at, detail) = (entry.at.to_string(), &entry.detail);
                rows.push(vec![
                    json!(entry.number),
                    json!(at),
                    json!(entry.actor),
                    json!(entry.action),
                    json!(entry.subject),
                    json!(detail),
                ]);
            } else {
                let line = serde_json::to_string(entry).during("cannot write an entry")?;
                output::text(&format!("{line}\n"))?;
            }
        }
    }
    match list {
        Some(list) => output::rows(&["number", "at", "actor", "action", "subject", "detail"], &rows, list.format),
        None => Ok(()),
    }
}

fn told(outcome: std::result::Result<Chain, Broken>) -> Result<()> {
    match outcome {
        Ok(Chain { number: 0, .. }) => output::text("no entries\n"),
        Ok(chain) => output::text(&format!(
            "{} entries, all as they were written; the last is {}:{}\n",
            chain.number, chain.number, chain.hash
        )),
        Err(broken) => {
            let fault = Fault::refused("the audit log is not as it was written").source(broken);
            Err(fault.help("compare with an export or a backup from before; entries up to there are in order"))
        }
    }
}

/// The chain of an export.
fn verify_file(path: &Path, expect: Option<&Anchor>) -> Result<std::result::Result<Chain, Broken>> {
    let name = path.display();
    let input: Box<dyn Read> = match path.as_os_str() == "-" {
        true => Box::new(std::io::stdin()),
        false => {
            Box::new(File::open(path).map_err(|error| Fault::usage(format!("cannot open `{name}`")).source(error))?)
        }
    };
    let (mut input, mut chain, mut at) = (BufReader::new(input), Chain::default(), 0);
    loop {
        let mut line = String::new();
        at += 1;
        let read = input.by_ref().take(LINE_MAX).read_line(&mut line).during(format!("cannot read `{name}`"))?;
        if read == 0 {
            break;
        }
        let entry: Entry = serde_json::from_str(&line).map_err(|error| {
            let fault = Fault::refused(format!("line {at} of `{name}` is no entry of an audit log")).source(error);
            fault.help("`daybook audit export` writes such files")
        })?;
        if let Err(broken) = chain.check(&entry) {
            return Ok(Err(broken));
        }
        if let Some(anchor) = expect.filter(|anchor| anchor.number == entry.number && anchor.hash != entry.hash) {
            return Ok(Err(Broken::Other { number: anchor.number, expected: anchor.hash.clone() }));
        }
    }
    match expect {
        Some(anchor) if anchor.number > chain.number => {
            Ok(Err(Broken::Short { expected: anchor.number, found: chain.number }))
        }
        _ => Ok(Ok(chain)),
    }
}
