//! A reverse proxy in front of an S3 server that does what networks and stores do at their worst.
//!
//! ```text
//! worker ──► Door (a port of its own) ──► Faults: which one, by a seeded chance ──► S3 server
//!   ▲            │ outage: every connection is cut                                     │
//!   └── answer, a lie, half of it, or none ◄───────────────────────────────────────────┘
//! ```
//!
//! Invariants:
//! 1. Requests go on exactly as they came, the `Host` header too, which the client has signed.
//! 2. A request that was taken on is done even where its client is gone by then: what a killed worker had sent lands late.
//! 3. A fault that claims to come before the store never touches it ([`Kind::SlowDown`], [`Kind::ServerError`], [`Kind::FalseConflict`]).

mod faults;

use std::{
    convert::Infallible,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::StreamExt;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Frame, Incoming},
    client,
    header::{CONNECTION, CONTENT_TYPE, IF_NONE_MATCH, TRANSFER_ENCODING},
    server,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};

pub use faults::{Faults, Kind};

type Body = BoxBody<Bytes, io::Error>;

/// One client's way to the store. Closed when dropped.
pub struct Door {
    port: u16,
    hold: Arc<Mutex<Option<Waiter>>>,
    accepting: JoinHandle<()>,
}

/// Told when a commit is held; waits for leave to let it go.
type Waiter = (oneshot::Sender<()>, oneshot::Receiver<()>);

/// A commit that stands before the store, see [`Door::hold_commit`].
pub struct Hold {
    held: oneshot::Receiver<()>,
    release: oneshot::Sender<()>,
}

impl Hold {
    /// Waits until there is a commit; false where none came within `limit`.
    pub async fn is_held(&mut self, limit: Duration) -> bool {
        tokio::time::timeout(limit, &mut self.held).await.is_ok_and(|told| told.is_ok())
    }

    /// Lets the commit go on to the store, if there is one.
    pub fn release(self) {
        // Nobody waits where no commit came.
        let _ = self.release.send(());
    }
}

