//! The consumer: a handle for the worker, and its configuration. The work is done by the polling thread ([`super::poller`]).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use async_trait::async_trait;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use tokio::runtime::Handle;
use tokio::sync::{mpsc as channel, oneshot};

use super::access::Access;
use super::flow::{Budget, Inbox};
use super::membership::Membership;
use super::poller::Poller;
use super::{KafkaSettings, sort_error};
use crate::log::{Consumer, Error, Event, Positions, Result, Standing};

/// How long `close` waits for the group to let go.
const CLOSE_LIMIT: Duration = Duration::from_secs(15);
/// How often librdkafka reports at most, and how often while a partition is as quiet as it may be.
const REPORT_EVERY: Duration = Duration::from_secs(5);
const REPORTS_IN_QUIET: u32 = 4;

/// What the handle wants of the polling thread.
pub(super) enum Command {
    Seek {
        kafka_partition: i32,
        next_offset: i64,
        token: u64,
    },
    Commit(BTreeMap<i32, i64>),
    /// The worker has flushed what it held when partitions were revoked.
    Released,
    Close,
    /// Stops the fetching of a partition, unknown to the poller.
    #[cfg(test)]
    Stop(i32),
}

pub(super) struct KafkaConsumer {
    inbox: Inbox,
    commands: mpsc::Sender<Command>,
    thread: std::thread::Thread,
    finished: oneshot::Receiver<()>,
    closing: Arc<AtomicBool>,
    tokens: u64,
    /// A revocation was handed out, and `next` not called since.
    releasing: bool,
    standing: Arc<Standing>,
}

impl KafkaConsumer {
    /// Must be called on a tokio runtime, which later serves `positions`.
    pub(super) fn start(
        settings: Arc<KafkaSettings>,
        access: Arc<Access>,
        identity: String,
        positions: Arc<dyn Positions>,
    ) -> Result<Self> {
        let closing = Arc::new(AtomicBool::new(false));
        let group = Membership {
            positions,
            runtime: Handle::current(),
            topic: settings.topic.clone(),
            access,
            news: AtomicBool::new(false),
            actions: Mutex::new(Vec::new()),
            statistics: Mutex::new(None),
            closing: closing.clone(),
        };
        let what = || format!("consume topic {}", settings.topic);
        let consumer: BaseConsumer<Membership> =
            consumer_config(&settings).create_with_context(group).map_err(|e| sort_error(what(), e))?;
        consumer.subscribe(&[&settings.topic]).map_err(|e| sort_error(what(), e))?;
        let budget = Arc::new(Budget::new(settings.buffer.as_u64() as usize, settings.buffer_records));
        let standing = budget.standing.clone();
        let (items, receiver) = channel::unbounded_channel();
        let (commands, queue) = mpsc::channel();
        let (done, finished) = oneshot::channel();
        let mut poller = Poller::new(consumer, settings, identity, items, queue, budget.clone());
        let thread = std::thread::Builder::new()
            .name("kafka-consumer".into())
            .spawn(move || {
                poller.run();
                // Leaves the group; may take as long as the brokers let it (F15), so nobody waits for it without a limit.
                drop(poller);
                let _ = done.send(());
            })
            .map_err(|e| Error::fatal("start the consumer's thread", e))?;
        let inbox = Inbox::new(receiver, budget);
        let thread = thread.thread().clone();
        Ok(Self { inbox, commands, thread, finished, closing, tokens: 0, releasing: false, standing })
    }

    /// Fetched and not yet taken.
    #[cfg(test)]
    pub(super) fn buffered_bytes(&self) -> usize {
        self.inbox.buffered_bytes()
    }

    #[cfg(test)]
    pub(super) fn stop_behind_its_back(&self, kafka_partition: i32) {
        self.command(Command::Stop(kafka_partition)).expect("it polls");
    }

    fn command(&self, command: Command) -> Result<()> {
        self.commands.send(command).map_err(|_| Error::Closed)?;
        self.thread.unpark();
        Ok(())
    }
}

fn consumer_config(settings: &KafkaSettings) -> rdkafka::ClientConfig {
    let mut config = settings.client();
    let prefetch = (settings.buffer.as_u64() / 1024).clamp(1024, 1 << 20).to_string();
    let defaults = [
        // A worker that was killed is missed after this long; correctness does not rest on it.
        ("session.timeout.ms", "10000"),
        ("heartbeat.interval.ms", "3000"),
        ("queued.max.messages.kbytes", prefetch.as_str()),
        ("fetch.queue.backoff.ms", "20"),
        ("topic.metadata.refresh.interval.ms", "60000"),
    ];
    for (key, value) in defaults {
        if !settings.properties.contains_key(key) {
            config.set(key, value);
        }
    }
    config
        .set("group.id", &settings.group)
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "false")
        .set("statistics.interval.ms", report_every(settings).as_millis().to_string());
    config
}

fn report_every(settings: &KafkaSettings) -> Duration {
    (settings.stall_after.unsigned_abs() / REPORTS_IN_QUIET).min(REPORT_EVERY)
}

#[async_trait]
impl Consumer for KafkaConsumer {
    async fn next(&mut self) -> Result<Event> {
        if self.releasing {
            self.releasing = false;
            // A thread that has ended has given up everything.
            let _ = self.command(Command::Released);
        }
        let event = self.inbox.next().await?;
        self.releasing = matches!(event, Event::Revoked(_));
        // The thread may be waiting for room.
        self.thread.unpark();
        Ok(event)
    }

    async fn seek(&mut self, kafka_partition: i32, next_offset: i64) -> Result<()> {
        self.tokens += 1;
        let token = self.tokens;
        self.inbox.begin_seek(kafka_partition, token);
        self.command(Command::Seek { kafka_partition, next_offset: next_offset.max(0), token })
    }

    async fn commit_offsets(&mut self, next_offsets: &BTreeMap<i32, i64>) -> Result<()> {
        self.command(Command::Commit(next_offsets.clone()))
    }

    async fn close(mut self: Box<Self>) -> Result<()> {
        self.closing.store(true, Ordering::Relaxed);
        // A thread that has ended already is closed.
        let _ = self.command(Command::Close);
        match tokio::time::timeout(CLOSE_LIMIT, &mut self.finished).await {
            Ok(_) => Ok(()),
            Err(limit) => Err(Error::unavailable("leave the consumer group", limit)),
        }
    }

    fn standing(&self) -> Option<Arc<Standing>> {
        Some(self.standing.clone())
    }
}

impl Drop for KafkaConsumer {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Relaxed);
        let _ = self.command(Command::Close);
    }
}
