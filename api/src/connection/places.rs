//! [`Places`]: how many connections there may be, and which of them gives way when another one comes.
//!
//! A connection that waits for nothing of ours (it has sent no request, or half of one) gives way, the oldest
//! first; one whose request is being answered never does.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use hyper::body::{Body, Frame, SizeHint};
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

/// A body that has been coming in for longer than this may have to give way.
const BODY_GRACE: Duration = Duration::from_secs(10);

/// How often a connection that waits for a place looks again: bodies grow old without a word.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The places of connections.
pub(super) struct Places {
    limits: PlaceLimits,
    taken: Mutex<Taken>,
    /// A place was given back, or its connection has become idle.
    freed: Notify,
}

/// Their bounds.
#[derive(Clone, Copy, Debug)]
pub(super) struct PlaceLimits {
    /// Places.
    pub(super) most: usize,
    /// Places of one address.
    pub(super) most_per_address: Option<usize>,
    /// Whether one that is being answered gives way where no other can.
    pub(super) answered_give_way: bool,
}

#[derive(Default)]
struct Taken {
    /// By number, which is by age.
    seats: BTreeMap<u64, Arc<Seat>>,
    next: u64,
    /// Connections that are open, those that have been asked to go included.
    open: usize,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// All are taken.
    All,
    /// The address has its share.
    Address(usize),
}

/// A connection's place, until it is dropped.
pub(super) struct Place {
    places: Arc<Places>,
    number: u64,
    seat: Arc<Seat>,
}

/// What is known of the connection in a place.
pub(super) struct Seat {
    address: IpAddr,
    activity: Mutex<(Activity, Instant)>,
    /// Whether the client has yet to take what was written.
    stalled: AtomicBool,
    give_way: Notify,
}

/// What a connection is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Activity {
    /// No request, or not all of its head.
    Idle,
    /// A request whose body is coming in.
    Receiving,
    /// A request that is being answered.
    Answering,
    /// A request that waits for a place elsewhere.
    Waiting,
}

impl Places {
    pub(super) fn new(limits: PlaceLimits) -> Arc<Self> {
        Arc::new(Self { limits, taken: Mutex::default(), freed: Notify::new() })
    }

    /// Take a place for a connection from `address`; if need be, that of one that can give way.
    pub(super) fn try_take(self: &Arc<Self>, address: IpAddr) -> Result<Place, Full> {
        let PlaceLimits { most, most_per_address, .. } = self.limits;
        let mut taken = self.taken();
        if let Some(limit) = most_per_address {
            let of_address = |seat: &Seat| seat.address == address;
            if taken.seats.values().filter(|seat| of_address(seat)).count() >= limit
                && !self.evict(&mut taken, of_address)
            {
                return Err(Full::Address(limit));
            }
        }
        // One that has been asked to go closes when a thread gets round to it. So many may be late and no more.
        if taken.open >= 2 * most || taken.seats.len() >= most && !self.evict(&mut taken, |_| true) {
            return Err(Full::All);
        }
        let number = taken.next;
        taken.next += 1;
        taken.open += 1;
        let seat = Arc::new(Seat {
            address,
            activity: Mutex::new((Activity::Idle, Instant::now())),
            stalled: AtomicBool::new(false),
            give_way: Notify::new(),
        });
        taken.seats.insert(number, Arc::clone(&seat));
        Ok(Place { places: Arc::clone(self), number, seat })
    }

    /// The same, waiting for a place while all are taken.
    ///
    /// # Errors
    /// Only [`Full::Address`].
    pub(super) async fn take(self: &Arc<Self>, address: IpAddr) -> Result<Place, Full> {
        loop {
            let freed = self.freed.notified();
            match self.try_take(address) {
                Err(Full::All) => drop(timeout(LOOK_AGAIN, freed).await),
                outcome => return outcome,
            }
        }
    }

    /// Ask the one that can best give way to go; says whether there is one.
    pub(super) fn make_room(&self) -> bool {
        self.evict(&mut self.taken(), |_| true)
    }

    fn evict(&self, taken: &mut Taken, among: impl Fn(&Seat) -> bool) -> bool {
        let ranked = taken.seats.iter().filter(|(_, seat)| among(seat));
        let ranked = ranked.filter_map(|(number, seat)| Some((seat.rank(self.limits.answered_give_way)?, *number)));
        let Some((_, number)) = ranked.min() else { return false };
        taken.seats.remove(&number).expect("it was found there").give_way.notify_one();
        true
    }

    /// Numbers, which no panic leaves half changed.
    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    pub(super) fn seat(&self) -> &Arc<Seat> {
        &self.seat
    }

    /// A request's head has come in; its answer ends when what is returned is dropped.
    pub(super) fn request(self: &Arc<Self>) -> (Receiving, Answering) {
        self.seat.change_to(Activity::Receiving);
        (Receiving(Arc::clone(self)), Answering(Arc::clone(self)))
    }

