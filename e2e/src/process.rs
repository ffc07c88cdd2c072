//! The `daybook` binary as a process, and Python as an oracle.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::{folder, installed};

/// The `daybook` binary of the profile that this test was built with.
///
/// # Panics
/// Where it was not built: `cargo build --release --workspace` does.
#[must_use]
pub fn daybook() -> PathBuf {
    let test = std::env::current_exe().expect("a running program has a path");
    let found = test.ancestors().skip(1).map(|folder| folder.join("daybook")).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("no `daybook` beside {}: build the workspace first", test.display()))
}

/// Runs `daybook` to its end: exit code, standard output, standard error.
///
/// # Panics
/// Where it cannot be started.
#[must_use]
pub fn run(arguments: &[&str], environment: &[(String, String)]) -> (i32, String, String) {
    let output = Command::new(daybook())
        .args(arguments)
        .envs(environment.iter().cloned())
        .stdin(Stdio::null())
        .output()
        .expect("daybook starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// The standard output of a `daybook` that must end well.
///
/// # Panics
/// Where it does not.
#[must_use]
pub fn succeed(arguments: &[&str], environment: &[(String, String)]) -> String {
    let (code, out, err) = run(arguments, environment);
    assert_eq!(code, 0, "daybook {arguments:?}\n{out}\n{err}");
    out
}

/// Rows of a SQL question, as JSON.
///
/// # Panics
/// Where it is not answered.
#[must_use]
pub fn query(sql: &str, environment: &[(String, String)]) -> serde_json::Value {
    let answer = succeed(&["query", "--format", "json", sql], environment);
    serde_json::from_str(&answer).expect("--format json prints JSON")
}

/// A setting, as the environment spells it.
#[must_use]
pub fn setting(key: &str, value: impl std::fmt::Display) -> (String, String) {
    (format!("DAYBOOK__{}", key.to_uppercase().replace('.', "__").replace('-', "_")), value.to_string())
}

/// Creates an organisation whose admin has opted in; `more` goes to `org create`.
///
/// # Panics
/// Where it is refused.
pub fn create_org(id: &str, more: &[&str], environment: &[(String, String)]) {
    let _ = succeed(&[&["org", "create", id], more].concat(), environment);
    let _ = succeed(&["opt-in", "set", id, "named", "--reason", "a test"], environment);
}

/// Settings of a whole Daybook in a folder: lake, directory and embedded log.
#[must_use]
pub fn embedded(folder: &Path) -> Vec<(String, String)> {
    let at = folder.display();
    vec![
        setting("lake.url", format!("{at}/lake")),
        setting("directory.url", format!("sqlite://{at}/directory.db")),
        setting("log.dir", format!("{at}/log")),
    ]
}

/// A `daybook serve` process; killed when dropped.
pub struct Server {
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts `daybook` with `arguments`, its log going to `log`.
    ///
    /// # Panics
    /// Where it cannot be started.
    #[must_use]
    pub fn start(arguments: &[&str], environment: &[(String, String)], log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).expect("the log can be written");
        let child = Command::new(daybook())
            .args(arguments)
            .envs(environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a file can be shared"))
            .stderr(file)
            .spawn()
            .expect("daybook starts");
        Self { child, log: log.to_owned() }
    }

    /// kill -9.
    ///
    /// # Panics
    /// Where it cannot be killed.
    pub fn kill(mut self) {
        self.child.kill().expect("our own child can be killed");
        self.child.wait().expect("our own child can be awaited");
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Stops it where it stands (SIGSTOP), or lets it go on (SIGCONT).
    ///
    /// # Panics
    /// Where it does not run.
    pub fn freeze(&self, frozen: bool) {
        let (signal, pid) = (if frozen { "-STOP" } else { "-CONT" }, self.pid().to_string());
        assert!(Command::new("kill").args([signal, &pid]).status().expect("kill runs").success());
    }

    /// The most memory that it has had so far (resident, KiB); 0 where it has ended.
    #[must_use]
    pub fn peak_memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak.and_then(|kib| kib.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
    }

    /// SIGTERM, then waits for the exit code.
    ///
    /// # Panics
    /// Where it does not end within 30 s.
    pub fn terminate(mut self) -> i32 {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").arg(&pid).status().expect("kill runs").success());
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(status) = self.child.try_wait().expect("our own child can be awaited") {
                return status.code().unwrap_or(-1);
            }
            assert!(Instant::now() < deadline, "daybook did not end within 30 s of SIGTERM: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        let mut text = String::new();
        if let Ok(mut file) = File::open(&self.log) {
            file.read_to_string(&mut text).unwrap_or_default();
        }
        text.lines().rev().take(60).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// The most memory that it has held (`VmHWM` of the kernel).
    ///
    /// # Panics
    /// Where the process has ended.
    #[must_use]
    pub fn peak_memory_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the kernel counts it");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number of kB");
        kib << 10
    }

    /// Fails the test where the process has ended.
    ///
    /// # Panics
    /// Where it has.
    pub fn lives(&mut self) {
        if let Some(status) = self.child.try_wait().expect("our own child can be awaited") {
            panic!("daybook ended with {status}: {}", self.log());
        }
    }

    /// Waits until `url` answers 200.
    ///
    /// # Panics
    /// Where it does not within 60 s, or the process ends.
    pub async fn ready(&mut self, url: &str) {
        wait_for(&format!("{url} answers"), Duration::from_secs(60), async || {
            self.lives();
            reqwest::get(url).await.is_ok_and(|response| response.status().is_success())
        })
        .await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already dead is fine.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Waits until `condition` holds.
///
/// # Panics
/// Where it does not within `limit`.
pub async fn wait_for(what: &str, limit: Duration, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !condition().await {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Runs an oracle script and gives its standard output, which is JSON.
///
/// # Errors
/// Its whole output, where it ends with an error.
///
/// # Panics
/// Where it cannot be started or prints no JSON.
pub fn oracle(name: &str, arguments: &[&str], environment: &[(String, String)]) -> Result<serde_json::Value, String> {
    let output = Command::new(installed("DAYBOOK_E2E_PYTHON"))
        .arg(folder().join("oracle").join(name))
        .args(arguments)
        .envs(environment.iter().cloned())
        .output()
        .expect("python starts");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        return Err(format!("{name} {arguments:?} failed:\n{out}\n{err}"));
    }
    Ok(serde_json::from_str(&out).unwrap_or_else(|error| panic!("{name} printed no JSON ({error}): {out}")))
}
