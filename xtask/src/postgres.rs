//! A PostgreSQL for the tests of the directory, as long as they run.

use std::{net::TcpListener, path::PathBuf, process::Command};

use crate::{root, steps::succeeds};

/// A running server; stopped, and its data removed, when dropped.
pub(crate) struct Postgres {
    folder: PathBuf,
    port: u16,
}

impl Postgres {
    /// Starts one on a free port; `None` where it does not come up, which its script has said then.
    pub(crate) fn start() -> Option<Self> {
        let port = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr()).ok()?.port();
        // Not in the checkout: the server's user may have no way into it.
        let folder = std::env::temp_dir().join(format!("daybook-postgres-{}", std::process::id()));
        let server = Self { folder, port };
        succeeds(&mut server.script("start")).then_some(server)
    }

    /// How clients reach it; they may make databases.
    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    fn script(&self, verb: &str) -> Command {
        let mut command = Command::new("bash");
        command.arg(root().join("e2e/parts/postgres.sh")).arg(verb);
        command.env("PG_DIR", &self.folder).env("PG_PORT", self.port.to_string());
        // Nothing of it is kept, and every test opens connections of its own.
        command.env("PG_OPTIONS", "-c fsync=off -c max_connections=400");
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _ = succeeds(&mut self.script("stop"));
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