    /// It waits for a place elsewhere.
    pub(super) fn waits(&self) {
        self.seat.change_to(Activity::Waiting);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.seats.remove(&self.number);
        taken.open -= 1;
        drop(taken);
        self.places.freed.notify_one();
    }
}

impl Seat {
    /// Completes when another connection needs the place.
    pub(super) async fn must_give_way(&self) {
        self.give_way.notified().await;
    }

    /// Whether closing the connection now costs no answer.
    pub(super) fn can_give_way(&self) -> bool {
        !matches!(self.activity().0, Activity::Answering | Activity::Waiting) && !self.stalled.load(Ordering::Relaxed)
    }

    pub(super) fn set_stalled(&self, stalled: bool) {
        self.stalled.store(stalled, Ordering::Relaxed);
    }

    /// The lowest gives way first; `None` does not.
    fn rank(&self, answered_give_way: bool) -> Option<(u8, Instant)> {
        let (activity, since) = *self.activity();
        let rank = match activity {
            _ if self.stalled.load(Ordering::Relaxed) => None,
            Activity::Idle => Some(0),
            Activity::Receiving if since.elapsed() > BODY_GRACE => Some(1),
            Activity::Receiving | Activity::Answering if answered_give_way => Some(2),
            Activity::Receiving | Activity::Answering | Activity::Waiting => None,
        };
        rank.map(|rank| (rank, since))
    }

    fn change_to(&self, activity: Activity) {
        *self.activity() = (activity, Instant::now());
    }

    fn activity(&self) -> MutexGuard<'_, (Activity, Instant)> {
        self.activity.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request's body is coming in until this is dropped.
pub(super) struct Receiving(Arc<Place>);

impl Drop for Receiving {
    fn drop(&mut self) {
        let mut activity = self.0.seat.activity();
        if activity.0 == Activity::Receiving {
            *activity = (Activity::Answering, Instant::now());
        }
    }
}

/// A request is being answered until this is dropped.
pub(super) struct Answering(Arc<Place>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.seat.change_to(Activity::Idle);
        self.0.places.freed.notify_one();
    }
}

/// A body, and what is dropped with it.
pub(super) struct Guarded<B, G> {
    pub(super) body: B,
    pub(super) _guard: G,
}

impl<B: Body + Unpin, G: Unpin> Body for Guarded<B, G> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const THERE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

    fn places(most: usize, most_per_address: Option<usize>) -> Arc<Places> {
        Places::new(PlaceLimits { most, most_per_address, answered_give_way: false })
    }

    async fn is_asked_to_go(place: &Place) -> bool {
        timeout(Duration::from_millis(1), place.seat().must_give_way()).await.is_ok()
    }

    #[tokio::test]
    async fn the_longest_idle_gives_way_and_who_is_answered_does_not() {
        let places = places(3, None);
        let [first, second, third] = [(); 3].map(|()| Arc::new(places.try_take(HERE).unwrap()));
        let (receiving, answering) = first.request();
        drop(receiving);
        let fourth = places.try_take(HERE).unwrap();
        assert!(is_asked_to_go(&second).await && !is_asked_to_go(&first).await && !is_asked_to_go(&third).await);
        assert!(second.seat().can_give_way() && !first.seat().can_give_way());

        // After its answer, the first is the newest of the idle ones.
        drop(answering);
        let fifth = places.try_take(HERE).unwrap();
        assert!(is_asked_to_go(&third).await && !is_asked_to_go(&first).await && !is_asked_to_go(&fourth).await);
        // Those that were asked to go are still open: no more until one has gone.
        let _sixth = places.try_take(HERE).unwrap();
        assert_eq!(places.try_take(HERE).err(), Some(Full::All));
        drop(fifth);
        assert!(places.try_take(HERE).is_ok());
    }

    #[tokio::test]
    async fn a_place_is_waited_for() {
        let places = places(1, None);
        let only = Arc::new(places.try_take(HERE).unwrap());
        let (receiving, answering) = only.request();
        drop(receiving);
        assert_eq!(places.try_take(HERE).err(), Some(Full::All));
        let (next, ()) = tokio::join!(places.take(HERE), async { drop(answering) });
        assert!(next.is_ok() && is_asked_to_go(&only).await);
    }

    #[tokio::test]
    async fn one_address_has_its_share() {
        let places = places(9, Some(2));
        let held = [(); 2].map(|()| Arc::new(places.try_take(HERE).unwrap()));
        let answers = held.each_ref().map(Place::request);
        assert_eq!(places.try_take(HERE).err(), Some(Full::Address(2)));
        assert!(places.try_take(THERE).is_ok());
        drop(answers);
        assert!(places.try_take(HERE).is_ok());
        assert!(is_asked_to_go(&held[0]).await || is_asked_to_go(&held[1]).await);
    }
}
