//! [`Client`]: asks, and now and then does what no client should.

use std::{pin::pin, rc::Rc, thread, time::Duration};

use quern_engine::EngineState;
use serde_json::json;
use tokio::{task::yield_now, time::timeout};

use crate::{
    ask::{Api, Ask},
    judge::{Circumstances, judge, note_prompt},
    rng::Rng,
    swarm::{ADMIN_KEY, key},
    trick::{Sending, Trick},
    wire::{Response, Wire},
    world::{Abort, World},
};

/// Longest that any answer takes, in virtual time: the queue of a slow world, and a step that takes its time.
const PATIENCE: Duration = Duration::from_secs(4 * 3600);

/// Longest that threads which virtual time does not wait for may take, in the machine's time.
const PREPARING: Duration = Duration::from_secs(60);

/// Requests that a client remembers to send again.
const REMEMBERED: usize = 6;

pub(crate) struct Client {
    pub(crate) world: Rc<World>,
    index: usize,
    pub(crate) rng: Rng,
    wire: Option<Wire>,
    remembered: Vec<Ask>,
    num_sent: usize,
}

impl Client {
    pub(crate) fn new(world: Rc<World>, index: usize, rng: Rng) -> Self {
        Self { world, index, rng, wire: None, remembered: Vec::new(), num_sent: 0 }
    }

    /// Whose things it may see: those of its key, or everybody's where there are none.
    pub(crate) fn owner(&self) -> usize {
        self.index % self.world.swarm.num_keys.max(1)
    }

    fn address(&self) -> [u8; 4] {
        [10, 0, 0, (self.index % 5) as u8 + 1]
    }

    fn own_key(&self) -> Option<String> {
        (self.world.swarm.num_keys > 0).then(|| key(self.owner()))
    }

    /// Send `requests` requests, one after the other.
    pub(crate) async fn live(mut self, requests: usize) {
        let mean = self.world.swarm.think_ms;
        while self.num_sent < requests {
            let pause = self.rng.exponential(mean) as u64;
            self.world.pause(pause).await;
            if !self.next().await {
                return;
            }
        }
    }

    /// One request; `false` if the server is gone.
    async fn next(&mut self) -> bool {
        if self.rng.percent(8.0) {
            return self.meddle().await;
        }
        let mut ask = self.ask();
        let trick = self.rng.percent(self.world.swarm.client_faults).then(|| *self.rng.pick(Trick::ALL));
        // Grammars are compiled by threads of their own. A client waits for them before time goes on.
        let trick = trick.filter(|trick| *trick != Trick::BadGrammar || self.is_heard_at_once());
        if trick.is_some() || !self.is_heard_at_once() {
            ask.lift_constraint();
        }
        self.request(&ask, trick).await
    }

    /// Whether the server reads what is sent before time goes on: a new connection may wait to be accepted, or for a place.
    fn is_heard_at_once(&self) -> bool {
        self.wire.is_some() && !self.world.swarm.is_tight
    }

    /// Something new, or something that was asked before.
    fn ask(&mut self) -> Ask {
        if !self.remembered.is_empty() && self.rng.percent(30.0) {
            let mut ask = self.rng.pick(&self.remembered).clone();
            ask.streams = self.rng.percent(60.0);
            return ask;
        }
        let ask = Ask::new(&mut self.rng, self.world.swarm.longest_output);
        if self.remembered.len() >= REMEMBERED {
            let index = self.rng.below(REMEMBERED);
            self.remembered.swap_remove(index);
        }
        self.remembered.push(ask.clone());
        ask
    }

    async fn request(&mut self, ask: &Ask, trick: Option<Trick>) -> bool {
        let world = Rc::clone(&self.world);
        let rid = format!("c{}-{}", self.index, self.num_sent);
        let named = !matches!(ask.api, Api::Messages | Api::Responses | Api::Ollama);
        // Ids of one's own choice can be named by others; the server's cannot, but everything can be aborted.
        let id = if named { rid.clone() } else { format!("~{rid}") };
        let may_abort = world.memory.borrow_mut().begin(id.clone(), self.owner());
        let body = ask.body(named.then_some(rid.as_str())).to_string();
        let mut sending = Sending::plain(ask.api.path(), self.own_key(), body.into_bytes());
        if let Some(trick) = trick {
            world.tally.borrow_mut().fault(trick.name());
            trick.apply(&mut sending, self);
        }
        let circumstances = Circumstances {
            trick,
            owner: self.owner(),
            struck: world.num_struck(),
            unaccepted: world.unaccepted.get(),
            comes_in_pieces: trick == Some(Trick::Pieces)
                || !world.is_accepting() && sending.head.len() > world.swarm.wire_bytes,
            was_serving: world.state.engine.metrics().state() == EngineState::Serving,
            may_abort,
            is_reused: false,
            refusals: sending.refusals,
            may_be_cut: sending.may_be_cut,
        };
        note_prompt(&world, self.owner(), ask);
        let settles = ask.has_constraint() || trick == Some(Trick::BadGrammar);
        let outcome = self.exchange(&sending, settles).await;
        world.memory.borrow_mut().alive.remove(&id);
        let Some((response, is_reused)) = outcome else { return false };
        judge(&world, ask, response, &Circumstances { is_reused, ..circumstances });
        true
    }