impl Door {
    /// Opens a door on a free loopback port to the server on `upstream`.
    ///
    /// # Panics
    /// Where no port is free.
    pub async fn open(upstream: u16, faults: Arc<Faults>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port is free");
        let port = listener.local_addr().expect("a bound listener has an address").port();
        let hold = Arc::new(Mutex::new(None));
        let passage = Passage { upstream, faults, hold: hold.clone() };
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(passage.clone().serve(stream));
            }
        });
        Self { port, hold, accepting }
    }

    /// The URL that its client calls.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Holds back the next commit to `events` that comes through this door. It then goes on untouched by any fault.
    #[must_use]
    pub fn hold_commit(&self) -> Hold {
        let ((tell, held), (release, wait)) = (oneshot::channel(), oneshot::channel());
        *self.hold.lock().unwrap_or_else(PoisonError::into_inner) = Some((tell, wait));
        Hold { held, release }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// What a connection needs.
#[derive(Clone)]
struct Passage {
    upstream: u16,
    faults: Arc<Faults>,
    hold: Arc<Mutex<Option<Waiter>>>,
}

impl Passage {
    async fn serve(self, stream: TcpStream) {
        let mut outage = self.faults.outage();
        if *outage.borrow() {
            self.faults.count(Kind::Outage);
            return;
        }
        let passage = self.clone();
        let service = service_fn(move |request| passage.clone().pass(request));
        let serving = server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        tokio::select! {
            // A connection that we cut, or the client did.
            _ = serving => {}
            // The sender is within `self.faults`.
            _ = outage.wait_for(|away| *away) => self.faults.count(Kind::Outage),
        }
    }

    /// An error cuts the connection.
    async fn pass(self, request: Request<Incoming>) -> io::Result<Response<Body>> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let request = Request::from_parts(parts, body);
        let is_commit = request.method() == Method::PUT && is_entry(request.uri().path());
        let held = is_commit.then(|| self.hold.lock().unwrap_or_else(PoisonError::into_inner).take()).flatten();
        let is_read = request.method() == Method::GET || request.method() == Method::HEAD;
        if let Some((tell, wait)) = held {
            let forwarded = tokio::spawn(async move {
                // Whoever asked for it may be gone; then it goes on at once.
                let _ = tell.send(());
                let _ = wait.await;
                forward(self.upstream, request).await
            });
            return forwarded.await.map_err(io::Error::other)?.map(whole);
        }
        let conditional = request.headers().contains_key(IF_NONE_MATCH);
        let kind = self.faults.draw(request.method(), conditional);
        match kind {
            Some(Kind::SlowDown) => return Ok(refusal(StatusCode::SERVICE_UNAVAILABLE, "SlowDown")),
            Some(Kind::ServerError) => return Ok(refusal(StatusCode::INTERNAL_SERVER_ERROR, "InternalError")),
            Some(Kind::FalseConflict) => return Ok(refusal(StatusCode::CONFLICT, "ConditionalRequestConflict")),
            _ => {}
        }
        let delay = if kind == Some(Kind::Delay) { self.faults.delay() } else { Duration::ZERO };
        let upstream = self.upstream;
        let done = async move {
            tokio::time::sleep(delay).await;
            forward(upstream, request).await
        };
        let answer = if is_read { done.await? } else { tokio::spawn(done).await.map_err(io::Error::other)?? };
        match kind {
            Some(Kind::LostAnswer) => Err(io::Error::other("the answer is lost")),
            Some(Kind::DoneButServerError) => Ok(refusal(StatusCode::INTERNAL_SERVER_ERROR, "InternalError")),
            Some(Kind::DoneButSlowDown) => Ok(refusal(StatusCode::SERVICE_UNAVAILABLE, "SlowDown")),
            Some(Kind::Truncated) => Ok(half(answer)),
            _ => Ok(whole(answer)),
        }
    }
}

/// True for an entry of the log of `events`.
fn is_entry(path: &str) -> bool {
    path.contains("/events/_delta_log/") && path.ends_with(".json")
}

/// One connection for each request: what a client sees of the store's own keep-alive is ours alone.
async fn forward(upstream: u16, request: Request<Bytes>) -> io::Result<Response<Bytes>> {
    let stream = TcpStream::connect(("127.0.0.1", upstream)).await?;
    let (mut sender, connection) =
        client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let connection = tokio::spawn(connection);
    let answer = async {
        let (mut parts, body) = sender.send_request(request.map(Full::new)).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        // They speak of this connection, and the body is whole now.
        parts.headers.remove(CONNECTION);
        parts.headers.remove(TRANSFER_ENCODING);
        Ok(Response::from_parts(parts, body))
    };
    let answer = answer.await.map_err(|error: hyper::Error| io::Error::other(error));
    connection.abort();
    answer
}

fn full(body: Bytes) -> Body {
    Full::new(body).map_err(|never: Infallible| match never {}).boxed()
}

fn whole(answer: Response<Bytes>) -> Response<Body> {
    answer.map(full)
}

/// Half of the body that its head promises, then the connection is cut.
fn half(answer: Response<Bytes>) -> Response<Body> {
    answer.map(|body| {
        let sent = futures::stream::iter([Ok(Frame::data(body.slice(..body.len() / 2)))]);
        let cut = futures::stream::once(async {
            // So that head and half are on their way before.
            tokio::time::sleep(Duration::from_millis(20)).await;
            Err(io::Error::other("the body is cut"))
        });
        BodyExt::boxed(StreamBody::new(sent.chain(cut)))
    })
}

/// An error as S3 words it.
fn refusal(status: StatusCode, code: &str) -> Response<Body> {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>fault injection</Message></Error>"
    );
    let response = Response::builder().status(status).header(CONTENT_TYPE, "application/xml");
    response.body(full(body.into())).expect("status and header are sound")
}
