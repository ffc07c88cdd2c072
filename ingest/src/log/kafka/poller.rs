//! The thread that does nothing but poll.
//!
//! ```text
//!            rebalance (inside poll): Positions ─► incremental_assign with explicit offsets ─► Assigned
//!                                     Revoked ─► the worker flushes, up to a limit ─► incremental_unassign
//! poll ──► record ─► batch ─► [full or idle] ─► Inbox         budget spent ─► wait ─► pause, poll on ─► resume
//!      └─► offset out of range ─► watermarks ─► Gap, or the same offset again
//! ```
//!
//! It knows the next offset of each partition it owns, and drops whatever is not at or after it; so no record can be handed out twice or
//! before its position is known, whatever the client below does.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, mpsc};
use std::time::{Duration, Instant};

use rdkafka::Offset;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use tokio::sync::mpsc as channel;

use super::consumer::Command;
use super::flow::{Budget, Item};
use super::membership::{Action, Membership, give_up, offsets_list};
use super::watchdog::{Seen, Verdict, Watchdog};
use super::{KafkaSettings, access, sort_error, topic_id};
use crate::log::batch::BatchBuilder;
use crate::log::{Error, Event, Result};

/// A batch is handed over at this size, or earlier when there is nothing more to poll.
const BATCH_BYTES: usize = 4 << 20;
/// Commands are looked at after so many records at the latest.
const COMMAND_RECORDS: usize = 1024;
const IDLE_POLL: Duration = Duration::from_millis(50);
const PAUSED_POLL: Duration = Duration::from_millis(20);
/// A full buffer is waited for this long before the partitions are paused: pausing throws away what librdkafka has prefetched.
const PAUSE_AFTER: Duration = Duration::from_millis(500);
const SEEK_LIMIT: Duration = Duration::from_secs(5);
/// A position above the high watermark must be seen this often to be believed: after an election a leader's may lag.
const BEYOND_END_CONFIRMATIONS: u32 = 5;
const CHECK_SOON: Duration = Duration::from_millis(100);
const CHECK_AGAIN: Duration = Duration::from_millis(500);
const CHECK_LIMIT: Duration = Duration::from_secs(10);
/// How long a revocation waits for the worker to flush; far below `max.poll.interval.ms`, which bounds the whole rebalance.
const RELEASE_LIMIT: Duration = Duration::from_secs(10);
/// A consumer that has been served is told of brokers that refuse it, once they have done so for this long: a restart may end it.
const REFUSED_LIMIT: Duration = Duration::from_secs(60);
/// How often the broker is asked where partitions end, for those that do not learn of it by themselves.
const ENDS_EVERY: Duration = Duration::from_secs(15);
const ENDS_LIMIT: Duration = Duration::from_secs(2);
const WATERMARK_LIMIT: Duration = Duration::from_secs(2);
/// How often it is made sure that the topic was not recreated (F24): without being told, and when an error hints at it.
const IDENTITY_EVERY: Duration = Duration::from_secs(15);
const IDENTITY_AFTER_ERROR: Duration = Duration::from_secs(5);

/// The thread's state. `next` is indexed by partition; -1 = not ours.
pub(super) struct Poller {
    consumer: BaseConsumer<Membership>,
    settings: Arc<KafkaSettings>,
    identity: String,
    items: channel::UnboundedSender<Item>,
    commands: mpsc::Receiver<Command>,
    budget: Arc<Budget>,
    batch: BatchBuilder,
    /// Bytes and records of the batch before, as a guess for the next.
    last_batch: (usize, usize),
    next: Vec<i64>,
    /// Partitions whose position may be outside the log, and how often it was seen beyond the end.
    to_check: VecDeque<i32>,
    beyond_end: BTreeMap<i32, u32>,
    check_at: Option<Instant>,
    paused: bool,
    /// Partitions that are given up when the worker has flushed, or at this time.
    releasing: Option<(Vec<i32>, Instant)>,
    watchdog: Watchdog,
    ends_asked: Option<Instant>,
    opened: Instant,
    /// Whether a record or an assignment ever came.
    served: bool,
    identity_asked: Instant,
    identity_answer: (mpsc::Sender<Result<String>>, mpsc::Receiver<Result<String>>),
}

