//! A program under measurement: a process of its own, and what it and its children have used.
//!
//! Every program is measured alike, from outside: `/proc` is read when it has started up (the line `ready`) and when the last
//! record is in its table (the line `done`, or what the bench sees of the table), before it ends. Resources of ended processes
//! would be simpler, but the JVM of PySpark is no one's to await.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant},
};

use serde_json::Value;

/// Longest wait for a program's next line.
const LINE_WAIT: Duration = Duration::from_secs(600);
/// Longest wait for its end.
const END_WAIT: Duration = Duration::from_secs(60);
/// Clock ticks of `/proc` in a second: 100 on every Linux (proc(5), `USER_HZ`).
const TICKS_PER_S: f64 = 100.0;

/// What a program has used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// User and system time of all of its processes (s).
    pub cpu_s: f64,
    /// Sum of the most memory that each of them held resident (MB, 10^6 bytes).
    pub peak_mb: f64,
}

/// A running program; killed when dropped.
pub struct Program {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    log: PathBuf,
}

impl Program {
    /// Starts `command`; what it says on standard error goes to the file `log`.
    ///
    /// # Panics
    /// Where it cannot be started.
    #[must_use]
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Self {
        let errors = File::create(log).expect("the log can be written");
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let stdout = BufReader::new(child.stdout.take().expect("it was piped"));
        let (send, lines) = channel();
        // Ends with the program's output. A program says little: the channel needs no bound.
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        Self { name: name.to_owned(), stdin: child.stdin.take(), child, lines, log: log.to_owned() }
    }

    /// Waits for the line that begins with `mark`, and gives the JSON after it, null where there is none.
    ///
    /// # Panics
    /// Where it does not come.
    pub fn await_line(&mut self, mark: &str) -> Value {
        let deadline = Instant::now() + LINE_WAIT;
        while let Ok(line) = self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            if let Some(rest) = line.strip_prefix(mark) {
                return serde_json::from_str(rest).unwrap_or(Value::Null);
            }
        }
        panic!("{} never said `{mark}`:\n{}", self.name, self.log())
    }

    /// What it has used so far.
    #[must_use]
    pub fn usage(&self) -> Usage {
        usage(self.child.id())
    }

    /// Ends its standard input, or asks it to end by SIGTERM, and waits until it has.
    ///
    /// # Panics
    /// Where it ends with an error, or not.
    pub fn end(mut self, terminate: bool) {
        drop(self.stdin.take());
        if terminate {
            let pid = self.child.id().to_string();
            assert!(Command::new("kill").arg(pid).status().expect("kill runs").success());
        }
        let deadline = Instant::now() + END_WAIT;
        loop {
            match self.child.try_wait().expect("our own child can be awaited") {
                Some(status) if status.success() => return,
                Some(status) => panic!("{} ended with {status}:\n{}", self.name, self.log()),
                None => assert!(Instant::now() < deadline, "{} does not end:\n{}", self.name, self.log()),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Looks whether it still runs.
    ///
    /// # Panics
    /// Where it does not.
    pub fn lives(&mut self) {
        if let Some(status) = self.child.try_wait().expect("our own child can be awaited") {
            panic!("{} ended with {status}:\n{}", self.name, self.log());
        }
    }

    /// The end of what it said on standard error.
    fn log(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&text[text.len().saturating_sub(8192)..]).into_owned()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // A JVM whose Python is gone ends by itself. Already dead is fine.
        drop(self.stdin.take());
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Usage of a process and of all that descend from it.
fn usage(root: u32) -> Usage {
    let mut processes: BTreeMap<u32, (u32, f64)> = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").expect("Linux").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // It may have ended meanwhile.
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        processes.extend(parse_stat(&stat).map(|parent_and_cpu| (pid, parent_and_cpu)));
    }
    let descends = |mut pid: u32| {
        while pid != root {
            match processes.get(&pid) {
                Some((parent, _)) => pid = *parent,
                None => return false,
            }
        }
        true
    };
    let mut usage = Usage::default();
    for (pid, (_, cpu_s)) in processes.iter().filter(|(pid, _)| descends(**pid)) {
        usage.cpu_s += cpu_s;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
        let peak_kib: f64 = peak.trim().trim_end_matches(" kB").parse().unwrap_or_default();
        usage.peak_mb += peak_kib * 1024.0 / 1e6;
    }
    usage
}

/// Parent, and processor time (s) of the process and of those children that it has awaited, of a line of `/proc/<pid>/stat`.
fn parse_stat(line: &str) -> Option<(u32, f64)> {
    // The name, in parentheses, may hold anything; after it come state, ppid, … utime (12th), stime, cutime, cstime.
    let fields: Vec<&str> = line.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: f64 = fields.get(11..15)?.iter().filter_map(|field| field.parse::<f64>().ok()).sum();
    Some((fields.get(1)?.parse().ok()?, ticks / TICKS_PER_S))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let line = "7 (a) b (c)) S 3 7 7 0 -1 4194560 100 0 0 0 150 50 20 30 20 0 4 0 12 1000 10";
        assert_eq!(parse_stat(line), Some((3, 2.5)));
        assert_eq!(parse_stat("7 (cut"), None);
    }

    #[test]
    fn children_are_counted() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut shell = Command::new("sh");
        // A child that computes while its parent waits for it, then another that is still there.
        shell.args(["-c", "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; sleep 60 & echo ready; cat; kill $!"]);
        let mut program = Program::start("sh", &mut shell, &folder.path().join("log"));
        assert_eq!(program.await_line("ready"), Value::Null);
        let usage = program.usage();
        assert!(usage.cpu_s > 0.01 && usage.peak_mb > 0.1, "{usage:?}");
        program.end(false);
    }
}
