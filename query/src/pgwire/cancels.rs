//! Who may cancel what: the process id and secret that a connection got at sign-in stop its statement, from any other connection (CancelRequest).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use datafusion_postgres::pgwire::{
    api::cancel::CancelHandler,
    messages::{cancel::CancelRequest, startup::SecretKey},
};
use tokio_util::sync::CancellationToken;

type Key = (i32, Bytes);

/// The statements at hand of all connections.
#[derive(Default)]
pub(super) struct Cancels(Mutex<HashMap<Key, CancellationToken>>);

/// A connection's right to be cancelled; ends with it.
pub(super) struct Cancellable {
    cancels: Arc<Cancels>,
    key: Key,
}

impl Cancels {
    pub(super) fn register(self: &Arc<Self>, pid: i32, secret: &SecretKey) -> Cancellable {
        Cancellable { cancels: self.clone(), key: (pid, secret.to_bytes()) }
    }
}

impl Cancellable {
    /// Another statement; the mark of the one before means nothing any more.
    pub(super) fn statement(&self) -> CancellationToken {
        let token = CancellationToken::new();
        let mut known = self.cancels.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(self.key.clone(), token.clone());
        token
    }
}

impl Drop for Cancellable {
    fn drop(&mut self) {
        self.cancels.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

#[async_trait]
impl CancelHandler for Cancels {
    async fn on_cancel_request(&self, request: CancelRequest) {
        let key = (request.pid, request.secret_key.to_bytes());
        if let Some(token) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            token.cancel();
        }
    }
}
