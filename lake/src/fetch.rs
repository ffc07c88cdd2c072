//! Small files, fetched whole: a request for each, several at a time. A scan asks for a footer first and then for the columns, which for
//! the files of one commit takes longer than what it saves.

use arrow::array::RecordBatch;
use datafusion::{error::DataFusionError, execution::SendableRecordBatchStream, prelude::SessionContext};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use parquet::{
    arrow::{ProjectionMask, arrow_reader::ParquetRecordBatchReaderBuilder},
    errors::ParquetError,
};

use crate::{DataFile, Error, Result, Table, layout};

/// Files up to this size are fetched whole, so many at a time.
const WHOLE_MAX_BYTES: u64 = 4 << 20;
const FETCHED_AT_ONCE: usize = 8;

impl Table {
    /// Rows of `files` with these columns, in the order of the files. Types are those of the files: text may be `Utf8` or a view. The
    /// partition column is not among them.
    pub fn read_newest<'a>(
        &'a self,
        files: Vec<DataFile>,
        columns: &'a [&'a str],
    ) -> impl Stream<Item = Result<RecordBatch>> + Send + 'a {
        let batches = stream::iter(files).map(move |file| async move {
            if file.size_bytes > WHOLE_MAX_BYTES {
                let scan: SendableRecordBatchStream = self.read(&SessionContext::new(), vec![file], columns)?;
                return Ok::<_, Error>(scan.map_err(Error::Scan).left_stream());
            }
            let location = layout::location(self.folder(), &file.path);
            let bytes = self.place().get(&location).await.map_err(|source| Error::store(&location, source))?;
            let corrupt = |error: ParquetError| Error::Scan(DataFusionError::ParquetError(Box::new(error)));
            let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(corrupt)?;
            let mask = ProjectionMask::columns(builder.parquet_schema(), columns.iter().copied());
            let reader = builder.with_projection(mask).build().map_err(corrupt)?;
            Ok(stream::iter(reader).map_err(|error| Error::Scan(error.into())).right_stream())
        });
        batches.buffered(FETCHED_AT_ONCE).try_flatten()
    }
}
