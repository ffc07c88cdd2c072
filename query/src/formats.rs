//! Rows as bytes: the formats that a person or program can ask for, written as a stream.
//!
//! ```text
//! RecordBatch … ──► cut to SLICE_ROWS ──► encoder ──► Bytes …
//! ```
//!
//! Memory is one batch and one encoded slice (Parquet: one row group), whatever the length of the result.

use std::mem;

use arrow::array::RecordBatch;
use bytes::Bytes;
use datafusion::physical_plan::SendableRecordBatchStream;
use futures::{Stream, StreamExt, stream};
use rows::Encoder;
pub use rows::Format;

use crate::{Error, Result};

/// Rows that are encoded at once; bounds the size of one chunk.
const SLICE_ROWS: usize = 1024;

/// `batches` in `format`, chunk by chunk. A stream that ends without an error is complete; after an error it ends.
/// Columns that share a name get `_2`, `_3`, … from the second on, since no format here can hold the name twice.
pub fn write(
    batches: SendableRecordBatchStream,
    format: Format,
) -> impl Stream<Item = Result<Bytes>> + Send + Unpin + 'static {
    let writing = Writing { batches, rest: None, state: State::Before(format) };
    Box::pin(stream::try_unfold(writing, Writing::next))
}

enum State {
    Before(Format),
    Within(Box<Encoder>),
    After,
}

struct Writing {
    batches: SendableRecordBatchStream,
    /// Rows of the current batch that are still to be encoded.
    rest: Option<RecordBatch>,
    state: State,
}

impl Writing {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>> {
        loop {
            let encoder = match &mut self.state {
                State::After => return Ok(None),
                State::Within(encoder) => encoder,
                State::Before(format) => {
                    self.state = State::Within(Box::new(
                        Encoder::start(*format, &self.batches.schema()).map_err(Error::Encode)?,
                    ));
                    continue;
                }
            };
            let bytes = if let Some(batch) = self.rest.take() {
                let rows = batch.num_rows().min(SLICE_ROWS);
                encoder.push(&batch.slice(0, rows)).map_err(Error::Encode)?;
                if rows < batch.num_rows() {
                    self.rest = Some(batch.slice(rows, batch.num_rows() - rows));
                }
                encoder.take()
            } else if let Some(batch) = self.batches.next().await {
                self.rest = Some(batch.map_err(Error::engine)?);
                continue;
            } else {
                let State::Within(encoder) = mem::replace(&mut self.state, State::After) else { unreachable!() };
                encoder.finish().map_err(Error::Encode)?
            };
            if !bytes.is_empty() {
                return Ok(Some((bytes.into(), self)));
            }
        }
    }
}
