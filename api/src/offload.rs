//! [`Offloadable`]: a future that leaves the threads that serve sockets while it has much to do.
//!
//! A thread that serves sockets serves all of them, so none of its polls may take longer than some milliseconds,
//! whatever a client sends. What a request costs is proportional to bytes: its own, or those of its answer. Where code
//! is about to work on more than [`LARGE_BYTES`], it awaits [`to_pool_for`], and the whole future around it is
//! polled on the pool of blocking threads from there on. A request of ordinary size never leaves its thread.
//!
//! ```text
//! receive ─▶ to_pool_for ─▶ parse, read, convert, tokenise ─▶ to_socket_thread ─▶ a token ─▶ a token
//!            └──────────────── blocking pool ─────────────┘   └──────────── socket thread ──────────┘
//! ```
//!
//! Freeing costs as well. A future that has been on the pool holds large values, so it is dropped there too, and so is
//! what is given to [`discard`].

use std::{
    cell::Cell,
    future::poll_fn,
    mem,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures_util::{future::BoxFuture, task::AtomicWaker};
use tokio::{
    runtime::Handle,
    task::{JoinHandle, spawn_blocking},
};

/// Work on more bytes than this leaves the threads that serve sockets. The worst JSON, lists of small objects, is parsed,
/// read, converted and freed at some 15 MB/s: this much takes 4 ms. Going to the pool and back takes some 20 µs.
pub const LARGE_BYTES: usize = 64 << 10;

/// Where a future is polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PollSite {
    SocketThread,
    Pool,
}

/// What the innermost [`Offloadable`] that this thread polls is told from within.
#[derive(Clone, Copy, Debug)]
struct Polling {
    /// Where it is polled; where it is to be polled next, once it was told so.
    site: PollSite,
    is_heavy: bool,
}

thread_local! {
    static POLLING: Cell<Option<Polling>> = const { Cell::new(None) };
}

/// Go on on the pool of blocking threads. Without an [`Offloadable`] around it, this does nothing.
pub async fn to_pool() {
    go_to(PollSite::Pool).await;
}

/// Go on on the pool, if there are so many bytes to work on that it matters.
pub async fn to_pool_for(bytes: usize) {
    if bytes > LARGE_BYTES {
        to_pool().await;
    }
}

/// The same at the end of a future, which frees what it holds: also if it has been on the pool before.
pub async fn to_pool_if_heavy_or(bytes: usize) {
    if is_heavy() || bytes > LARGE_BYTES {
        to_pool().await;
    }
}

/// Go on where sockets are served: from here on there is little to do at a time.
pub async fn to_socket_thread() {
    go_to(PollSite::SocketThread).await;
}

async fn go_to(site: PollSite) {
    poll_fn(|context| match POLLING.get() {
        Some(polling) if polling.site != site => {
            POLLING.set(Some(Polling { site, ..polling }));
            // For combinators that poll only what was woken.
            context.waker().wake_by_ref();
            Poll::Pending
        }
        _ => Poll::Ready(()),
    })
    .await;
}

/// Whether the future that is being polled has been on the pool, and so holds large values.
pub fn is_heavy() -> bool {
    POLLING.get().is_some_and(|polling| polling.is_heavy || polling.site == PollSite::Pool)
}

/// Drop `value`, which may take its time, on the pool.
pub fn discard(value: impl Send + 'static) {
    let is_there = POLLING.get().is_some_and(|polling| polling.site == PollSite::Pool);
    let Some(runtime) = Handle::try_current().ok().filter(|_| !is_there) else { return drop(value) };
    // Tokio panics where there is no thread and the system refuses one; the value is dropped with its queue, then.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(runtime.spawn_blocking(move || drop(value)))));
}

/// A future that is polled on the pool of blocking threads when it asks for it ([`to_pool`]), and then dropped there.
pub struct Offloadable<T: Send + 'static> {
    state: OffloadState<T>,
    signal: Arc<Signal>,
    is_heavy: bool,
}

enum OffloadState<T> {
    Resting(BoxFuture<'static, T>, PollSite),
    /// The pool polls it.
    OnPool(Arc<Mutex<Handover<T>>>, JoinHandle<()>),
    Ended,
}

/// Through which a future goes to the pool and comes back.
enum Handover<T> {
    ToPoll(BoxFuture<'static, T>),
    Empty,
    Polled(Polled<T>),
}

/// A future after a poll: it, or what came of it, and where it is to be polled next.
struct Polled<T> {
    result: Result<T, BoxFuture<'static, T>>,
    site: PollSite,
}

/// Tells that a future which waits on the pool's behalf has something to do.
#[derive(Default)]
struct Signal {
    is_set: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_set.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl<T: Send + 'static> Offloadable<T> {
    /// `work`, begun where sockets are served.
    pub fn new(work: impl Future<Output = T> + Send + 'static) -> Self {
        Self::of_weight(false, work)
    }

