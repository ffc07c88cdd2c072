//! The bugs.

use super::Bug;

const WORKER: &str = "ingest/src/worker/worker.rs";
const FLUSH: &str = "ingest/src/worker/flush.rs";
const INTAKE: &str = "ingest/src/worker/intake.rs";
const KNOWN: &str = "ingest/src/worker/known.rs";
const BUFFER: &str = "ingest/src/worker/buffer.rs";
const LOCAL: &str = "ingest/src/log/local.rs";
const COMMIT: &str = "lake/src/commit.rs";
const WRITE: &str = "lake/src/write.rs";

pub(super) static BUGS: &[Bug] = &[
    Bug {
        name: "next_offset is the last record's offset",
        file: WORKER,
        edits: &[("position.next = record.offset + 1;", "position.next = record.offset;")],
    },
    Bug {
        name: "next_offset skips a record",
        file: WORKER,
        edits: &[("position.next = record.offset + 1;", "position.next = record.offset + 2;")],
    },
    Bug {
        name: "offsets are committed before the rows",
        file: WORKER,
        edits: &[(
            "            Event::Records(records) => {\n",
            "            Event::Records(records) => {\n                for record in &records {\n                    \
             drop(self.log.truncate(record.kafka_partition, record.offset + 1).await);\n                }\n",
        )],
    },
    Bug {
        name: "the log is freed beyond what the commit covers",
        file: WORKER,
        edits: &[("map(|(p, at)| (*p, at.covered))", "map(|(p, at)| (*p, at.next))")],
    },
    Bug {
        name: "what the log lost is not counted",
        file: FLUSH,
        edits: &[("swaps: swaps.chain(lost).collect(),", "swaps: swaps.chain(lost.into_iter().take(0)).collect(),")],
    },
    Bug {
        name: "a refused batch counts as committed",
        file: WORKER,
        edits: &[("Outcome::Fenced => self.start_again(consumer).await,", "Outcome::Fenced => Ok(()),")],
    },
    Bug {
        name: "after a refusal the buffer is kept",
        file: WORKER,
        edits: &[(
            "        self.filling = Filling::new();\n        self.held.clear();\n        let partitions: Vec<i32>",
            "        let partitions: Vec<i32>",
        )],
    },
    Bug {
        name: "after a refusal the log is read on from where it was",
        file: WORKER,
        edits: &[(
            "consumer.seek(*partition, *next_offset).await.map_err(Error::Log)?;",
            "let _ = (&consumer, partition, next_offset);",
        )],
    },
    Bug {
        name: "a gap is jumped over in silence",
        file: WORKER,
        edits: &[("self.filling.gaps.push((kafka_partition, from, to));", "")],
    },
    Bug {
        name: "dead letters are committed after the events",
        file: FLUSH,
        edits: &[
            (
                "        if !batch.dead_letters.is_empty() && !written.letters_durable {\n            \
                 self.commit_dead_letters(batch, written).await?;\n            written.letters_durable = true;\n        }\n",
                "",
            ),
            (
                "        self.commit_events(batch, change).await\n",
                "        self.commit_events(batch, change).await?;\n        if batch.dead_letters.is_empty() { Ok(()) } else { \
                 self.commit_dead_letters(batch, written).await }\n",
            ),
        ],
    },
    Bug {
        name: "dead letters do not ask which of them are there",
        file: FLUSH,
        edits: &[(
            "is_conflict(letter) || letter.record.offset >= stored(letter.record.kafka_partition)",
            "is_conflict(letter) || letter.record.offset >= 0",
        )],
    },
    Bug {
        name: "the first dead letter behind the stored offset is skipped",
        file: FLUSH,
        edits: &[(
            "letter.record.offset >= stored(letter.record.kafka_partition)",
            "letter.record.offset > stored(letter.record.kafka_partition)",
        )],
    },
    Bug {
        name: "only one partition's offset is committed",
        file: FLUSH,
        edits: &[("swaps: swaps.chain(lost).collect(),", "swaps: swaps.take(1).chain(lost).collect(),")],
    },
    Bug {
        name: "a table commit that failed for good counts as done",
        file: FLUSH,
        edits: &[("Err(error) => Err(Failure::Store(error.into())),", "Err(_) => Ok(0),")],
    },
    Bug {
        name: "ids are not asked for",
        file: KNOWN,
        edits: &[(
            "self.young.get(&key).or_else(|| self.old.get(&key)).copied()",
            "self.young.get(&key).filter(|_| false).copied()",
        )],
    },
    Bug {
        name: "ids are forgotten at a restart (F29)",
        file: KNOWN,
        edits: &[(
            "known.fill().await?;",
            "let head = known.table.head().await?;\n        known.lock().version = head.map_or(-1, |head| head.version());",
        )],
    },
    Bug {
        name: "ids of other workers are not taken in",
        file: KNOWN,
        edits: &[(
            "                    self.take_in(news.added).await?;\n                    self.lock().version",
            "                    drop(news);\n                    self.lock().version",
        )],
    },
    Bug {
        name: "a batch is not compared with what others committed meanwhile",
        file: FLUSH,
        edits: &[("known.arrivals() != batch.arrivals &&", "known.arrivals() == u64::MAX &&")],
    },
    Bug {
        name: "a commit does not ask whether others were faster",
        file: FLUSH,
        edits: &[(
            "Change { only_after, ..change.clone() }",
            "Change { only_after: only_after.filter(|_| false), ..change.clone() }",
        )],
    },
    Bug {
        name: "two events of one batch may have one id",
        file: INTAKE,
        edits: &[("            Some(_) => Verdict::Held,", "            Some(_) => Verdict::Copy,")],
    },
    Bug {
        name: "records that were held back count as covered",
        file: WORKER,
        edits: &[("                position.next = offset;", "                let _ = (position, offset);")],
    },
    Bug {
        name: "conflicts that are written already are not asked for",
        file: WORKER,
        edits: &[(
            "            settled |= is_settled;\n            !is_settled",
            "            settled |= is_settled;\n            true",
        )],
    },
    Bug {
        name: "a day's last row is cut off",
        file: BUFFER,
        edits: &[("all.slice(start, length)", "all.slice(start, length.max(2) - 1)")],
    },
    Bug {
        name: "reading starts one behind the stored offset (F01)",
        file: LOCAL,
        edits: &[("found.get(&partition).copied().unwrap_or(0))", "found.get(&partition).map_or(0, |next| next + 1))")],
    },
    Bug {
        name: "swaps are not checked (F07)",
        file: COMMIT,
        edits: &[("if found != swap.expected {", "if found < 0 {")],
    },
    Bug {
        name: "swaps are not checked again when another was faster (F04)",
        file: COMMIT,
        edits: &[(
            "            check(head, change)?;\n            if entry.redefines()",
            "            if entry.redefines()",
        )],
    },
    Bug {
        name: "an unknown outcome counts as committed",
        file: COMMIT,
        edits: &[(
            "                Ok(Err(error)) => Some(error),",
            "                Ok(Err(_)) => return Ok(landed(head, &change, now_ms)),",
        )],
    },
    Bug {
        name: "whoever already exists is taken for us (F09)",
        file: COMMIT,
        edits: &[(
            "| object_store::Error::Precondition { .. })) => None,",
            "| object_store::Error::Precondition { .. })) => \
                   return Ok(landed(head, &change, now_ms)),",
        )],
    },
    Bug {
        name: "files of an unknown outcome are deleted (F06)",
        file: COMMIT,
        edits: &[(
            "            if let Some(error) = &last {\n",
            "            if let Some(error) = &last {\n                for file in &files {\n                    \
             drop(object_store::ObjectStoreExt::delete(&self.place.store, file).await);\n                }\n",
        )],
    },
    Bug {
        name: "an unknown outcome is not looked up: the next version is tried (F05)",
        file: COMMIT,
        edits: &[(
            "match self.settle(head, &id, &change).await {",
            "head.state.version += 1;\n            match Ok(false) {",
        )],
    },
    Bug {
        name: "a file counts as written whatever the store says (F32)",
        file: WRITE,
        edits: &[(
            "place.store.put(&location, bytes.into()).await.map_err(|source| Error::store(&location, source))?;",
            "drop(place.store.put(&location, bytes.into()).await);",
        )],
    },
];
