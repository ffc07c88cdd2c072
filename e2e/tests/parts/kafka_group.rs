//! Members of a consumer group that come and go by plan, on a real broker: nobody's work is done twice, and a member with a name of its own
//! finds its partitions where it left them.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use e2e::{
    activity, free_port,
    parts::Kafka,
    pipeline::{Pipeline, counts, exactly_once},
    process::{Server, setting, wait_for},
};
use ingest::log::{
    Event, KafkaLog, KafkaSettings,
    contract::{CheckedConsumer, FixedPositions},
};

use crate::pipeline::roll_up;

/// Each brings two rebalances: a worker comes, and goes.
const VISITS: usize = 3;
const LIMIT: Duration = Duration::from_secs(120);

struct Worker {
    server: Server,
    url: String,
}

impl Worker {
    fn start(pipeline: &Pipeline, name: &str) -> Self {
        let listen = format!("127.0.0.1:{}", free_port());
        let mut environment = pipeline.environment();
        environment.push(setting("log.kafka.properties.heartbeat-interval-ms", 500));
        let log = pipeline.folder.path().join(format!("{name}.log"));
        let server = Server::start(&["serve", "--role", "worker", "--listen", &listen], &environment, &log);
        Self { server, url: format!("http://{listen}/metrics") }
    }

    /// The sum of a metric over its labels; `None` while it does not answer or has none.
    async fn metric(&self, name: &str) -> Option<f64> {
        let text = reqwest::get(&self.url).await.ok()?.text().await.ok()?;
        let of = |line: &str| line.strip_prefix(name)?.rsplit(' ').next()?.parse().ok();
        text.lines().filter_map(of).reduce(|sum: f64, value| sum + value)
    }

    async fn works(&mut self) {
        wait_for("its first rows", LIMIT, async || {
            self.server.lives();
            self.metric("daybook_worker_rows_total").await.is_some_and(|rows| rows > 0.0)
        })
        .await;
    }

    async fn was_never_fenced(&self) {
        assert_eq!(self.metric("daybook_worker_fenced_total").await, Some(0.0), "{}", self.server.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f30_a_planned_hand_over_does_no_work_twice() {
    let pipeline = Pipeline::start();
    let (log, lake) = (pipeline.log(), pipeline.lake());
    let mut resident = Worker::start(&pipeline, "resident");
    {
        let visits = async {
            resident.works().await;
            for visit in 0..VISITS {
                let mut visitor = Worker::start(&pipeline, &format!("visitor-{visit}"));
                visitor.works().await;
                // librdkafka reports every few seconds.
                wait_for("its lag", LIMIT, async || visitor.metric("daybook_worker_lag_records").await.is_some()).await;
                visitor.was_never_fenced().await;
                let server = visitor.server;
                let logged = server.log();
                assert!(!logged.contains("given up before what is read of them is flushed"), "{logged}");
                assert_eq!(server.terminate(), 0, "SIGTERM ends it well");
                resident.was_never_fenced().await;
            }
        };
        // Load for as long as workers come and go.
        let mut generator = activity::generator(2_000_000);
        tokio::pin!(visits);
        loop {
            activity::append(&log, generator.by_ref().take(500)).await.expect("the broker serves");
            tokio::select! {
                () = &mut visits => break,
                () = tokio::time::sleep(Duration::from_millis(100)) => {}
            }
        }
    }
    wait_for("every record in a commit", LIMIT, async || {
        resident.server.lives();
        let (covered, records) = counts(&lake, &log).await.expect("both answer");
        covered == records
    })
    .await;
    resident.was_never_fenced().await;
    assert_eq!(resident.server.terminate(), 0, "SIGTERM ends it well");
    roll_up(&pipeline.environment());
    let (_, records) = counts(&lake, &log).await.expect("both answer");
    let _ = exactly_once(&pipeline, records);
}

fn member(kafka: &Kafka, name: &str) -> KafkaLog {
    let properties = [("group.instance.id", name), ("session.timeout.ms", "12000"), ("heartbeat.interval.ms", "500")];
    let settings = KafkaSettings {
        bootstrap_servers: kafka.bootstrap(),
        topic: "static".into(),
        group: "static".into(),
        properties: properties.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        ..KafkaSettings::default()
    };
    KafkaLog::open(&settings).expect("sound settings")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_static_member_that_restarts_moves_no_partition() {
    let kafka = Kafka::start();
    kafka.create_topic("static", 4);
    let (log_a, log_b) = (member(&kafka, "a"), member(&kafka, "b"));
    let positions = FixedPositions::new(BTreeMap::new());
    let mut a = CheckedConsumer::join(&log_a, &positions).await;
    let mut b = CheckedConsumer::join(&log_b, &positions).await;
    let started = Instant::now();
    while (a.owned.len(), b.owned.len()) != (2, 2) {
        assert!(started.elapsed() < LIMIT, "both have partitions");
        let moment = Duration::from_millis(200);
        let _ = tokio::join!(a.next(moment), b.next(moment));
    }
    let (owned, others) = (a.owned.clone(), b.owned.clone());

    a.close().await;
    let mut a = CheckedConsumer::join(&log_a, &positions).await;
    let (back, meanwhile) = tokio::join!(a.next(LIMIT), b.next(Duration::from_secs(3)));
    let Some(Event::Assigned(assigned)) = back else { panic!("an assignment, not {back:?}") };
    assert_eq!(assigned.into_iter().collect::<BTreeMap<_, _>>(), owned, "its own partitions, and at once");
    assert_eq!(meanwhile, None, "nobody else was disturbed");
    assert_eq!(b.owned, others);

    // Gone for good: after the session the other one has all of them.
    a.close().await;
    let taken = b.next(LIMIT).await;
    let Some(Event::Assigned(taken)) = taken else { panic!("an assignment, not {taken:?}") };
    assert_eq!(taken.into_iter().collect::<BTreeMap<_, _>>(), owned);
    b.close().await;
}