    /// The same, holding large values already if `is_heavy`.
    pub fn of_weight(is_heavy: bool, work: impl Future<Output = T> + Send + 'static) -> Self {
        Self { state: OffloadState::Resting(Box::pin(work), PollSite::SocketThread), signal: Arc::default(), is_heavy }
    }

    /// Have the pool poll `work`. Where the system has no thread for it, it is polled here: late is better than never.
    fn offload(&mut self, work: BoxFuture<'static, T>) {
        self.is_heavy = true;
        let slot = Arc::new(Mutex::new(Handover::ToPoll(work)));
        let job = {
            let (slot, waker) = (Arc::clone(&slot), Waker::from(Arc::clone(&self.signal)));
            move || {
                let taken = exchange(&slot, Handover::Empty);
                if let Handover::ToPoll(work) = taken {
                    let polled = poll_at(work, &mut Context::from_waker(&waker), PollSite::Pool, true);
                    exchange(&slot, Handover::Polled(polled));
                }
            }
        };
        // Tokio panics where it has no such thread and the system refuses one.
        self.state = match catch_unwind(AssertUnwindSafe(|| spawn_blocking(job))) {
            Ok(handle) => OffloadState::OnPool(slot, handle),
            Err(_) => {
                let Handover::ToPoll(work) = exchange(&slot, Handover::Empty) else {
                    unreachable!("no thread has taken it")
                };
                let waker = Waker::from(Arc::clone(&self.signal));
                let Polled { result, site } = poll_at(work, &mut Context::from_waker(&waker), PollSite::Pool, true);
                match result {
                    Err(work) => OffloadState::Resting(work, site),
                    Ok(value) => OffloadState::Resting(Box::pin(std::future::ready(value)), PollSite::SocketThread),
                }
            }
        };
    }
}

fn exchange<T>(slot: &Mutex<Handover<T>>, new: Handover<T>) -> Handover<T> {
    mem::replace(&mut slot.lock().unwrap_or_else(PoisonError::into_inner), new)
}

/// Poll `work`, which learns where that is.
fn poll_at<T>(mut work: BoxFuture<'static, T>, context: &mut Context<'_>, site: PollSite, is_heavy: bool) -> Polled<T> {
    /// Gives the thread back to the future around this one, also after a panic.
    struct Outer(Option<Polling>);
    impl Drop for Outer {
        fn drop(&mut self) {
            POLLING.set(self.0);
        }
    }
    let _outer = Outer(POLLING.replace(Some(Polling { site, is_heavy })));
    let result = match work.as_mut().poll(context) {
        Poll::Ready(value) => Ok(value),
        Poll::Pending => Err(work),
    };
    Polled { result, site: POLLING.get().map_or(site, |polling| polling.site) }
}

impl<T: Send + 'static> Future for Offloadable<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let this = &mut *self;
        loop {
            let polled = match mem::replace(&mut this.state, OffloadState::Ended) {
                OffloadState::Resting(work, PollSite::SocketThread) => {
                    let polled = poll_at(work, context, PollSite::SocketThread, this.is_heavy);
                    if polled.site == PollSite::SocketThread
                        && let Err(work) = polled.result
                    {
                        this.state = OffloadState::Resting(work, PollSite::SocketThread);
                        return Poll::Pending;
                    }
                    this.signal.is_set.store(true, Ordering::Release);
                    polled
                }
                OffloadState::Resting(work, PollSite::Pool) => {
                    this.signal.task.register(context.waker());
                    if !this.signal.is_set.swap(false, Ordering::AcqRel) {
                        this.state = OffloadState::Resting(work, PollSite::Pool);
                        return Poll::Pending;
                    }
                    this.offload(work);
                    continue;
                }
                OffloadState::OnPool(slot, mut handle) => match Pin::new(&mut handle).poll(context) {
                    Poll::Pending => {
                        this.state = OffloadState::OnPool(slot, handle);
                        return Poll::Pending;
                    }
                    Poll::Ready(Ok(())) => match exchange(&slot, Handover::Empty) {
                        Handover::Polled(polled) => polled,
                        Handover::ToPoll(_) | Handover::Empty => unreachable!("the pool has polled it"),
                    },
                    Poll::Ready(Err(error)) if error.is_panic() => resume_unwind(error.into_panic()),
                    // The runtime is going down, and this future with it.
                    Poll::Ready(Err(_)) => return Poll::Pending,
                },
                OffloadState::Ended => panic!("polled after its end"),
            };
            match polled.result {
                Ok(value) => return Poll::Ready(value),
                Err(work) => this.state = OffloadState::Resting(work, polled.site),
            }
        }
    }
}

