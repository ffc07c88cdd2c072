//! `daybook emit`.

use std::{
    fs::File,
    io::{BufRead, BufReader},
};

use futures::{StreamExt as _, TryStreamExt as _, stream};

use crate::{
    args::EmitArgs,
    fault::{During as _, Fault, Result},
    output,
    sender::{Line, Outcome, Refusal, Sender},
};

/// A batch is sent at this size, however few events it has: well below the collector's limit for a request.
const BATCH_BYTES: usize = 1 << 20;
/// Refusals that are printed one by one.
const SHOWN: usize = 100;

pub(crate) async fn run(args: &EmitArgs) -> Result<()> {
    let stdin = args.file.as_os_str() == "-";
    let name = if stdin { "standard input".to_owned() } else { format!("`{}`", args.file.display()) };
    let (input, length): (Box<dyn BufRead + Send>, Option<u64>) = if stdin {
        (Box::new(BufReader::new(std::io::stdin())), None)
    } else {
        let file = File::open(&args.file).map_err(|error| {
            Fault::usage(format!("cannot open {name}"))
                .source(error)
                .help("name an NDJSON file, or - for standard input")
        })?;
        let length = file.metadata().ok().filter(std::fs::Metadata::is_file).map(|file| file.len());
        (Box::new(BufReader::with_capacity(1 << 20, file)), length)
    };
    let sender = Sender::new(&args.url, args.key.clone(), args.retry_for.unsigned_abs())?;
    let bar = output::bytes_bar(length, "sending");
    let mut total = Outcome::default();
    let mut shown = 0;
    let mut batches = Batches { input, name, line: 0, events: args.batch as usize };
    // Reading blocks, on a file or on whoever writes into the pipe: it has a thread of its own.
    let (parts, waiting) = tokio::sync::mpsc::channel(args.parallel as usize);
    let reader = std::thread::spawn(move || {
        while let Some(part) = batches.next() {
            let ends = part.is_err();
            if parts.blocking_send(part).is_err() || ends {
                return;
            }
        }
    });
    let parts = stream::unfold(waiting, async |mut waiting| waiting.recv().await.map(|part| (part, waiting)));
    let sending = parts
        .map(|part| {
            let sender = sender.clone();
            async move {
                let Part { lines, refused, bytes } = part?;
                let mut outcome = sender.send(lines).await?;
                outcome.refused.extend(refused);
                outcome.refused.sort_by_key(|refusal| refusal.line);
                Ok::<_, Fault>((outcome, bytes))
            }
        })
        .buffered(args.parallel as usize);
    let mut sending = std::pin::pin!(sending);
    let failed = loop {
        match sending.try_next().await {
            Ok(Some((outcome, bytes))) => {
                bar.inc(bytes);
                for refusal in outcome.refused.iter().take(SHOWN.saturating_sub(shown)) {
                    let Refusal { line, cause, detail } = refusal;
                    bar.suspend(|| output::note(&format!("line {line}: {cause}: {detail}")));
                    shown += 1;
                }
                total.add(outcome);
            }
            Ok(None) => break None,
            Err(fault) => break Some(fault),
        }
    };
    bar.finish_and_clear();
    let refused = total.refused.len();
    if refused > SHOWN {
        output::note(&format!("… and {} more", refused - SHOWN));
    }
    output::text(&format!("{} accepted, {refused} refused\n", total.accepted))?;
    if let Some(fault) = failed {
        // The reader may be waiting for input that never comes; it dies with the process.
        return Err(fault);
    }
    reader.join().map_err(|_| Fault::failed("the reader panicked"))?;
    if refused > 0 {
        let fault = Fault::refused(format!("{refused} of {} events were refused", total.accepted + refused as u64));
        return Err(fault.help("correct these lines and send the file again: what was accepted counts once"));
    }
    Ok(())
}

/// Some lines of the input.
#[derive(Debug)]
struct Part {
    lines: Vec<Line>,
    /// Lines that are no JSON: in a request they would spoil their neighbours, so they are not sent.
    refused: Vec<Refusal>,
    /// Read for this part, line ends included.
    bytes: u64,
}

struct Batches {
    input: Box<dyn BufRead + Send>,
    name: String,
    line: u64,
    events: usize,
}

impl Batches {
    fn next(&mut self) -> Option<Result<Part>> {
        let mut part = Part { lines: Vec::new(), refused: Vec::new(), bytes: 0 };
        let mut size = 0;
        while part.lines.len() < self.events && size < BATCH_BYTES && part.refused.len() < 1000 {
            let mut json = Vec::new();
            let read = self.input.read_until(b'\n', &mut json).during(format!("cannot read {}", self.name));
            match read {
                Err(fault) => return Some(Err(fault)),
                Ok(0) => break,
                Ok(read) => part.bytes += read as u64,
            }
            self.line += 1;
            let json = json.trim_ascii();
            if json.is_empty() {
                continue;
            }
            match serde_json::from_slice::<&serde_json::value::RawValue>(json) {
                Ok(_) => {
                    size += json.len();
                    part.lines.push(Line { number: self.line, json: json.to_vec() });
                }
                Err(error) => {
                    let cause = if std::str::from_utf8(json).is_ok() { "not_json" } else { "not_utf8" };
                    let detail = format!("{error} (not sent)");
                    part.refused.push(Refusal { line: self.line, cause: cause.to_owned(), detail });
                }
            }
        }
        (part.bytes > 0).then_some(Ok(part))
    }
}
