//! [`Team`]: the ranks of one process exchange through shared memory.
//!
//! An exchange: each rank writes what it has to a slot of its own, all meet, and each reads what it wants of all slots.
//!
//! ```text
//! rank 0   write slot 0 ─┐          ┌─ read slots 0, 1
//!                        ├─ meeting ┤
//! rank 1   write slot 1 ─┘          └─ read slots 0, 1
//! ```
//!
//! There are two sets of slots, used in turn. A rank writes to a set again two exchanges later, and it has met the
//! others in between, who had then read what was there: one meeting an exchange is enough.

use std::{
    ops::Range,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use quern_backend::{Collective, Lost, Rank, collective};
use smallvec::SmallVec;

use crate::pool::spin_until;

/// How long a rank spins for the others, where each has cores of its own: what shares of equal work differ by.
const SPIN: Duration = Duration::from_micros(200);

/// Floats from which on each rank adds up a share of them and takes the others' shares, instead of adding up all.
const LARGE: usize = 64 << 10;

/// Ranks up to which an exchange allocates nothing, once slots are as long as what is exchanged.
const FEW: usize = 16;

/// What a rank shows the others.
type Slot = RwLock<Vec<f32>>;

/// What the ranks of one process have in common.
pub(crate) struct Team {
    ranks: usize,
    slots: [Vec<Slot>; 2],
    meeting: Meeting,
}

impl Team {
    /// `ranks` members, who spin for one another if `has_cores` enough for all their threads.
    pub(crate) fn members(ranks: usize, has_cores: bool) -> Vec<TeamMember> {
        let slots = || (0..ranks).map(|_| RwLock::default()).collect();
        let spin = if has_cores { SPIN } else { Duration::ZERO };
        let team = Arc::new(Self { ranks, slots: [slots(), slots()], meeting: Meeting::new(ranks, spin) });
        let member = |index| TeamMember {
            rank: Rank { index, count: ranks },
            team: Arc::clone(&team),
            exchanges: AtomicUsize::new(0),
            sum: Mutex::default(),
        };
        (0..ranks).map(member).collect()
    }
}

/// One rank's access to its [`Team`].
pub(crate) struct TeamMember {
    rank: Rank,
    team: Arc<Team>,
    /// How many it has taken part in.
    exchanges: AtomicUsize,
    /// Its share of a large sum, kept from one to the next. Only its own thread locks it.
    sum: Mutex<Vec<f32>>,
}

impl TeamMember {
    /// Show `own` to the others, and wait until all have shown theirs: the slots to [`read`] them from.
    fn show(&self, own: &[f32]) -> Result<&[Slot], Lost> {
        let turn = self.exchanges.fetch_add(1, Ordering::Relaxed);
        let slots = &self.team.slots[turn % 2];
        {
            let mut slot = slots[self.rank.index].write().unwrap_or_else(PoisonError::into_inner);
            slot.clear();
            slot.extend_from_slice(own);
        }
        self.team.meeting.meet()?;
        Ok(slots)
    }
}

/// Call `f` with what all ranks show, by rank.
fn read(slots: &[Slot], f: impl FnOnce(&[&[f32]])) {
    let slots = slots.iter().map(|slot| slot.read().unwrap_or_else(PoisonError::into_inner));
    let slots: SmallVec<[_; FEW]> = slots.collect();
    f(&slots.iter().map(|slot| slot.as_slice()).collect::<SmallVec<[_; FEW]>>());
}

impl Collective for TeamMember {
    fn rank(&self) -> Rank {
        self.rank
    }

    fn all_reduce(&self, values: &mut [f32]) -> Result<(), Lost> {
        if values.len() < LARGE {
            read(self.show(values)?, |parts| collective::tree(parts, values));
            return Ok(());
        }
        let (count, len) = (self.team.ranks, values.len());
        let share = |index| Rank { index, count }.share(len);
        let here: Range<usize> = share(self.rank.index);
        let mut sum = self.sum.lock().unwrap_or_else(PoisonError::into_inner);
        sum.resize(here.len(), 0.0);
        read(self.show(values)?, |parts| {
            let parts: SmallVec<[&[f32]; FEW]> = parts.iter().map(|part| &part[here.clone()]).collect();
            collective::tree(&parts, &mut sum);
        });
        read(self.show(&sum)?, |sums| {
            for (index, sum) in sums.iter().enumerate() {
                values[share(index)].copy_from_slice(sum);
            }
        });
        Ok(())
    }

    fn gather(&self, own: &[f32], widths: &[usize], all: &mut [f32]) -> Result<(), Lost> {
        let slots = self.show(own)?;
        if self.rank.index == 0 {
            read(slots, |parts| collective::side_by_side(parts, widths, all));
        }
        Ok(())
    }

    fn broadcast(&self, values: &mut [f32]) -> Result<(), Lost> {
        if self.rank.index == 0 {
            return self.show(values).map(drop);
        }
        read(self.show(&[])?, |parts| values.copy_from_slice(parts[0]));
        Ok(())
    }

    fn poison(&self, cause: &str) {
        self.team.meeting.poison(Lost { rank: self.rank.index, cause: cause.into(), gone: false });
    }

    fn reset(&self) -> Result<(), Lost> {
        self.exchanges.store(0, Ordering::Relaxed);
        self.team.meeting.reset();
        Ok(())
    }
}

/// Where ranks wait until all have come.
struct Meeting {
    ranks: usize,
    spin: Duration,
    state: Mutex<MeetingState>,
    ended: Condvar,
    /// [`MeetingState::held`], for those who spin.
    held: AtomicUsize,
    /// Whether there is a [`MeetingState::lost`], likewise.
    is_lost: AtomicBool,
}

#[derive(Default)]
struct MeetingState {
    /// Ranks that wait for the present meeting.
    arrived: usize,
    /// Meetings that have been held.
    held: usize,
    lost: Option<Lost>,
    /// Ranks that are ready to begin again.
    resets: usize,
}

impl Meeting {
    fn new(ranks: usize, spin: Duration) -> Self {
        Self {
            ranks,
            spin,
            state: Mutex::default(),
            ended: Condvar::new(),
            held: AtomicUsize::new(0),
            is_lost: AtomicBool::new(false),
        }
    }

    /// Wait until all ranks have called this, or one is lost.
    fn meet(&self) -> Result<(), Lost> {
        let mut state = self.state();
        if let Some(lost) = &state.lost {
            return Err(lost.clone());
        }
        state.arrived += 1;
        if state.arrived == self.ranks {
            state.arrived = 0;
            state.held += 1;
            self.held.store(state.held, Ordering::Release);
            self.ended.notify_all();
            return Ok(());
        }
        let present = state.held;
        drop(state);
        spin_until(self.spin, || self.held.load(Ordering::Acquire) != present || self.is_lost.load(Ordering::Acquire));
        let mut state = self.state();
        loop {
            match &state.lost {
                _ if state.held != present => return Ok(()),
                Some(lost) => return Err(lost.clone()),
                None => state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn poison(&self, lost: Lost) {
        self.state().lost.get_or_insert(lost);
        self.is_lost.store(true, Ordering::Release);
        self.ended.notify_all();
    }

    fn reset(&self) {
        let mut state = self.state();
        state.resets += 1;
        if state.resets == self.ranks {
            *state = MeetingState { held: state.held, ..MeetingState::default() };
            self.is_lost.store(false, Ordering::Release);
        }
    }

    /// Each change is one assignment or a few counters under the lock, so poison means nothing.
    fn state(&self) -> MutexGuard<'_, MeetingState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        alloc::{GlobalAlloc, Layout, System},
        cell::Cell,
        thread,
    };

    use quern_backend::conformance::Rng;

    use super::*;

    thread_local! {
        /// Allocations of this thread.
        static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
    }

    /// The system's allocator, counted.
    struct CountingAllocator;

    // SAFETY: all is the system allocator's; counting allocates nothing and cannot panic.
    unsafe impl GlobalAlloc for CountingAllocator {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            // A thread that ends has no count any more, and nobody asks for it.
            let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
            // SAFETY: the caller's promise is passed on.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
            // SAFETY: as above.
            unsafe { System.dealloc(pointer, layout) }
        }
    }

    #[global_allocator]
    static COUNTED: CountingAllocator = CountingAllocator;

    #[test]
    fn exchanges_of_known_lengths_allocate_nothing() {
        let members = Team::members(4, false);
        let allocations = together(&members, |member| {
            let (mut short, mut long) = (vec![1.0; 2048], vec![1.0; LARGE + 13]);
            let own = [2.0; 8];
            let mut all = vec![0.0; if member.rank().index == 0 { 32 } else { 0 }];
            let mut round = || {
                short.fill(1.0);
                long.fill(1.0);
                for values in [&mut short, &mut long] {
                    member.all_reduce(values).expect("nobody is lost");
                    assert!(values.iter().all(|value| *value == 4.0));
                }
                member.gather(&own, &[8; 4], &mut all).expect("nobody is lost");
            };
            // The first rounds make both sets of slots as long as they get.
            (0..4).for_each(|_| round());
            let before = ALLOCATIONS.get();
            (0..4).for_each(|_| round());
            ALLOCATIONS.get() - before
        });
        assert_eq!(allocations, [0; 4]);
    }

    /// Call `f` on a thread for each member; what each returns.
    fn together<T: Send>(members: &[TeamMember], f: impl Fn(&TeamMember) -> T + Sync) -> Vec<T> {
        thread::scope(|scope| {
            let running: Vec<_> = members.iter().map(|member| scope.spawn(|| f(member))).collect();
            running.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        })
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    #[test]
    fn every_rank_has_the_trees_sum_whatever_its_length() {
        for ranks in [1, 2, 3, 4, 8] {
            let members = Team::members(ranks, false);
            let mut rng = Rng(7);
            // Short, long, and short again right behind one another: slots change their lengths.
            for length in [1, 2048, 5, LARGE + 13, 0, 96, LARGE] {
                let parts: Vec<_> = (0..ranks).map(|_| rng.values(length)).collect();
                let mut wanted = vec![0.0; length];
                collective::tree(&parts.iter().map(Vec::as_slice).collect::<Vec<_>>(), &mut wanted);
                let sums = together(&members, |member| {
                    let mut values = parts[member.rank().index].clone();
                    member.all_reduce(&mut values).expect("nobody is lost");
                    values
                });
                for sum in sums {
                    assert_eq!(bits(&sum), bits(&wanted), "{ranks} ranks, {length} floats");
                }
            }
        }
    }

    #[test]
    fn exchanges_follow_one_another_by_the_thousand() {
        let members = Team::members(3, true);
        let sums = together(&members, |member| {
            let mut sum = 0.0;
            for round in 0..2000 {
                let mut value = [(round * (member.rank().index + 1)) as f32];
                member.all_reduce(&mut value).expect("nobody is lost");
                sum += f64::from(value[0]);
            }
            sum
        });
        assert_eq!(sums, [6.0 * (1999.0 * 2000.0 / 2.0); 3]);
    }

    #[test]
    fn rank_0_is_heard_by_all() {
        let members = Team::members(3, true);
        let heard = together(&members, |member| {
            let mut values = [member.rank().index as f32 + 1.0, -0.0];
            member.broadcast(&mut values).expect("nobody is lost");
            values.map(f32::to_bits)
        });
        assert_eq!(heard, [[1.0_f32.to_bits(), (-0.0_f32).to_bits()]; 3]);
    }

    #[test]
    fn rank_0_gathers_rows_of_different_widths() {
        let members = Team::members(3, false);
        let widths = [2, 0, 1];
        let gathered = together(&members, |member| {
            let index = member.rank().index;
            let own: Vec<f32> = (0..2 * widths[index]).map(|i| (10 * index + i) as f32).collect();
            let mut all = vec![-1.0; if index == 0 { 6 } else { 0 }];
            member.gather(&own, &widths, &mut all).expect("nobody is lost");
            all
        });
        assert_eq!(gathered, [vec![0.0, 1.0, 20.0, 2.0, 3.0, 21.0], Vec::new(), Vec::new()]);
    }

    #[test]
    fn a_lost_rank_frees_all_who_wait_and_the_team_begins_again() {
        for unlucky in 0..3 {
            let members = Team::members(3, unlucky == 1);
            for round in 0..3 {
                let outcomes = together(&members, |member| {
                    let mut value = [1.0];
                    member.all_reduce(&mut value).expect("the first exchange is whole");
                    if member.rank().index == unlucky {
                        member.poison("is unlucky");
                        member.poison("is named twice");
                    }
                    // Those who are quick may still complete nothing: it needs the unlucky one.
                    let results = [member.all_reduce(&mut value), member.all_reduce(&mut value)];
                    results.map(|result| result.expect_err("one is lost").to_string())
                });
                let told = format!("rank {unlucky} is unlucky");
                assert!(outcomes.iter().flatten().all(|outcome| *outcome == told), "{outcomes:?}");
                members.iter().for_each(|member| member.reset().expect("threads begin again"));
                let sums = together(&members, |member| {
                    let mut value = [round as f32];
                    member.all_reduce(&mut value).map(|()| value[0])
                });
                assert_eq!(sums, [Ok(3.0 * round as f32), Ok(3.0 * round as f32), Ok(3.0 * round as f32)]);
            }
        }
    }
}
