//! What all commands that speak with a service over HTTP do alike.

use std::time::Duration;

use reqwest::{Client, ClientBuilder, Url};
use serde::Deserialize;

use crate::fault::{Fault, Result};

/// A client that gives up where nobody takes the connection.
pub(crate) fn client() -> ClientBuilder {
    Client::builder()
        .connect_timeout(Duration::from_secs(10))
        .user_agent(concat!("daybook/", env!("CARGO_PKG_VERSION")))
}

/// A path below a service's root, which may have a path of its own.
pub(crate) fn endpoint(root: &Url, path: &str) -> Result<Url> {
    let mut below = root.clone();
    if !below.path().ends_with('/') {
        below.set_path(&format!("{}/", root.path()));
    }
    let found = below.join(path).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    found.ok_or_else(|| Fault::usage(format!("`{root}` is no HTTP address")).help("such as http://127.0.0.1:8080"))
}

/// RFC 9457. The end of `type` is the stable name of the cause.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Problem {
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
    title: Option<String>,
    detail: Option<String>,
    /// Of the request, in the service's log.
    pub(crate) request_id: Option<String>,
}

impl Problem {
    /// Whether it is of this cause, by its stable name.
    pub(crate) fn is(&self, cause: &str) -> bool {
        self.kind.as_deref().and_then(|kind| kind.rsplit('/').next()) == Some(cause)
    }

    /// What is wrong, in the service's words.
    pub(crate) fn text(&self) -> Option<&str> {
        self.detail.as_deref().or(self.title.as_deref())
    }
}
