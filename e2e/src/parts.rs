//! Kafka, S3 and PostgreSQL, started by the scripts under `parts/`.

use std::{path::PathBuf, process::Command};

use tempfile::TempDir;

use crate::{folder, free_port, installed};

fn script(name: &str, environment: &[(String, String)], arguments: &[&str]) -> String {
    let output = Command::new("bash")
        .arg(folder().join("parts").join(name))
        .args(arguments)
        .envs(environment.iter().cloned())
        .output()
        .expect("bash runs");
    assert!(
        output.status.success(),
        "{name} {arguments:?} failed: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A real Apache Kafka broker (KRaft, one node) with its own data.
pub struct Kafka {
    environment: Vec<(String, String)>,
    port: u16,
    data: TempDir,
}

impl Kafka {
    /// Starts a broker and waits until it serves.
    ///
    /// # Panics
    /// Where it does not come up.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a broker that also takes clients by TLS and SASL (`KAFKA_SECURITY` of kafka.sh).
    ///
    /// # Panics
    /// Where it does not come up.
    #[must_use]
    pub fn start_secure() -> Self {
        Self::start_with(&[("KAFKA_SECURITY", "1")])
    }

    fn start_with(further: &[(&str, &str)]) -> Self {
        let data = tempfile::tempdir().expect("a temporary folder");
        // The controller takes the port + 100, TLS + 200 and SASL + 300: all must be free.
        let is_free = |port: u16| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
        let port = (0..50)
            .map(|_| free_port())
            .find(|port| *port < 65_000 && [100, 200, 300].into_iter().all(|more| is_free(port + more)))
            .expect("four free ports");
        let mut environment = vec![
            ("KAFKA_DIR".into(), data.path().display().to_string()),
            ("KAFKA_PORT".into(), port.to_string()),
            ("KAFKA_LIBS".into(), installed("DAYBOOK_E2E_KAFKA_LIBS").display().to_string()),
        ];
        environment.extend(further.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        let kafka = Self { environment, port, data };
        script("kafka.sh", &kafka.environment, &["start"]);
        kafka
    }

    /// `bootstrap.servers`.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `bootstrap.servers` for TLS with a client certificate, where it was started secure.
    #[must_use]
    pub fn bootstrap_ssl(&self) -> String {
        format!("127.0.0.1:{}", self.port + 200)
    }

    /// `bootstrap.servers` for SASL over TLS, where it was started secure.
    #[must_use]
    pub fn bootstrap_sasl(&self) -> String {
        format!("127.0.0.1:{}", self.port + 300)
    }

    /// A certificate or key, where it was started secure: `ca.pem`, `client.pem`, `client.key`, `stranger.pem`.
    #[must_use]
    pub fn certificate(&self, name: &str) -> PathBuf {
        self.data.path().join("tls").join(name)
    }

    /// Creates a topic.
    ///
    /// # Panics
    /// Where Kafka refuses.
    pub fn create_topic(&self, name: &str, partitions: u32) {
        script("kafka.sh", &self.environment, &["topic", name, &partitions.to_string()]);
    }

    /// kill -9 of the broker.
    ///
    /// # Panics
    /// Where it does not run.
    pub fn kill(&self) {
        script("kafka.sh", &self.environment, &["kill", "1"]);
    }

    /// Starts the broker again on its data.
    ///
    /// # Panics
    /// Where it does not come up.
    pub fn restart(&self) {
        script("kafka.sh", &self.environment, &["start"]);
    }

    /// Stops the broker without closing its connections (SIGSTOP), or lets it go on.
    ///
    /// # Panics
    /// Where it does not run.
    pub fn hang(&self, hangs: bool) {
        script("kafka.sh", &self.environment, &[if hangs { "pause" } else { "resume" }, "1"]);
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        script("kafka.sh", &self.environment, &["stop"]);
    }
}

/// A real S3 server (versitygw on a folder) with the bucket `lake`.
pub struct S3 {
    environment: Vec<(String, String)>,
    port: u16,
    data: TempDir,
}

impl S3 {
    /// Starts the server and waits until it serves.
    ///
    /// # Panics
    /// Where it does not come up.
    #[must_use]
    pub fn start() -> Self {
        let data = tempfile::tempdir().expect("a temporary folder");
        let port = free_port();
        let environment = vec![
            ("S3_DIR".into(), data.path().display().to_string()),
            ("S3_PORT".into(), port.to_string()),
            ("VERSITYGW".into(), installed("DAYBOOK_E2E_VERSITYGW").display().to_string()),
        ];
        let s3 = Self { environment, port, data };
        script("s3.sh", &s3.environment, &["start"]);
        s3
    }

    /// The port that it serves on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where objects lie as plain files: `<root>/<bucket>/<key>`.
    #[must_use]
    pub fn local_root(&self) -> PathBuf {
        // versitygw's POSIX backend; s3.sh keeps its data below `data`.
        self.data.path().join("data")
    }

    /// kill -9 of the server.
    ///
    /// # Panics
    /// Where it does not run.
    pub fn kill(&self) {
        script("s3.sh", &self.environment, &["kill"]);
    }

    /// Starts the server again on its data.
    ///
    /// # Panics
    /// Where it does not come up.
    pub fn restart(&self) {
        script("s3.sh", &self.environment, &["start"]);
    }

    /// Stops it without closing its connections (SIGSTOP), or lets it go on.
    ///
    /// # Panics
    /// Where it does not run.
    pub fn hang(&self, hangs: bool) {
        script("s3.sh", &self.environment, &[if hangs { "pause" } else { "resume" }]);
    }

    /// The `AWS_*` environment of its clients.
    #[must_use]
    pub fn environment(&self) -> Vec<(String, String)> {
        let pairs = [
            ("AWS_ACCESS_KEY_ID", "test".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "testsecret".to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", self.port)),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_CONDITIONAL_PUT", "etag".to_owned()),
        ];
        pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        script("s3.sh", &self.environment, &["stop"]);
    }
}

/// A real PostgreSQL with its own data; stopped when dropped.
pub struct Postgres {
    environment: Vec<(String, String)>,
    url: String,
    _data: TempDir,
}

impl Postgres {
    /// Starts one. `options` are settings of the server (`-c name=value …`).
    ///
    /// # Panics
    /// Where there is no PostgreSQL on this machine, or it does not start.
    #[must_use]
    pub fn start(options: &str) -> Self {
        let data = tempfile::tempdir().expect("a temporary folder");
        let environment = vec![
            ("PG_DIR".into(), data.path().display().to_string()),
            ("PG_PORT".into(), free_port().to_string()),
            ("PG_OPTIONS".into(), options.to_owned()),
        ];
        let url = script("postgres.sh", &environment, &["start"]);
        Self { environment, url, _data: data }
    }

    /// How clients reach its database `postgres`: the user `postgres`, without a password.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        script("postgres.sh", &self.environment, &["stop"]);
    }
}
