//! Threads for SQL, so that a large statement takes none from small look-ups, nor from the sockets that could cancel it.
//!
//! DataFusion computes where it is polled, and tells its own tasks to run where it was called; an operator may compute for seconds before it yields. So a
//! statement is planned [`within`](Pool::within) the pool and its rows are made by a task of the pool; the connection only passes them on.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::runtime::{Builder, Handle, Runtime};

/// Stack of a thread.
const STACK_BYTES: usize = 16 << 20;

/// The threads; they end with it, at the next yield of what runs on them.
pub(crate) struct Pool(Option<Runtime>);

impl Pool {
    /// As many threads as there are processors.
    pub(crate) fn new() -> io::Result<Self> {
        let mut threads = Builder::new_multi_thread();
        // Trees of expressions are walked by recursion.
        threads.thread_name("daybook-sql").thread_stack_size(STACK_BYTES).enable_all();
        threads.build().map(|runtime| Self(Some(runtime)))
    }

    pub(crate) fn handle(&self) -> &Handle {
        self.0.as_ref().expect("only drop takes it").handle()
    }

    /// `work`, polled by the caller; what it spawns runs in the pool.
    pub(crate) fn within<F: Future>(&self, work: F) -> Within<F> {
        Within { handle: self.handle().clone(), work: Box::pin(work) }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // Waiting for its threads is not allowed where other futures run.
            runtime.shutdown_background();
        }
    }
}

/// See [`Pool::within`].
pub(crate) struct Within<F> {
    handle: Handle,
    work: Pin<Box<F>>,
}

impl<F: Future> Future for Within<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let _pool = this.handle.enter();
        this.work.as_mut().poll(context)
    }
}
