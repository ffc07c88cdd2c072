//! A real Prometheus that scrapes what a test started, and promtool.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{free_port, installed};

/// A Prometheus with its own data; killed, by pid, when dropped.
pub struct Prometheus {
    child: Child,
    url: String,
    // After the process that writes there.
    _data: TempDir,
}

impl Prometheus {
    /// Starts one that scrapes `target` (`host:port`) every second as the job `daybook` and evaluates the rules of a file as often.
    ///
    /// # Panics
    /// Where it cannot be started.
    #[must_use]
    pub fn start(target: &str, rules: &Path) -> Self {
        let data = tempfile::tempdir().expect("a temporary folder");
        let at = |name: &str| data.path().join(name).display().to_string();
        // JSON is YAML.
        let config = json!({
            "global": { "scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s" },
            "rule_files": [rules],
            "scrape_configs": [{ "job_name": "daybook", "static_configs": [{ "targets": [target] }] }],
        });
        fs::write(at("prometheus.yml"), config.to_string()).expect("the folder can be written");
        let listen = format!("127.0.0.1:{}", free_port());
        let log = File::create(at("log")).expect("the folder can be written");
        let child = Command::new(installed("DAYBOOK_E2E_PROMETHEUS"))
            .args(["--config.file", &at("prometheus.yml"), "--storage.tsdb.path", &at("data")])
            .args(["--web.listen-address", &listen])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("prometheus starts");
        Self { child, url: format!("http://{listen}"), _data: data }
    }

    /// Whether it takes questions.
    pub async fn is_ready(&self) -> bool {
        reqwest::get(format!("{}/-/ready", self.url)).await.is_ok_and(|answer| answer.status().is_success())
    }

    /// The values of an expression as of now, one for each series; NaN is none.
    ///
    /// # Errors
    /// What Prometheus says is wrong with the expression.
    ///
    /// # Panics
    /// Where it does not answer, or not with a vector or scalar.
    pub async fn values(&self, expression: &str) -> Result<Vec<f64>, String> {
        let answer = self.get("/api/v1/query", &[("query", expression)]).await;
        if answer["status"] != "success" {
            return Err(answer["error"].as_str().unwrap_or("no reason given").to_owned());
        }
        let value = |sample: &Value| sample[1].as_str().expect("a number as text").parse().expect("a number");
        let result = answer["data"]["result"].as_array().expect("a result");
        let values: Vec<f64> = match answer["data"]["resultType"].as_str() {
            Some("vector") => result.iter().map(|series| value(&series["value"])).collect(),
            Some("scalar") => vec![value(&answer["data"]["result"])],
            other => panic!("{expression} is a {other:?}"),
        };
        Ok(values.into_iter().filter(|value| !value.is_nan()).collect())
    }

    /// Its rules of all groups, as it tells them.
    ///
    /// # Panics
    /// Where it does not answer.
    pub async fn rules(&self) -> Vec<Value> {
        let answer = self.get("/api/v1/rules", &[]).await;
        let groups = answer["data"]["groups"].as_array().expect("groups");
        groups.iter().flat_map(|group| group["rules"].as_array().expect("rules").clone()).collect()
    }

    async fn get(&self, path: &str, parameters: &[(&str, &str)]) -> Value {
        let request = reqwest::Client::new().post(format!("{}{path}", self.url)).form(parameters);
        let request =
            if parameters.is_empty() { reqwest::Client::new().get(format!("{}{path}", self.url)) } else { request };
        request.send().await.expect("prometheus answers").json().await.expect("JSON")
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // Already dead is fine.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Runs promtool over `input`: whether it ended well, and what it said.
///
/// # Panics
/// Where it cannot be started.
#[must_use]
pub fn promtool(arguments: &[&str], input: &str) -> (bool, String) {
    let mut child = Command::new(installed("DAYBOOK_E2E_PROMETHEUS").with_file_name("promtool"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool starts");
    // It may end before it has read all, which its exit code tells.
    drop(child.stdin.take().expect("it was piped").write_all(input.as_bytes()));
    let output = child.wait_with_output().expect("our own child can be awaited");
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (output.status.success(), said)
}
