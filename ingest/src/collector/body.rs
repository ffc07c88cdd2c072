//! Reading a body within its limit, and within the memory of all requests together.
//!
//! It is decompressed as it is read, so the limit on what was read is one on the decompressed size: of a bomb no more is
//! ever made than the limit. A gzip body may have several members (RFC 1952 §2.2), a zstd body several frames (RFC 8878 §3.1): all
//! are read, and what follows them and is none makes the body unreadable. Nothing is dropped in silence.

use std::time::Duration;

use async_compression::{
    tokio::bufread::{GzipDecoder, ZstdDecoder},
    zstd::DParameter,
};
use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, header},
};
use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use http_body_util::BodyExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::io::{ReaderStream, StreamReader};

use super::{Collector, endpoint::Door, problem::Problem};

/// Memory charged per byte of body: the body itself, and what is made of it.
pub(super) const COST: u64 = 2;
/// A body of unknown length is charged this much first, and the whole limit when it turns out to be longer. So slow
/// senders of small bodies, such as OTLP exporters with chunked bodies, hold little.
const FIRST_CHARGE: u64 = 64 << 10;
/// Most memory that a zstd frame may ask for to look back into, as a power of two: 8 MiB, which RFC 8878 §3.1.1.1.2 wants supported.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;
/// Decompressed bytes at a time.
const PIECE: usize = 16 << 10;
/// Of a body that is too large, this much is read on and dropped, for this long at most: else a client that is still sending
/// would see its connection break in place of the answer (RFC 9112 §9.6).
const DISCARD_MAX: u64 = 16 << 20;
const DISCARD_TIME: Duration = Duration::from_secs(2);

/// A body, and the memory that it is charged; to be kept until the answer is ready.
pub(super) struct Charged {
    pub(super) body: Bytes,
    _permits: Vec<OwnedSemaphorePermit>,
}

impl Collector {
    /// Reads the request's body, decompressed.
    pub(super) async fn read(&self, door: Door, request: Request) -> Result<Charged, Problem> {
        let limit = self.0.settings.body_limit.as_u64();
        let (head, mut body) = request.into_parts();
        let encoding = Encoding::of(&head.headers)?;
        let announced = content_length(&head.headers);
        if announced.is_some_and(|bytes| bytes > limit) {
            discard(&mut body).await;
            return Err(Problem::body_too_large(limit));
        }
        // The length of a compressed body says little about what it becomes.
        let announced = announced.filter(|_| encoding == Encoding::Identity);
        let charge = announced.unwrap_or(FIRST_CHARGE).clamp(1 << 10, limit);
        let body = encoding.decompressed(body);
        let mut permits = vec![self.charge(charge).await?];
        let reading = self.collect(body, charge, limit, &mut permits);
        let body = tokio::time::timeout(self.0.settings.read_timeout.unsigned_abs(), reading).await;
        let body = body.map_err(|_| Problem::slow_body())??;
        self.0.metrics.body_bytes.with_label_values(&[door.as_str()]).inc_by(body.len() as u64);
        Ok(Charged { body, _permits: permits })
    }

    async fn collect(
        &self,
        mut body: Body,
        mut charged: u64,
        limit: u64,
        permits: &mut Vec<OwnedSemaphorePermit>,
    ) -> Result<Bytes, Problem> {
        let mut first = Bytes::new();
        let mut collected = BytesMut::new();
        while let Some(frame) = body.frame().await {
            // A reset connection, a bad chunk, or data that is not compressed as the header says.
            let frame = frame.map_err(|error| {
                tracing::debug!(error = &error as &dyn std::error::Error, "a body could not be read");
                Problem::unreadable_body()
            })?;
            // Trailers count for nothing.
            let Ok(data) = frame.into_data() else { continue };
            let length = (first.len() + collected.len() + data.len()) as u64;
            if length > limit {
                drop((first, collected));
                discard(&mut body).await;
                return Err(Problem::body_too_large(limit));
            }
            if length > charged {
                permits.push(self.charge(limit - charged).await?);
                charged = limit;
            }
            // Most bodies are one frame, which needs no copy.
            if first.is_empty() && collected.is_empty() {
                first = data;
                continue;
            }
            if collected.is_empty() {
                collected.reserve(first.len() + data.len());
                collected.extend_from_slice(&std::mem::take(&mut first));
            }
            collected.extend_from_slice(&data);
        }
        Ok(if collected.is_empty() { first } else { collected.freeze() })
    }

    /// Charges for `bytes` of body, waiting shortly where memory is short. Two requests that wait for their second charge may block
    /// each other; the limit on waiting ends that.
    async fn charge(&self, bytes: u64) -> Result<OwnedSemaphorePermit, Problem> {
        let permits = u32::try_from((bytes * COST).div_ceil(1 << 10)).expect("at most in_flight_limit, 2^40 bytes");
        let waiting = Semaphore::acquire_many_owned(self.0.memory.clone(), permits);
        match tokio::time::timeout(self.0.settings.queue_wait.unsigned_abs(), waiting).await {
            Ok(permit) => Ok(permit.expect("the semaphore is never closed")),
            Err(_) => Err(Problem::busy()),
        }
    }
}

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Identity,
    Gzip,
    Zstd,
}

impl Encoding {
    fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let mut encodings = headers.get_all(header::CONTENT_ENCODING).iter();
        let Some(encoding) = encodings.next() else { return Ok(Self::Identity) };
        let is = |name: &str| encoding.as_bytes().eq_ignore_ascii_case(name.as_bytes());
        match () {
            // One upon another: nobody does, and it would be a bomb in a bomb.
            () if encodings.next().is_some() => Err(Problem::content_encoding()),
            () if is("identity") => Ok(Self::Identity),
            // RFC 9110 §8.4.1.3: they are the same.
            () if is("gzip") || is("x-gzip") => Ok(Self::Gzip),
            () if is("zstd") => Ok(Self::Zstd),
            () => Err(Problem::content_encoding()),
        }
    }

    fn decompressed(self, body: Body) -> Body {
        let compressed =
            |body: Body| StreamReader::new(TryStreamExt::map_err(body.into_data_stream(), std::io::Error::other));
        match self {
            Self::Identity => body,
            Self::Gzip => {
                let mut decoder = GzipDecoder::new(compressed(body));
                decoder.multiple_members(true);
                Body::from_stream(ReaderStream::with_capacity(decoder, PIECE))
            }
            Self::Zstd => {
                let window = DParameter::window_log_max(ZSTD_WINDOW_LOG_MAX);
                let mut decoder = ZstdDecoder::with_params(compressed(body), &[window]);
                decoder.multiple_members(true);
                Body::from_stream(ReaderStream::with_capacity(decoder, PIECE))
            }
        }
    }
}

/// Reads on and keeps nothing.
async fn discard(body: &mut Body) {
    let reading = async {
        let mut left = DISCARD_MAX;
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len) as u64;
            if length >= left {
                return;
            }
            left -= length;
        }
    };
    // Whoever sends more, or more slowly, gets its answer over a broken connection, if at all.
    drop(tokio::time::timeout(DISCARD_TIME, reading).await);
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
