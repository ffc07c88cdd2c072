//! Whether a record is from whom it says: the check of records that others than collectors may have written.
//!
//! ```text
//!  records ─► KeyRing::prepare ─ unknown or old key ids ─► Directory::signers        (I/O, before a batch is decoded)
//!                   └─► Door ─► decode_record ─► event, or dead letter `signature`   (pure)
//! ```
//!
//! Invariant 6 of the architecture: a record met twice has the same fate twice, whoever meets it and whenever. The
//! directory changes while records wait, so what it says is only used where it cannot change any more:
//!
//! | about a key | what is decided | why all agree |
//! |---|---|---|
//! | its organisation, its secret | | never change |
//! | revoked | records appended before `revoked_at` + [`GRACE`] are valid, later ones not | judged by the record's own append time; nothing older than [`USABLE`] is believed, so who judges a later record knows of the revocation |
//! | unknown | dead letter | the database was asked after the record was appended, and a producer cannot sign before its key is there |
//! | the directory is away | nothing: the worker waits | |
//!
//! [`GRACE`] − [`USABLE`] is what the clocks of broker and directory may differ, and a revocation may take to be committed.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use directory::{Directory, KeyId, MacKey, Signer};
use schemas::{
    OrgId,
    event::{Cause, Rejection},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

#[cfg(test)]
mod tests;

use super::{decode::header, flush::BACK_OFF_MAX};
use crate::{
    headers,
    log::Record,
    signature::{COLLECTOR, Settings, Signatures, is_signed},
};

/// A revoked key is still valid for records that were appended so long after.
const GRACE: Duration = Duration::from_secs(120);
/// What is known of a key is asked again when it is this old …
const FRESH: Duration = Duration::from_secs(30);
/// … and no longer believed when it is this old.
const USABLE: Duration = Duration::from_secs(60);
/// Keys remembered; beyond that, those are forgotten that the last batch did not have.
const KEYS_MAX: usize = 10_000;
/// Back-off while the directory is away.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// What decoding needs to know of keys. Cheap to clone; never changes.
#[derive(Clone, Debug, Default)]
pub(crate) enum Door {
    /// Who may write to the log is believed.
    #[default]
    Open,
    /// Records must be signed by one of these.
    Signed(Arc<Keys>),
}

/// Those who may sign.
#[derive(Debug)]
pub(crate) struct Keys {
    collector: MacKey,
    signers: HashMap<Box<str>, Signer>,
}

impl Door {
    /// Whether it looks at signatures.
    pub(crate) fn checks(&self) -> bool {
        matches!(self, Self::Signed(_))
    }

    /// The organisation that the record belongs to.
    ///
    /// # Errors
    /// Where it names none, or its signature is not that of somebody who may speak for it.
    pub(crate) fn organisation<'a>(&self, record: &'a Record) -> Result<&'a str, Rejection> {
        let org = header(record, headers::ORG)
            .filter(|org| OrgId::is_valid(org))
            .ok_or_else(|| Rejection::new(Cause::NoOrganisation, None, "the record carries no organisation header"))?;
        match self {
            Self::Open => Ok(org),
            Self::Signed(keys) => keys.check(record, org).map(|()| org),
        }
    }
}

impl Keys {
    fn check(&self, record: &Record, org: &str) -> Result<(), Rejection> {
        let refused = |field: &str, detail: String| Err(Rejection::new(Cause::Signature, Some(field), detail));
        let Some(id) = header(record, headers::KEY) else {
            return refused(
                headers::KEY,
                "the record is not signed: it takes the headers daybook-key and daybook-signature".into(),
            );
        };
        let mac_key = if id == COLLECTOR {
            &self.collector
        } else {
            let Some(signer) = self.signers.get(id) else {
                return refused(
                    headers::KEY,
                    "there is no such key with the scope `produce`: make one by `daybook key create --scope produce`"
                        .into(),
                );
            };
            if signer.org.as_str() != org {
                return refused(
                    headers::ORG,
                    format!("key {id} is of another organisation than the one that the record names"),
                );
            }
            let until_ms = signer.revoked_at.map(|at| at.as_millisecond().saturating_add(GRACE.as_millis() as i64));
            // A log that does not say when (-1) may say anything.
            if until_ms.is_some_and(|until| !(0..until).contains(&record.append_time_ms)) {
                return refused(
                    headers::KEY,
                    format!("key {id} was revoked before the record was appended: sign with a valid one"),
                );
            }
            if record.header(headers::RECORDED_TIME).is_some() {
                let detail = "only collectors say when a record was taken: leave the header out, and the log's append time counts";
                return refused(headers::RECORDED_TIME, detail.into());
            }
            &signer.mac_key
        };
        match is_signed(record, mac_key) {
            Some(true) => Ok(()),
            Some(false) => refused(
                headers::SIGNATURE,
                format!(
                    "the signature is not that of key {id} over this record: was it changed after it was signed? docs/producers.md gives the bytes"
                ),
            ),
            None => refused(headers::SIGNATURE, "the signature is missing, or not 64 hexadecimal digits".into()),
        }
    }
}