/// The loop goes on, or ends.
type Flow = std::ops::ControlFlow<()>;
const GO_ON: Flow = Flow::Continue(());
const END: Flow = Flow::Break(());

impl Poller {
    pub(super) fn new(
        consumer: BaseConsumer<Membership>,
        settings: Arc<KafkaSettings>,
        identity: String,
        items: channel::UnboundedSender<Item>,
        commands: mpsc::Receiver<Command>,
        budget: Arc<Budget>,
    ) -> Self {
        let watchdog = Watchdog::new(settings.stall_after.unsigned_abs());
        Self {
            consumer,
            settings,
            identity,
            items,
            commands,
            budget,
            batch: BatchBuilder::default(),
            last_batch: (0, 0),
            next: Vec::new(),
            to_check: VecDeque::new(),
            beyond_end: BTreeMap::new(),
            check_at: None,
            paused: false,
            releasing: None,
            watchdog,
            ends_asked: None,
            opened: Instant::now(),
            served: false,
            identity_asked: Instant::now(),
            identity_answer: mpsc::channel(),
        }
    }

    /// Polls until the consumer is closed or fails.
    pub(super) fn run(&mut self) {
        if let Err(error) = self.poll_until_closed() {
            self.flush();
            let _ = self.items.send(Item::Failed(error));
        }
        // From here on the callback gives up by itself what it is told to: nobody polls for us.
        self.consumer.context().closing.store(true, Ordering::Relaxed);
        self.release();
    }

    fn poll_until_closed(&mut self) -> Result<()> {
        loop {
            if self.serve_commands()?.is_break() {
                return Ok(());
            }
            self.hold_back()?;
            if self.check_at.is_some_and(|at| at <= Instant::now()) {
                self.check_positions()?;
            }
            for _ in 0..COMMAND_RECORDS {
                let limit = match (self.batch.is_empty(), self.paused) {
                    (false, _) => Duration::ZERO,
                    (true, true) => PAUSED_POLL,
                    (true, false) => IDLE_POLL,
                };
                let failure = match self.consumer.poll(limit) {
                    Some(Ok(message)) => {
                        take(&mut self.batch, &mut self.next, &message);
                        if self.batch.len() < self.settings.batch_records && self.batch.bytes() < BATCH_BYTES {
                            continue;
                        }
                        None
                    }
                    Some(Err(error)) => Some(error),
                    None => None,
                };
                // The batch is full, or there is nothing more to be had at once, or an error or a rebalance came after it.
                self.flush();
                if let Some(error) = failure {
                    self.handle(error)?;
                }
                break;
            }
            if self.consumer.context().news.swap(false, Ordering::Relaxed) {
                self.report_rebalance()?;
                self.watch()?;
            }
            if let Some((_, until)) = &self.releasing
                && (*until <= Instant::now() || self.consumer.assignment_lost())
            {
                tracing::info!("partitions are given up before what is read of them is flushed");
                self.release();
            }
        }
    }

