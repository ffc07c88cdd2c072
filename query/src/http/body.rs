//! A response body that ends: written by a task of its own, a few chunks ahead of the client, until a deadline.
//!
//! The task holds the request's permit and rows. A client that stops reading would hold them for ever; so at the deadline
//! the task goes, and the body ends with an error, which breaks the connection: a cut-off answer never looks complete.

use std::io;

use axum::body::Body;
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

use crate::Result;

/// Chunks written ahead of the client.
const AHEAD: usize = 2;

/// Longest body that holds no permit, and piece of a longer one (bytes): about what the kernel takes of a connection before its client reads.
const PIECE: usize = 128 << 10;

/// `None` says that the body is complete.
type Message = Option<Bytes>;

/// A body of `chunks`; `permit` is given back when all are handed over or `deadline` has passed.
pub(crate) fn until(
    deadline: Instant,
    permit: impl Send + 'static,
    chunks: impl Stream<Item = Result<Bytes>> + Send + Unpin + 'static,
) -> Body {
    let (sender, receiver) = mpsc::channel::<Message>(AHEAD);
    tokio::spawn(async move {
        let _permit = permit;
        if timeout_at(deadline, send(chunks, &sender)).await.is_err() {
            tracing::warn!("a client read its answer too slowly and was cut off");
        }
    });
    Body::from_stream(stream::unfold(Some(receiver), |receiver| async move {
        let mut receiver = receiver?;
        match receiver.recv().await {
            Some(Some(chunk)) => Some((Ok(chunk), Some(receiver))),
            Some(None) => None,
            None => Some((Err(io::Error::other("the answer could not be completed")), None)),
        }
    }))
}

/// A body that is there already. What the connection takes at once is written with its length, and without a task; more is handed over in pieces, so that
/// the permit is held until the client has read all but a few.
pub(crate) fn whole(deadline: Instant, permit: impl Send + 'static, bytes: Bytes) -> Body {
    if bytes.len() <= PIECE {
        return Body::from(bytes);
    }
    let pieces = (0..bytes.len()).step_by(PIECE).map(move |at| Ok(bytes.slice(at..bytes.len().min(at + PIECE))));
    until(deadline, permit, stream::iter(pieces))
}

/// Ends early where the client is gone or a chunk cannot be made.
async fn send(mut chunks: impl Stream<Item = Result<Bytes>> + Unpin, sender: &mpsc::Sender<Message>) {
    while let Some(chunk) = chunks.next().await {
        match chunk {
            Ok(chunk) => {
                if sender.send(Some(chunk)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "an answer could not be written");
                return;
            }
        }
    }
    // Fails only where the client is gone.
    let _ = sender.send(None).await;
}
