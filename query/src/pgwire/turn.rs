//! A statement's turn: its place among those that run, its time, and its end by cancel.

use std::{
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
    vec,
};

use datafusion_postgres::pgwire::{
    api::results::QueryResponse,
    error::{PgWireError, PgWireResult},
};
use futures::{Stream, StreamExt, future::BoxFuture, stream};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, mpsc},
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::errors;
use crate::{places::Place, slow::Watch};

/// Rows made at once, at most.
const CHUNK: usize = 1024;
/// Chunks made ahead of the client.
const AHEAD: usize = 2;

/// What a statement has while it runs.
#[derive(Clone)]
pub(super) struct Turn {
    /// Its place among all statements, and its mark that the connection is busy.
    pub(super) held: Arc<(Place, OwnedSemaphorePermit)>,
    pub(super) pool: Handle,
    /// Time to run in that is left. What the client takes to read is its own.
    pub(super) left: Duration,
    pub(super) cancelled: CancellationToken,
    pub(super) watch: Arc<Watch>,
}

impl Turn {
    /// `work`, unless it is cancelled or out of time.
    pub(super) async fn run<T>(&mut self, work: impl Future<Output = PgWireResult<T>>) -> PgWireResult<T> {
        let began = Instant::now();
        let outcome = tokio::select! {
            () = self.cancelled.cancelled() => Err(PgWireError::QueryCanceled),
            outcome = timeout(self.left, work) => outcome.unwrap_or_else(|_| Err(errors::out_of_time())),
        };
        self.took(began.elapsed());
        outcome
    }

    fn took(&mut self, time: Duration) {
        self.left = self.left.saturating_sub(time);
        self.watch.worked(time);
    }

    /// The same answer, its rows made in the pool and within this turn.
    pub(super) fn rows(&self, mut answer: QueryResponse) -> QueryResponse {
        let (sender, made) = mpsc::channel(AHEAD);
        let held = self.held.clone();
        let mut rows = mem::replace(&mut answer.data_rows, stream::empty().boxed()).ready_chunks(CHUNK);
        let making = self.pool.spawn(async move {
            // The place is free when nothing is computed any more, not when nobody waits for it any more.
            let _held = held;
            while let Some(chunk) = rows.next().await {
                if sender.send(chunk).await.is_err() {
                    return;
                }
            }
        });
        let making = Some((made, AbortOnDropHandle::new(making)));
        let rows = Rows { making, chunk: Vec::new().into_iter(), turn: self.clone(), waiting: None };
        answer.data_rows = rows.boxed();
        answer
    }
}

/// Rows until the turn ends.
struct Rows<T> {
    /// Chunks of rows, and who makes them; `None` when they have ended.
    making: Option<(mpsc::Receiver<Vec<T>>, AbortOnDropHandle<()>)>,
    chunk: vec::IntoIter<T>,
    turn: Turn,
    /// Since when, and what ends it before its time.
    waiting: Option<(Instant, BoxFuture<'static, PgWireError>)>,
}

impl<T: Unpin> Stream for Rows<PgWireResult<T>> {
    type Item = PgWireResult<T>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(row) = this.chunk.next() {
                return Poll::Ready(Some(row));
            }
            let Some((made, _)) = &mut this.making else { return Poll::Ready(None) };
            let Poll::Ready(chunk) = made.poll_recv(context) else { break };
            if let Some((since, _)) = this.waiting.take() {
                this.turn.took(since.elapsed());
            }
            match chunk {
                Some(chunk) => {
                    this.turn.watch.rows(chunk.len());
                    this.chunk = chunk.into_iter();
                }
                None => this.making = None,
            }
        }
        let (left, cancelled) = (this.turn.left, &this.turn.cancelled);
        let (_, end) = this.waiting.get_or_insert_with(|| {
            let cancelled = cancelled.clone().cancelled_owned();
            let end = async move {
                tokio::select! {
                    () = cancelled => PgWireError::QueryCanceled,
                    () = sleep(left) => errors::out_of_time(),
                }
            };
            (Instant::now(), Box::pin(end))
        });
        let Poll::Ready(error) = end.as_mut().poll(context) else { return Poll::Pending };
        if let Some((since, _)) = this.waiting.take() {
            this.turn.took(since.elapsed());
        }
        this.making = None;
        Poll::Ready(Some(Err(error)))
    }
}