    /// Send, and read what comes back: an answer, or nothing. `None` if the server listens no more.
    async fn exchange(&mut self, sending: &Sending, settles: bool) -> Option<(Option<Response>, bool)> {
        let world = Rc::clone(&self.world);
        self.num_sent += 1;
        let mut wire = match self.wire.take() {
            Some(wire) if !sending.wants_new_wire => wire,
            _ => world.connect(self.address())?,
        };
        let is_reused = wire.is_reused;
        let _open = world.open();
        let response = timeout(PATIENCE, async {
            for (piece, pause) in &sending.pieces {
                if *pause > 0 {
                    world.pause(*pause).await;
                }
                if sending.pace_is_late {
                    // Nobody reads the server's words meanwhile, so that it may not take ours.
                    if timeout(Duration::from_secs(600), wire.send(piece)).await.is_err() {
                        break;
                    }
                } else if wire.send(piece).await.is_err() {
                    break;
                }
                world.wake_engine();
            }
            if sending.leaves {
                return None;
            }
            if sending.closes_writing {
                wire.close_writing().await;
            }
            let mut response = pin!(wire.receive(&world, sending.pace));
            if settles || sending.applies_commands {
                let alive = world.state.engine.num_alive();
                // What prepares the request is a thread that virtual time does not wait for.
                let settled = async {
                    let began = std::time::Instant::now();
                    while world.state.engine.num_alive() <= alive || sending.applies_commands {
                        assert!(began.elapsed() < PREPARING, "{:?} is not read", sending.first_line());
                        if sending.applies_commands {
                            world.apply_commands();
                        }
                        // Other worlds play meanwhile.
                        thread::yield_now();
                        yield_now().await;
                    }
                };
                tokio::select! {
                    biased;
                    response = &mut response => return response,
                    () = settled => {}
                }
            }
            response.await
        });
        let response = response.await.unwrap_or_else(|_| panic!("no answer to {:?}", sending.first_line()));
        if response.as_ref().is_some_and(|response| response.is_whole && response.header("connection") != Some("close"))
            && sending.keeps_wire
        {
            self.wire = Some(wire);
        }
        Some((response, is_reused))
    }

