//! Sends the generated activity to the collector.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use ingest::{
    headers,
    log::{Append, Log},
};

use super::orgs::Keys;
use crate::{
    fault::{During as _, Fault, Result},
    generate::{Config, Counts, Generated, Generator, Kind},
    output, parts,
    sender::{Line, Sender},
};

/// Events in one request.
const BATCH: usize = 500;
/// Requests under way at once.
const PARALLEL: usize = 4;

/// What was sent and what became of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sent {
    /// What the generator made.
    pub(super) made: Counts,
    pub(super) accepted: u64,
    pub(super) refused: u64,
    /// Of the refused ones, those that the generator made to be refused.
    pub(super) refused_bad: u64,
}

impl Sent {
    pub(super) fn all(&self) -> u64 {
        self.made.new + self.made.duplicates + self.made.bad
    }
}

/// Events of one organisation for one request.
struct Batch {
    org: usize,
    bad: bool,
    lines: Vec<Line>,
}

/// Generates and sends everything. Bad records go by themselves, as a broken client would send them.
pub(super) async fn all(config: &Config, orgs: &[Keys], address: SocketAddr) -> Result<Sent> {
    let generator = Generator::new(config.clone())
        .map_err(|faults| Fault::usage(format!("cannot generate this: {}", faults.join("; "))))?;
    let url = url::Url::parse(&format!("http://{address}/")).during("the collector's address is no URL")?;
    let senders = orgs
        .iter()
        .map(|keys| Sender::new(&url, keys.ingest.clone(), Duration::from_secs(30)))
        .collect::<Result<Vec<_>>>()?;
    let mut sent = Sent { made: generator.planned(), ..Sent::default() };
    let bar = output::bar(config.events, "sending", true);
    let batches = Batches { generator, filling: orgs.iter().map(|_| Vec::new()).collect(), number: 0 };
    let sending = stream::iter(batches)
        .map(|Batch { org, bad, lines }| {
            let sender = senders[org].clone();
            async move { Ok::<_, Fault>((bad, lines.len(), sender.send(lines).await?)) }
        })
        .buffer_unordered(PARALLEL);
    let mut sending = std::pin::pin!(sending);
    while let Some((bad, number, outcome)) = sending.try_next().await? {
        let refused = outcome.refused.len() as u64;
        sent.accepted += outcome.accepted;
        sent.refused += refused;
        sent.refused_bad += if bad { refused } else { 0 };
        bar.inc(number as u64);
    }
    bar.finish_and_clear();
    Ok(sent)
}

/// Cuts the generator's stream into requests.
struct Batches {
    generator: Generator,
    filling: Vec<Vec<Line>>,
    number: u64,
}

impl Iterator for Batches {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        for Generated { org, kind, json } in self.generator.by_ref() {
            self.number += 1;
            let line = Line { number: self.number, json };
            if kind == Kind::Bad {
                return Some(Batch { org, bad: true, lines: vec![line] });
            }
            self.filling[org].push(line);
            if self.filling[org].len() == BATCH {
                return Some(Batch { org, bad: false, lines: std::mem::take(&mut self.filling[org]) });
            }
        }
        let org = self.filling.iter().position(|lines| !lines.is_empty())?;
        Some(Batch { org, bad: false, lines: std::mem::take(&mut self.filling[org]) })
    }
}

/// Three records that are no events, written to the log itself. Returns how many.
pub(super) async fn past_the_collector(log: &dyn Log) -> Result<u64> {
    let recorded = format!("{:.6}", parts::now());
    let record = |key: &'static str, value: &'static str, org: Option<&'static str>| Append {
        key: Bytes::from_static(key.as_bytes()),
        value: Bytes::from_static(value.as_bytes()),
        headers: [(headers::RECORDED_TIME, Some(recorded.clone())), (headers::ORG, org.map(str::to_owned))]
            .into_iter()
            .filter_map(|(name, value)| Some((name.into(), Bytes::from(value?))))
            .collect(),
    };
    let records = vec![
        record("acme/cut-off", r#"{"specversion":"1.0","id":"019a"#, Some("acme")),
        record("acme/no-id", r#"{"specversion":"1.0","source":"urn:x","type":"x","subject":"x"}"#, Some("acme")),
        record("nobody", "not even JSON", None),
    ];
    let number = records.len() as u64;
    log.append(records).await.during("cannot write to the log")?;
    Ok(number)
}
