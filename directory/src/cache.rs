//! Keys looked up lately, so that a request costs no database query.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use schemas::OrgId;
use tokio::time::Instant;

use crate::{
    OptIn, Role,
    key::{KeyId, Scope},
};

/// How long what the database said about a key is believed.
pub const CACHE_TTL: Duration = Duration::from_secs(5);
/// Most keys remembered, unknown ones included.
pub(crate) const CACHE_KEYS_MAX: usize = 10_000;

/// What the database knows of a valid key.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) org: OrgId,
    pub(crate) scope: Scope,
    pub(crate) secret_sha256: [u8; 32],
    pub(crate) rate_limit: Option<u64>,
    pub(crate) daily_quota: Option<u64>,
    pub(crate) role: Role,
    pub(crate) opt_in: OptIn,
}

/// `None` = the database knows no valid key of that id. Ids are random: none is presented before it exists.
type Answer = Option<Arc<Known>>;

#[derive(Debug, Default)]
pub(crate) struct Cache(Mutex<HashMap<KeyId, (Instant, Answer)>>);

impl Cache {
    pub(crate) fn get(&self, id: &KeyId) -> Option<Answer> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.get(id).filter(|(since, _)| since.elapsed() < CACHE_TTL).map(|(_, answer)| answer.clone())
    }

    pub(crate) fn put(&self, id: KeyId, answer: Answer) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= CACHE_KEYS_MAX {
            entries.retain(|_, (since, _)| since.elapsed() < CACHE_TTL);
        }
        // A flood of made-up keys must not drive out real ones; a flood of real ones is so many customers.
        if entries.len() >= CACHE_KEYS_MAX {
            if answer.is_none() {
                return;
            }
            entries.retain(|_, (_, answer)| answer.is_some());
        }
        if entries.len() >= CACHE_KEYS_MAX {
            entries.clear();
        }
        entries.insert(id, (Instant::now(), answer));
    }

    pub(crate) fn forget(&self, id: &KeyId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// Forgets the keys of an organisation.
    pub(crate) fn forget_all_of(&self, org: &OrgId) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|_, (_, answer)| answer.as_ref().is_none_or(|known| known.org != *org));
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}