    fn serve_commands(&mut self) -> Result<Flow> {
        self.ask_identity(IDENTITY_EVERY);
        // An answer that failed says nothing: the topic may be gone for a moment, or the brokers.
        if let Ok(Ok(found)) = self.identity_answer.1.try_recv() {
            self.compare_identity(found)?;
        }
        loop {
            match self.commands.try_recv() {
                Ok(Command::Seek { kafka_partition, next_offset, token }) => {
                    self.flush();
                    if self.owned(kafka_partition).is_some() {
                        self.reposition(kafka_partition, next_offset)?;
                    }
                    let _ = self.items.send(Item::Sought { kafka_partition, token });
                }
                Ok(Command::Commit(next_offsets)) => {
                    let ours = next_offsets.into_iter().filter(|(partition, _)| self.owned(*partition).is_some());
                    let list = offsets_list(&self.settings.topic, ours)?;
                    if list.count() > 0
                        && let Err(error) = self.consumer.commit(&list, CommitMode::Async)
                    {
                        tracing::debug!(%error, "group offset commit failed; it only shows lag");
                    }
                }
                Ok(Command::Released) => self.release(),
                #[cfg(test)]
                Ok(Command::Stop(partition)) => {
                    let list = offsets_list(&self.settings.topic, std::iter::once((partition, 0)))?;
                    self.consumer.pause(&list).expect("it is ours");
                }
                Ok(Command::Close) | Err(mpsc::TryRecvError::Disconnected) => return Ok(END),
                Err(mpsc::TryRecvError::Empty) => return Ok(GO_ON),
            }
        }
    }

    fn owned(&self, kafka_partition: i32) -> Option<i64> {
        usize::try_from(kafka_partition).ok().and_then(|index| self.next.get(index)).copied().filter(|next| *next >= 0)
    }

    fn all_owned(&self) -> Vec<(i32, i64)> {
        let owned = self.next.iter().enumerate().filter(|(_, next)| **next >= 0);
        owned.map(|(partition, next)| (partition as i32, *next)).collect()
    }

    fn flush(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let (bytes, records) = (self.batch.bytes(), self.batch.len());
        let guess = (bytes.max(self.last_batch.0).min(BATCH_BYTES + (64 << 10)), records.max(self.last_batch.1));
        self.last_batch = (bytes, records);
        let full = std::mem::replace(&mut self.batch, BatchBuilder::with_capacity(guess.0, guess.1));
        self.budget.spend(bytes, records);
        let _ = self.items.send(Item::Batch { records: full.finish(), bytes });
    }

    /// Back-pressure: waits a little, then pauses and polls on, so that the group keeps us (F18) and memory stays bounded (F19).
    fn hold_back(&mut self) -> Result<()> {
        if self.paused {
            if self.budget.has_room() {
                self.set_paused(false)?;
            }
            return Ok(());
        }
        if !self.batch.is_empty() || !self.budget.is_spent() {
            return Ok(());
        }
        let started = Instant::now();
        while self.budget.is_spent() {
            if started.elapsed() > PAUSE_AFTER || self.consumer.context().closing.load(Ordering::Relaxed) {
                return self.set_paused(true);
            }
            std::thread::park_timeout(PAUSED_POLL);
        }
        Ok(())
    }

    fn set_paused(&mut self, paused: bool) -> Result<()> {
        let list = offsets_list(&self.settings.topic, self.all_owned().into_iter())?;
        let done = if paused { self.consumer.pause(&list) } else { self.consumer.resume(&list) };
        done.map_err(|e| sort_error("pause or resume partitions", e))?;
        self.paused = paused;
        tracing::debug!(paused, "consumer buffer");
        Ok(())
    }

    fn report_rebalance(&mut self) -> Result<()> {
        let context = self.consumer.context();
        let actions = std::mem::take(&mut *context.actions.lock().unwrap_or_else(PoisonError::into_inner));
        if actions.is_empty() {
            return Ok(());
        }
        for action in actions {
            let event = match action {
                Action::Failed(error) => return Err(error),
                Action::Assigned(partitions) => {
                    self.served = true;
                    for (partition, next_offset) in &partitions {
                        let index = *partition as usize;
                        if self.next.len() <= index {
                            self.next.resize(index + 1, -1);
                        }
                        self.next[index] = *next_offset;
                    }
                    Event::Assigned(partitions)
                }
                Action::Revoked(partitions) => {
                    self.forget(&partitions);
                    Event::Revoked(partitions)
                }
                Action::Release(partitions) => {
                    // A revocation of nothing is answered at once, as there is nothing to flush.
                    let patience = if partitions.is_empty() { Duration::ZERO } else { RELEASE_LIMIT };
                    self.forget(&partitions);
                    self.releasing = Some((partitions.clone(), Instant::now() + patience));
                    Event::Revoked(partitions)
                }
            };
            let empty = matches!(&event, Event::Assigned(p) if p.is_empty())
                || matches!(&event, Event::Revoked(p) if p.is_empty());
            if !empty {
                let _ = self.items.send(Item::Event(event));
            }
        }
        // New partitions come unpaused.
        if self.paused { self.set_paused(true) } else { Ok(()) }
    }

