//! [`judge`]: whether an answer is one that the request may have, under the circumstances.

use std::{cell::Cell, rc::Rc};

use quern_engine::EngineState;

use crate::{
    ask::{Api, Ask},
    reply::{End, Reply},
    trick::Trick,
    wire::Response,
    world::World,
};

/// What was the case when a request was sent.
pub(crate) struct Circumstances {
    pub(crate) trick: Option<Trick>,
    pub(crate) owner: usize,
    /// Faults of the engine that had struck.
    pub(crate) struck: u64,
    /// Connections that could not be accepted.
    pub(crate) unaccepted: u64,
    pub(crate) was_serving: bool,
    /// Whether there is a time at which the server has a part of its head.
    pub(crate) comes_in_pieces: bool,
    /// Whether somebody who may has aborted it meanwhile.
    pub(crate) may_abort: Rc<Cell<bool>>,
    /// Whether it went over a connection that an earlier request had used, and that the server may have closed meanwhile.
    pub(crate) is_reused: bool,
    /// Statuses that are answers to what is wrong with it; none: it is right.
    pub(crate) refusals: &'static [u16],
    /// Whether the client left, or was too slow to be waited for.
    pub(crate) may_be_cut: bool,
}

/// Judge, and remember what was said.
///
/// # Panics
/// If the answer is none that the request may have.
pub(crate) fn judge(world: &World, ask: &Ask, response: Option<Response>, about: &Circumstances) {
    let now = world.now_ms();
    let status = response.as_ref().map_or(0, |response| response.status);
    if world.is_broken() {
        // What came is an answer or an error, or nothing because the connection broke: that was looked at on the way here.
        if let Some(response) = response.filter(|response| response.is_whole) {
            Reply::read(ask.api, ask.n, &response);
        }
        return;
    }
    let Some(response) = response else {
        note(world, &format!("{now} 0"), status);
        // Where the system has no file for a connection, one whose request is not whole gives way.
        let gave_way = about.comes_in_pieces && world.unaccepted.get() != about.unaccepted;
        let excused =
            gave_way || about.may_be_cut || about.is_reused || world.swarm.is_tight || world.is_draining.get();
        assert!(excused, "{:?}, {ask:?}: no answer", about.trick);
        return;
    };
    let is_json = response.header("content-type").is_some_and(|kind| kind.starts_with("application/json"));
    if response.status != 200 && !is_json {
        // HTTP itself is broken, and no API has been asked.
        note(world, &format!("{now} {status}"), status);
        assert!(
            about.refusals.contains(&response.status),
            "{:?}, {ask:?}: {} without words",
            about.trick,
            response.status
        );
        return;
    }
    let reply = Reply::read(ask.api, ask.n, &response);
    note(world, &format!("{now} {status} {:?} {:?}", reply.texts, reply.ends), status);
    let has_struck = world.num_struck() != about.struck || !about.was_serving;
    let is_down = world.state.engine.metrics().state() != EngineState::Serving;
    let is_cut = !response.is_whole;
    let words = reply.error.clone().unwrap_or_default();
    if is_cut {
        assert!(about.may_be_cut, "{:?}, {ask:?}: cut after {} bytes: {words}", about.trick, response.body.len());
    } else if !about.refusals.is_empty() {
        let is_busy = matches!(response.status, 429 | 503) && (world.swarm.has_bounded_queue || world.swarm.is_tight);
        let excused = is_busy || response.status >= 500 && (has_struck || is_down || world.is_draining.get());
        // A slow client may have been just quick enough, and what is wrong may be a field that its API passes over.
        let may_be_served = about.refusals.iter().any(|status| matches!(status, 200 | 408));
        let aborted = about.may_abort.get() && reply.is_or_was_aborted(&words);
        let served = may_be_served && (response.status == 200 || aborted);
        assert!(
            about.refusals.contains(&response.status) || excused || served,
            "{:?}, {ask:?}: {} {words}",
            about.trick,
            response.status
        );
        return;
    } else if response.status != 200 {
        let excused = match response.status {
            500 => has_struck,
            503 => {
                has_struck
                    || is_down
                    || world.is_draining.get()
                    || world.swarm.has_bounded_queue
                    || world.swarm.is_tight
            }
            429 => world.swarm.has_bounded_queue,
            408 => about.may_be_cut,
            _ => false,
        };
        assert!(
            excused || about.may_abort.get() && reply.is_or_was_aborted(&words),
            "{:?}, {ask:?}: {} {words}",
            about.trick,
            response.status
        );
        return;
    } else if reply.error.is_some() {
        let aborted = about.may_abort.get() || world.is_draining.get();
        assert!(has_struck || is_down || aborted, "{:?}, {ask:?}: {words}", about.trick);
    } else if reply.is_aborted() {
        assert!(about.may_abort.get() || world.is_draining.get(), "{:?}, {ask:?}: aborted by nobody", about.trick);
    }
    compare(world, ask, &reply, is_cut);
    if let (Some(cached), true) = (reply.cached_tokens, matches!(ask.api, Api::Generate | Api::Completions)) {
        let most = longest_cached(world, about.owner, ask);
        assert!(cached as usize <= most, "{:?}, {ask:?}: {cached} cached tokens, of {most}", about.trick);
    }
    if let Some(id) = reply.stored_id.filter(|_| !is_cut) {
        let mut memory = world.memory.borrow_mut();
        memory.stored.push((about.owner, id));
        if memory.stored.len() > 64 {
            memory.stored.remove(0);
        }
    }
}