/// What a worker knows of keys, and asks where it does not know.
#[derive(Debug, Default)]
pub(crate) struct KeyRing {
    organisation: Option<OrgId>,
    signed: Option<Signed>,
}

#[derive(Debug)]
struct Signed {
    directory: Directory,
    collector: MacKey,
    /// With the time when the database was asked.
    known: HashMap<KeyId, (Instant, Signer)>,
    door: Door,
}

impl KeyRing {
    /// For settings without a fault.
    pub(crate) fn new(settings: &Settings, directory: Directory) -> Self {
        let signed = (settings.signatures == Signatures::Required).then(|| settings.collector_key()).flatten();
        let signed = signed.map(|collector| {
            let mut signed = Signed { directory, collector, known: HashMap::new(), door: Door::Open };
            signed.close();
            signed
        });
        Self { organisation: settings.organisation.clone(), signed }
    }

    /// Makes ready to decode these records. Where the log is one organisation's, its header is set on each record: what the
    /// record said of itself counts for nothing, the time it claims neither.
    ///
    /// # Errors
    /// Where keys must be asked for and the directory is away: nothing can be told of these records now.
    pub(crate) async fn prepare(&mut self, records: &mut [Record]) -> directory::Result<Door> {
        if let Some(org) = &self.organisation {
            let org = Bytes::copy_from_slice(org.as_str().as_bytes());
            for record in records {
                record.headers.retain(|(name, _)| name != headers::ORG && name != headers::RECORDED_TIME);
                record.headers.push((headers::ORG.into(), org.clone()));
            }
            return Ok(Door::Open);
        }
        match &mut self.signed {
            Some(signed) => signed.prepare(records).await,
            None => Ok(Door::Open),
        }
    }

    /// [`KeyRing::prepare`], again and again while the directory is away; `None` when told to stop.
    pub(crate) async fn wait(&mut self, records: &mut [Record], stop: &CancellationToken) -> Option<Door> {
        let mut patience = Patience::default();
        loop {
            match self.prepare(records).await {
                Ok(door) => return Some(door),
                Err(error) if patience.wait("keys", &error, stop).await => {}
                Err(_) => return None,
            }
        }
    }
}

/// Waits while the directory is away, longer each time.
#[derive(Default)]
pub(super) struct Patience {
    pause: Duration,
}

impl Patience {
    /// False when told to stop.
    pub(super) async fn wait(&mut self, what: &str, error: &directory::Error, stop: &CancellationToken) -> bool {
        self.pause = (self.pause * 2).clamp(PAUSE_MIN, BACK_OFF_MAX);
        let (pause, error) = (self.pause, error.to_string());
        tracing::warn!(error, ?pause, what, "the directory is away, and so no record can be judged; trying again");
        tokio::select! {
            biased;
            () = stop.cancelled() => false,
            () = tokio::time::sleep(pause) => true,
        }
    }
}

impl Signed {
    async fn prepare(&mut self, records: &[Record]) -> directory::Result<Door> {
        let ids = key_ids(records);
        let now = Instant::now();
        let age = |id: &KeyId| self.known.get(id).map(|(asked, _)| now.saturating_duration_since(*asked));
        let stale: Vec<KeyId> = ids.iter().filter(|id| age(id).is_none_or(|age| age >= FRESH)).cloned().collect();
        if stale.is_empty() {
            return Ok(self.door.clone());
        }
        match self.directory.signers(&stale).await {
            Ok(signers) => {
                self.known.extend(signers.into_iter().map(|signer| (signer.id.clone(), (now, signer))));
                if self.known.len() > KEYS_MAX {
                    self.known.retain(|id, _| ids.contains(id));
                }
                self.close();
                Ok(self.door.clone())
            }
            Err(_) if stale.iter().all(|id| age(id).is_some_and(|age| age < USABLE)) => Ok(self.door.clone()),
            Err(error) => Err(error),
        }
    }

    /// Makes the door for what is known now.
    fn close(&mut self) {
        let signers = self.known.values().map(|(_, signer)| (Box::from(signer.id.as_str()), signer.clone()));
        self.door = Door::Signed(Arc::new(Keys { collector: self.collector.clone(), signers: signers.collect() }));
    }
}

/// The key ids that stand in records; what is none is no key, whatever the directory knows.
fn key_ids(records: &[Record]) -> HashSet<KeyId> {
    let mut last: Option<&str> = None;
    let mut ids = HashSet::new();
    for id in records.iter().filter_map(|record| header(record, headers::KEY)) {
        // Most records are signed by the same few.
        if id == COLLECTOR || last == Some(id) {
            continue;
        }
        last = Some(id);
        ids.extend(id.parse::<KeyId>().ok());
    }
    ids
}