impl<T: Send + 'static> Drop for Offloadable<T> {
    fn drop(&mut self) {
        if !self.is_heavy {
            return;
        }
        match mem::replace(&mut self.state, OffloadState::Ended) {
            OffloadState::Resting(work, _) => discard(work),
            // What the pool is polling is dropped there; what waits for it need not be polled any more.
            OffloadState::OnPool(slot, _) => match exchange(&slot, Handover::Empty) {
                Handover::ToPoll(work) => discard(work),
                Handover::Polled(polled) => discard(polled),
                Handover::Empty => {}
            },
            OffloadState::Ended => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::mpsc,
        thread::{self, ThreadId},
        time::Duration,
    };

    use tokio::{sync::oneshot, time::sleep};

    use super::*;

    fn here() -> ThreadId {
        thread::current().id()
    }

    /// Tells on which thread it is dropped.
    struct Dropped(mpsc::Sender<ThreadId>);

    impl Drop for Dropped {
        fn drop(&mut self) {
            let _ = self.0.send(here());
        }
    }

    #[tokio::test]
    async fn what_has_much_to_do_leaves_the_thread_and_comes_back() {
        let socket_thread = here();
        let places = Offloadable::new(async move {
            let mut places = vec![here() == socket_thread];
            to_pool_for(LARGE_BYTES).await;
            places.push(here() == socket_thread);
            assert!(!is_heavy());
            to_pool_for(LARGE_BYTES + 1).await;
            places.push(here() == socket_thread);
            // Timers, channels and other tasks wake it there as anywhere.
            sleep(Duration::from_millis(1)).await;
            let (send, receive) = oneshot::channel();
            tokio::spawn(async move { send.send(7) });
            assert_eq!(receive.await, Ok(7));
            places.push(here() == socket_thread);
            to_socket_thread().await;
            places.push(here() == socket_thread);
            sleep(Duration::from_millis(1)).await;
            assert!(is_heavy());
            places.push(here() == socket_thread);
            places
        });
        assert_eq!(places.await, [true, true, false, false, true, true]);
        // Elsewhere there is nowhere to go.
        to_pool().await;
        assert!(here() == socket_thread && !is_heavy());
    }

    #[tokio::test]
    async fn what_was_on_the_pool_is_dropped_there_wherever_it_is_given_up() {
        let socket_thread = here();
        for (goes, comes_back) in [(false, false), (true, false), (true, true)] {
            let (tell, dropped) = mpsc::channel();
            let (reached, waits) = oneshot::channel();
            let held = Dropped(tell);
            let mut work = Offloadable::new(async move {
                let _held = held;
                if goes {
                    to_pool().await;
                }
                if comes_back {
                    to_socket_thread().await;
                }
                let _ = reached.send(());
                std::future::pending::<()>().await;
            });
            tokio::select! {
                () = &mut work => unreachable!("it waits for ever"),
                _ = waits => {}
            }
            drop(work);
            let dropped = spawn_blocking(move || dropped.recv()).await.unwrap().unwrap();
            assert_eq!(dropped == socket_thread, !goes);
        }
    }

    #[tokio::test]
    async fn a_panic_on_the_pool_is_one_of_the_future() {
        let task = tokio::spawn(Offloadable::<()>::new(async {
            to_pool().await;
            panic!("as it happens");
        }));
        assert!(task.await.unwrap_err().is_panic());
    }

    #[tokio::test]
    async fn each_goes_where_it_wants_though_others_are_polled_beside_it() {
        let socket_thread = here();
        let one = |stays: bool| {
            Offloadable::new(async move {
                if !stays {
                    to_pool().await;
                }
                for _ in 0..100 {
                    assert_eq!(here() == socket_thread, stays);
                    tokio::task::yield_now().await;
                }
            })
        };
        tokio::join!(one(true), one(false), one(true), one(false));
    }
}