/// Which cache holds the prompt, and under which beginning.
fn place(world: &World, owner: usize, ask: &Ask) -> (usize, Option<usize>) {
    let owner = if world.swarm.api.shared_prefix_cache { 0 } else { owner };
    (owner, (ask.prompt.shared > 0).then_some(ask.prompt.family))
}

/// Take note of a prompt that is about to be sent.
pub(crate) fn note_prompt(world: &World, owner: usize, ask: &Ask) {
    if matches!(ask.api, Api::Generate | Api::Completions) {
        let mut memory = world.memory.borrow_mut();
        let sent = memory.prompts.entry(place(world, owner, ask)).or_default();
        *sent.entry((ask.prompt.shared, ask.prompt.len())).or_default() += 1;
    }
}

/// How many tokens of its prompt can be cached, at most, with what its owner has asked besides.
fn longest_cached(world: &World, owner: usize, ask: &Ask) -> usize {
    let own = (ask.prompt.shared, ask.prompt.len());
    let memory = world.memory.borrow();
    let sent = memory.prompts.get(&place(world, owner, ask)).into_iter().flatten();
    let common = |(&(shared, len), &count): (&(usize, usize), &usize)| match shared == own.0 {
        // The request itself is one of them.
        true if (shared, len) == own && count == 1 => 0,
        true => len,
        false => shared.min(own.0),
    };
    // Several outputs share their prompt among themselves.
    let outputs = if ask.n > 1 { ask.n * own.1 } else { 0 };
    sent.map(common).max().unwrap_or(0).max(outputs)
}

impl Reply {
    fn is_or_was_aborted(&self, words: &str) -> bool {
        self.is_aborted() || words.contains("aborted")
    }
}

/// What was said is what is said to this request alone, to the bit; what was cut is its beginning.
fn compare(world: &World, ask: &Ask, reply: &Reply, is_cut: bool) {
    let is_finished = |end: &End| matches!(end, End::Finished(_));
    let is_whole = !is_cut && reply.error.is_none() && reply.ends.iter().all(is_finished);
    let mut is_compared = false;
    if let (true, Some(ids), Some((tokens, is_stopped))) = (is_whole, &reply.ids, ask.expected()) {
        let wanted = if is_stopped { &tokens[..tokens.len() - 1] } else { &tokens[..] };
        assert!(ids == &tokens || ids == wanted, "{ask:?}: {ids:?} instead of {tokens:?}");
        assert_eq!(reply.ends[0], End::Finished(if is_stopped { "stop" } else { "length" }), "{ask:?}");
        is_compared = true;
    }
    let mut memory = world.memory.borrow_mut();
    match memory.outputs.get(&ask.key()) {
        Some(known) if is_whole => {
            assert_eq!(&reply.texts, known, "{ask:?}: other words than before");
            is_compared = true;
        }
        Some(known) => {
            for (text, known) in reply.texts.iter().zip(known) {
                // A character that was begun ends as U+FFFD where its output ends early.
                let text = text.trim_end_matches('\u{fffd}');
                assert!(known.starts_with(text), "{ask:?}: {text:?} is no beginning of {known:?}");
            }
        }
        None if is_whole => drop(memory.outputs.insert(ask.key(), reply.texts.clone())),
        None => {}
    }
    drop(memory);
    let mut tally = world.tally.borrow_mut();
    tally.whole += u64::from(is_whole);
    tally.compared += u64::from(is_compared);
}

fn note(world: &World, what: &str, status: u16) {
    let mut tally = world.tally.borrow_mut();
    tally.note(what.as_bytes());
    *tally.statuses.entry(status).or_default() += 1;
}