    /// Nothing more of these partitions is handed out.
    fn forget(&mut self, partitions: &[i32]) {
        for partition in partitions {
            self.beyond_end.remove(partition);
            if let Some(next) = self.next.get_mut(*partition as usize) {
                *next = -1;
            }
        }
        self.budget.standing.high_watermarks().retain(|partition, _| !partitions.contains(partition));
    }

    /// Gives up what was revoked, so that the group goes on.
    fn release(&mut self) {
        let Some((partitions, _)) = self.releasing.take() else { return };
        if let Ok(list) = offsets_list(&self.settings.topic, partitions.into_iter().map(|partition| (partition, 0))) {
            give_up(&self.consumer, &list);
        }
    }

    /// Looks at what librdkafka last reported: for the lag, and for partitions that have stopped.
    fn watch(&mut self) -> Result<()> {
        let context = self.consumer.context();
        let Some(seen) = context.statistics.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return Ok(());
        };
        let ours: Vec<(i64, Seen)> =
            seen.into_iter().filter_map(|seen| Some((self.owned(seen.partition)?, seen))).collect();
        let ends = ours.iter().filter(|(_, seen)| seen.high >= 0).map(|(_, seen)| (seen.partition, seen.high));
        self.note_ends(ends);
        let now = Instant::now();
        if self.paused || self.releasing.is_some() || !self.to_check.is_empty() || self.budget.is_spent() {
            self.watchdog.excuse();
            // What is not fetched does not learn of its end; nobody waits for us now.
            if self.paused {
                let all = self.all_owned().into_iter().map(|(partition, _)| partition);
                self.ask_ends(all.collect());
            }
            return Ok(());
        }
        let judged = ours.iter().map(|(next, seen)| (*next, *seen, self.watchdog.judge(now, *next, *seen, None)));
        let mut judged: Vec<_> = judged.filter(|(_, _, verdict)| *verdict != Verdict::Fine).collect();
        let unknown = judged.iter().filter(|(_, _, verdict)| *verdict == Verdict::AskEnd);
        let ends = self.ask_ends(unknown.map(|(_, seen, _)| seen.partition).collect());
        for (next, seen, verdict) in &mut judged {
            if let Some(end) = ends.get(&seen.partition) {
                *verdict = self.watchdog.judge(now, *next, *seen, Some(*end));
            }
        }
        for (next_offset, Seen { partition, .. }, verdict) in judged {
            match verdict {
                Verdict::Fine | Verdict::AskEnd => {}
                Verdict::Restart => self.restart(partition, next_offset)?,
                Verdict::GiveUp => {
                    let topic = self.settings.topic.clone();
                    return Err(Error::Stalled { topic, kafka_partition: partition, next_offset });
                }
            }
        }
        Ok(())
    }

    fn note_ends(&self, ends: impl Iterator<Item = (i32, i64)>) {
        let mut known = self.budget.standing.high_watermarks();
        for (partition, end) in ends {
            let known = known.entry(partition).or_insert(end);
            *known = end.max(*known);
        }
    }

    /// The ends of these partitions, asked of their leaders at once, now and then.
    fn ask_ends(&mut self, partitions: Vec<i32>) -> BTreeMap<i32, i64> {
        if partitions.is_empty() || self.ends_asked.is_some_and(|at| at.elapsed() < ENDS_EVERY) {
            return BTreeMap::new();
        }
        self.ends_asked = Some(Instant::now());
        let mut list = rdkafka::TopicPartitionList::with_capacity(partitions.len());
        for partition in partitions {
            // In place of a time: the end (ListOffsets, KIP-79).
            let _ = list.add_partition_offset(&self.settings.topic, partition, Offset::End);
        }
        let answer = self.consumer.offsets_for_times(list, ENDS_LIMIT);
        let Ok(answer) = answer else { return BTreeMap::new() };
        let end = |element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| match element.offset() {
            Offset::Offset(end) if element.error().is_ok() => Some((element.partition(), end)),
            _ => None,
        };
        let ends: BTreeMap<i32, i64> = answer.elements().iter().filter_map(end).collect();
        self.note_ends(ends.iter().map(|(partition, end)| (*partition, *end)));
        ends
    }

    /// Starts a partition anew that has stopped.
    fn restart(&mut self, partition: i32, next_offset: i64) -> Result<()> {
        tracing::warn!(partition, next_offset, "a partition with records brings none and is started anew");
        self.flush();
        let list = offsets_list(&self.settings.topic, std::iter::once((partition, next_offset)))?;
        if let Err(error) = self.consumer.resume(&list) {
            tracing::debug!(%error, partition, "not resumed");
        }
        self.reposition(partition, next_offset)?;
        self.watchdog.restarted(partition, Instant::now());
        self.budget.standing.restarts.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn handle(&mut self, error: KafkaError) -> Result<()> {
        use RDKafkaErrorCode as Code;
        let code = error.rdkafka_error_code();
        match code {
            _ if matches!(error, KafkaError::MessageConsumptionFatal(_)) => Err(Error::fatal("consume", error)),
            Some(Code::AutoOffsetReset) => {
                // librdkafka does not say of which partition, and has stopped fetching it: all of ours are looked at. A little later,
                // because where retention overtook one partition, more errors are on their way.
                let all = self.all_owned().into_iter().map(|(partition, _)| partition);
                let new: Vec<i32> = all.filter(|partition| !self.to_check.contains(partition)).collect();
                self.to_check.extend(new);
                self.check_at.get_or_insert(Instant::now() + CHECK_SOON);
                Ok(())
            }
            Some(
                Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition | Code::UnknownTopicId,
            ) => {
                self.ask_identity(IDENTITY_AFTER_ERROR);
                Ok(())
            }
            Some(Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed) => {
                Err(Error::fatal(format!("consume topic {}", self.settings.topic), error))
            }
            Some(code) if access::is_refusal(code) => {
                let access = &self.consumer.context().access;
                if self.served && access.refused_for() < REFUSED_LIMIT {
                    return Ok(());
                }
                Err(access.failure(format!("consume topic {}", self.settings.topic), error, self.opened))
            }
            // librdkafka goes on by itself: brokers away, poll interval exceeded (it joins again).
            _ => Ok(()),
        }
    }

    /// After an offset out of range: compares positions with watermarks. A position inside was refused in passing (F17) and is set again;
    /// one outside is a gap. Ends after a while, so that polling goes on; what is left comes next time.
    fn check_positions(&mut self) -> Result<()> {
        self.flush();
        self.check_at = None;
        let started = Instant::now();
        for _ in 0..self.to_check.len() {
            if started.elapsed() > CHECK_LIMIT {
                break;
            }
            let Some(partition) = self.to_check.pop_front() else { break };
            let Some(next) = self.owned(partition) else { continue };
            let Ok((low, high)) = self.consumer.fetch_watermarks(&self.settings.topic, partition, WATERMARK_LIMIT)
            else {
                self.to_check.push_back(partition);
                continue;
            };
            let to = next.clamp(low, high.max(low));
            if to < next && !self.is_beyond_end(partition)? {
                self.to_check.push_back(partition);
                continue;
            }
            self.beyond_end.remove(&partition);
            self.reposition(partition, to)?;
            if to != next {
                let _ = self.items.send(Item::Event(Event::Gap { kafka_partition: partition, from: next, to }));
            }
        }
        if !self.to_check.is_empty() {
            self.check_at = Some(Instant::now() + CHECK_AGAIN);
        }
        Ok(())
    }

    /// Whether it is certain that the log ends below our position, and that it is still the same log.
    fn is_beyond_end(&mut self, partition: i32) -> Result<bool> {
        let seen = self.beyond_end.entry(partition).or_default();
        *seen += 1;
        if *seen < BEYOND_END_CONFIRMATIONS {
            return Ok(false);
        }
        match topic_id::fetch_identity(&self.settings, &self.consumer.context().access) {
            Ok(found) => self.compare_identity(found).map(|()| true),
            Err(_) => Ok(false),
        }
    }

    /// Has the topic's id fetched elsewhere, at most once in `every`; [`Self::serve_commands`] finds the answer.
    fn ask_identity(&mut self, every: Duration) {
        if self.identity_asked.elapsed() < every {
            return;
        }
        self.identity_asked = Instant::now();
        let (settings, answer) = (self.settings.clone(), self.identity_answer.0.clone());
        let access = self.consumer.context().access.clone();
        let ask = move || answer.send(topic_id::fetch_identity(&settings, &access));
        self.consumer.context().runtime.spawn_blocking(ask);
    }

    fn compare_identity(&self, found: String) -> Result<()> {
        if found == self.identity {
            return Ok(());
        }
        Err(Error::Recreated { topic: self.settings.topic.clone(), expected: self.identity.clone(), found })
    }

    /// Continues a partition at `next_offset`. A seek is refused while the partition is not being fetched (after an offset out of range);
    /// assigning it anew always works.
    fn reposition(&mut self, kafka_partition: i32, next_offset: i64) -> Result<()> {
        let topic = &self.settings.topic;
        self.next[kafka_partition as usize] = next_offset;
        if self.consumer.seek(topic, kafka_partition, Offset::Offset(next_offset), SEEK_LIMIT).is_ok() {
            return Ok(());
        }
        let list = offsets_list(topic, std::iter::once((kafka_partition, next_offset)))?;
        let assigned = self.consumer.incremental_unassign(&list).and_then(|()| self.consumer.incremental_assign(&list));
        assigned.map_err(|e| sort_error(format!("seek {topic}/{kafka_partition} to {next_offset}"), e))?;
        if self.paused { self.set_paused(true) } else { Ok(()) }
    }
}

/// Copies one record into the batch, unless it is not ours or was handed out before.
fn take(batch: &mut BatchBuilder, next: &mut [i64], message: &BorrowedMessage<'_>) {
    let (partition, offset) = (message.partition(), message.offset());
    let Some(next) = usize::try_from(partition).ok().and_then(|index| next.get_mut(index)) else { return };
    if *next < 0 || offset < *next {
        return;
    }
    *next = offset + 1;
    batch.push(partition, offset, message.timestamp().to_millis().unwrap_or(-1), message.key(), message.payload());
    let Some(headers) = message.headers() else { return };
    // rdkafka panics on a header name that is not UTF-8 (R10). Such a record keeps no header at all: it becomes a dead letter.
    let read = catch_unwind(AssertUnwindSafe(|| {
        for index in 0..headers.count() {
            if let Some(header) = headers.try_get(index) {
                batch.header(header.key, header.value.unwrap_or_default());
            }
        }
    }));
    if read.is_err() {
        batch.clear_headers();
        tracing::warn!(partition, offset, "record with a header name that is not UTF-8: headers dropped");
    }
}