    /// What is no request for tokens: probes, figures, aborts, flushes, stored answers of one's own and of others.
    async fn meddle(&mut self) -> bool {
        let world = Rc::clone(&self.world);
        let admin = world.swarm.api.admin_api_key.is_some();
        let admin_key = if admin { Some(ADMIN_KEY.to_owned()) } else { self.own_key() };
        match self.rng.below(8) {
            0 => {
                let path = *self.rng.pick(&["/live", "/ready", "/health", "/health/progress", "/health_generate"]);
                let sending = Sending { wants_new_wire: true, keeps_wire: false, ..Sending::get(path, None) };
                let Some((response, _)) = self.exchange(&sending, false).await else { return false };
                let Some(response) = response else {
                    assert!(
                        world.swarm.is_tight || world.is_draining.get() || world.is_broken(),
                        "no answer from {path}"
                    );
                    return true;
                };
                assert!(
                    response.status == 200 || path != "/live" && response.status == 503,
                    "{path} says {}",
                    response.status
                );
            }
            1 => {
                let path = *self.rng.pick(&[
                    "/v1/models",
                    "/metrics",
                    "/server_info",
                    "/model_info",
                    "/v1/loads",
                    "/api/tags",
                    "/nothing",
                ]);
                return self.look(Sending::get(path, self.own_key()), &[200, 401, 404]).await;
            }
            2 => {
                // Another client's request, by its name, with one's own key.
                let (key, is_admins) = if admin && self.rng.percent(50.0) {
                    (Some(ADMIN_KEY.into()), true)
                } else {
                    (self.own_key(), false)
                };
                let ids: Vec<String> =
                    world.memory.borrow().alive.keys().filter(|id| !id.starts_with('~')).cloned().collect();
                let rid = if ids.is_empty() { "nobody".to_owned() } else { self.rng.pick(&ids).clone() };
                let sees_all = is_admins || !admin && world.swarm.num_keys == 0;
                let sending = Sending::plain("/abort_request", key, json!({"rid": rid}).to_string().into_bytes());
                let abort = Abort { owner: (!sees_all).then(|| self.owner()), rid: Some(rid) };
                let abort = (!admin || is_admins).then(|| world.memory.borrow_mut().send_abort(abort));
                world.tally.borrow_mut().fault("aborts by name");
                let goes_on = self.look(sending, &[200, 401]).await;
                abort.iter().for_each(|abort| world.memory.borrow_mut().end_abort(abort));
                return goes_on;
            }
            3 => {
                let sees_all = admin || world.swarm.num_keys == 0;
                let abort = Abort { owner: (!sees_all).then(|| self.owner()), rid: None };
                let abort = world.memory.borrow_mut().send_abort(abort);
                world.tally.borrow_mut().fault("everything is aborted");
                let body = json!({"abort_all": true}).to_string();
                let sending = Sending::plain("/abort_request", admin_key, body.into_bytes());
                let goes_on = self.look(sending, &[200]).await;
                world.memory.borrow_mut().end_abort(&abort);
                return goes_on;
            }
            4 if self.is_heard_at_once() && !world.is_draining.get() => {
                world.tally.borrow_mut().fault("the cache is flushed");
                let sending =
                    Sending { applies_commands: true, ..Sending::plain("/flush_cache", admin_key, Vec::new()) };
                return self.look(sending, &[200, 400]).await;
            }
            5 | 6 => {
                let stored = world.memory.borrow().stored.clone();
                if stored.is_empty() {
                    return true;
                }
                let (owner, id) = self.rng.pick(&stored).clone();
                let is_foreign = owner != self.owner() && world.swarm.num_keys > 0;
                if is_foreign {
                    world.tally.borrow_mut().fault("another tenant's answer is asked for");
                }
                let sending = match self.rng.below(3) {
                    0 => Sending::get(&format!("/v1/responses/{id}"), self.own_key()),
                    1 => Sending::plain(&format!("/v1/responses/{id}/cancel"), self.own_key(), Vec::new()),
                    _ => {
                        let body = json!({"input": "go on", "previous_response_id": id, "max_output_tokens": 2});
                        Sending::plain("/v1/responses", self.own_key(), body.to_string().into_bytes())
                    }
                };
                // It may have been dropped for newer ones, and the engine may be busy, or down.
                let foreign: &[u16] = &[404, 400];
                let own: &[u16] = &[200, 400, 404, 409, 429, 500, 503];
                return self.look(sending, if is_foreign { foreign } else { own }).await;
            }
            _ => {
                // Sockets that say nothing.
                world.tally.borrow_mut().fault("idle connections");
                let idle: Vec<_> = (0..self.rng.between(1, 40)).map_while(|_| world.connect(self.address())).collect();
                let pause = self.rng.between(1, 90_000) as u64;
                world.pause(pause).await;
                drop(idle);
            }
        }
        true
    }

    /// A request whose answer is a status.
    async fn look(&mut self, sending: Sending, allowed: &[u16]) -> bool {
        let world = Rc::clone(&self.world);
        let Some((response, is_reused)) = self.exchange(&sending, false).await else { return false };
        let Some(response) = response.filter(|response| response.is_whole) else {
            assert!(
                world.swarm.is_tight || world.is_draining.get() || is_reused || world.is_broken(),
                "no answer to {:?}",
                sending.first_line()
            );
            return true;
        };
        *world.tally.borrow_mut().statuses.entry(response.status).or_default() += 1;
        let busy = response.status == 503 && (world.swarm.is_tight || world.is_draining.get()) || world.is_broken();
        assert!(
            allowed.contains(&response.status) || busy,
            "{:?}: {} {}",
            sending.first_line(),
            response.status,
            String::from_utf8_lossy(&response.body)
        );
        true
    }
}

impl Sending {
    /// The first line of what is sent.
    pub(crate) fn first_line(&self) -> String {
        let bytes: Vec<u8> = self.pieces.iter().flat_map(|(piece, _)| piece.iter().copied()).take(80).collect();
        String::from_utf8_lossy(&bytes).lines().next().unwrap_or_default().to_owned()
    }
}
