//! Sends events to a collector: in batches, patiently, and with an account of every one of them.
//!
//! | answer | what follows |
//! |---|---|
//! | 202 | accepted, but for those that the answer names |
//! | 422 | none accepted; the answer names each |
//! | no connection, time-out, 408, 429, 502, 503, 504 | again, with back-off and jitter, for a limited time: ids make that harmless |
//! | 400, 413 | a batch is split in two until the one at fault is found |
//! | others | the end: 401 and 403 mean a wrong key |

#[cfg(test)]
mod tests;

use std::{collections::VecDeque, time::Duration};

use reqwest::{StatusCode, header};
use serde::Deserialize;
use tokio::time::Instant;

use crate::{
    fault::{Fault, Result},
    http::{self, Problem},
};

/// One event on its way.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// Number of its line, from 1.
    pub(crate) number: u64,
    pub(crate) json: Vec<u8>,
}

/// An event that was not accepted, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) line: u64,
    pub(crate) cause: String,
    pub(crate) detail: String,
}

/// What became of some events: `accepted` + `refused` = all of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) accepted: u64,
    pub(crate) refused: Vec<Refusal>,
}

impl Outcome {
    pub(crate) fn add(&mut self, other: Self) {
        self.accepted += other.accepted;
        self.refused.extend(other.refused);
    }
}

/// A connection to a collector.
#[derive(Clone)]
pub(crate) struct Sender {
    client: reqwest::Client,
    url: url::Url,
    key: String,
    retry_for: Duration,
}

/// The body of an answer, as far as it matters here (RFC 9457 where it is a problem).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Answer {
    accepted: Option<u64>,
    rejected: Vec<Rejected>,
    #[serde(flatten)]
    problem: Problem,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Rejected {
    index: usize,
    #[serde(flatten)]
    problem: Problem,
}

impl Refusal {
    fn new(problem: &Problem, line: &Line, otherwise: &str) -> Self {
        let cause = problem.kind.as_deref().and_then(|kind| kind.rsplit('/').next()).filter(|cause| !cause.is_empty());
        let detail = problem.text().unwrap_or(otherwise).to_owned();
        Self { line: line.number, cause: cause.unwrap_or("refused").to_owned(), detail }
    }
}

enum Attempt {
    Done(Outcome),
    /// The batch as a whole was refused.
    Split {
        problem: Problem,
        detail: String,
    },
    Away {
        why: Fault,
        retry_after: Option<Duration>,
    },
}

impl Sender {
    /// `url`: the collector's root.
    pub(crate) fn new(url: &url::Url, key: String, retry_for: Duration) -> Result<Self> {
        let client = http::client().timeout(Duration::from_secs(60)).build();
        let client = client.map_err(|error| Fault::failed("cannot set up the HTTP client").source(error))?;
        let url = http::endpoint(url, "v1/events")?;
        Ok(Self { client, url, key, retry_for })
    }

    /// Sends events; returns when each was accepted or refused.
    pub(crate) async fn send(&self, lines: Vec<Line>) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        let mut batches = VecDeque::from([lines]);
        while let Some(mut batch) = batches.pop_front() {
            if batch.is_empty() {
                continue;
            }
            match self.patiently(&batch).await? {
                Attempt::Split { .. } if batch.len() > 1 => {
                    let second = batch.split_off(batch.len() / 2);
                    batches.push_front(second);
                    batches.push_front(batch);
                }
                Attempt::Split { problem, detail } => outcome.refused.push(Refusal::new(&problem, &batch[0], &detail)),
                Attempt::Done(part) => outcome.add(part),
                Attempt::Away { why, .. } => return Err(why),
            }
        }
        Ok(outcome)
    }

    async fn patiently(&self, batch: &[Line]) -> Result<Attempt> {
        let deadline = Instant::now() + self.retry_for;
        let mut pause = Duration::from_millis(200);
        loop {
            let attempt = self.attempt(batch).await?;
            let Attempt::Away { why, retry_after } = attempt else { return Ok(attempt) };
            let wait = retry_after.unwrap_or(pause).mul_f64(rand::random_range(0.7..1.3));
            if Instant::now() + wait > deadline {
                return Ok(Attempt::Away { why, retry_after });
            }
            tracing::debug!(error = &why as &dyn std::error::Error, ?wait, "trying again");
            tokio::time::sleep(wait).await;
            pause = (pause * 2).min(Duration::from_secs(10));
        }
    }

    async fn attempt(&self, batch: &[Line]) -> Result<Attempt> {
        let mut body = Vec::with_capacity(batch.iter().map(|line| line.json.len() + 1).sum::<usize>() + 2);
        body.push(b'[');
        for (index, line) in batch.iter().enumerate() {
            if index > 0 {
                body.push(b',');
            }
            body.extend_from_slice(&line.json);
        }
        body.push(b']');
        let request = self
            .client
            .post(self.url.clone())
            .bearer_auth(&self.key)
            .header(header::CONTENT_TYPE, "application/cloudevents-batch+json")
            .body(body);
        let unreachable = |error: reqwest::Error| Attempt::Away {
            why: Fault::failed(format!("the collector at {} does not answer", self.url))
                .source(error.without_url())
                .help("is it running? name another one with --url"),
            retry_after: None,
        };
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => return Ok(unreachable(error)),
        };
        let status = response.status();
        let retry_after = response
            .headers()
            .get(header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map(Duration::from_secs);
        let text = match response.bytes().await {
            Ok(text) => text,
            Err(error) => return Ok(unreachable(error)),
        };
        let answer: Answer = serde_json::from_slice(&text).unwrap_or_default();
        let detail = answer.problem.text().map_or_else(|| format!("HTTP {status}"), str::to_owned);
        match status {
            StatusCode::ACCEPTED | StatusCode::OK | StatusCode::UNPROCESSABLE_ENTITY => self.settle(batch, answer),
            StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE => {
                Ok(Attempt::Split { problem: answer.problem, detail })
            }
            StatusCode::REQUEST_TIMEOUT
            | StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => {
                let why = Fault::failed(format!("the collector at {} takes no events now: {detail}", self.url));
                Ok(Attempt::Away { why: why.help("send again later; what was accepted counts once"), retry_after })
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let fault = Fault::failed(format!("the collector at {} refuses the key: {detail}", self.url));
                Err(fault.help("make an ingest key with `daybook key create --org ORG --scope ingest`"))
            }
            _ => Err(Fault::failed(format!("the collector at {} answered {status}: {detail}", self.url))),
        }
    }

    /// Accounts for each event of an answered batch.
    fn settle(&self, batch: &[Line], answer: Answer) -> Result<Attempt> {
        let alone = answer.accepted.unwrap_or(0) == 0 && answer.rejected.is_empty() && batch.len() == 1;
        let refused: Vec<Refusal> = if alone && answer.problem.kind.is_some() {
            vec![Refusal::new(&answer.problem, &batch[0], "refused")]
        } else {
            let line = |one: &Rejected| Some(Refusal::new(&one.problem, batch.get(one.index)?, "refused"));
            answer.rejected.iter().filter_map(line).collect()
        };
        let accepted = answer.accepted.unwrap_or(0);
        if accepted + refused.len() as u64 != batch.len() as u64 {
            let fault = Fault::failed(format!(
                "the collector at {} accounts for {} of {} events",
                self.url,
                accepted + refused.len() as u64,
                batch.len()
            ));
            return Err(fault.help("is it a Daybook collector, or something in between?"));
        }
        Ok(Attempt::Done(Outcome { accepted, refused }))
    }
}
