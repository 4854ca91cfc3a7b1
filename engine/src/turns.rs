//! Turns: how it is decided whose work a step does, where several tenants want it.
//!
//! The least served tenant that has prompts to compute leads: it has seven eighths of the step, less if it wants less,
//! and the others what is left, their decoding sequences taking turns where that is less than all of them.
//!
//! A tenant that floods, with more requests than an equal share of the places, has no more than an eighth of a step while
//! another is there, even where the step has room for more: its tokens would double the time until the other's first.
//! That holds on for some steps after the other has gone, so that one who asks now and then, and comes while a step is
//! under way, finds a short one; but a tenant with fewer requests than an eighth of a step has tokens is not held back then.
//!
//! Places and pages are shared as well. Where a tenant's next request finds no pages, tenants with as many places as it
//! or more admit none until it is admitted, however many of them there are. Where a tenant cannot be admitted while
//! another holds at least two places more, the youngest of that other's sequences is retracted, one a step.

use std::collections::BTreeMap;

use crate::{
    budget::Budget, scheduler::Scheduler, sequence::SequenceKey, step_plan::StepPlan, step_turn::StepTurn,
    tenant::Tenant,
};

/// This part of a step is for those that do not lead, if they want it, and the most for one that floods.
const OTHERS_PART: usize = 8;
/// Tokens that one that floods has of a step at least: steps of fewer hardly take less time.
const LEAST_PART: usize = 16;
/// Steps after another was there in which a tenant that floods still has no more than its part.
const GUEST_STEPS: u64 = 1000;

impl Scheduler {
    /// Whose work the next step does. With one tenant it is all that one's, if no other was there lately.
    pub(crate) fn next_turn(&mut self, plan: &mut StepPlan) -> StepTurn {
        let order = self.shares.in_order();
        let flooding = self.flooding(&order);
        if order.len() < 2 && flooding.is_empty() {
            self.short_of_pages = None;
            return StepTurn { order, ..StepTurn::default() };
        }
        self.admit_short_of_pages(plan);
        if self.make_room(&order) {
            self.admit_short_of_pages(plan);
        }
        let (mut prompts, mut decodes) = (BTreeMap::<Tenant, Vec<SequenceKey>>::new(), Vec::new());
        for &key in &self.running {
            let sequence = &self.sequences[&key];
            if sequence.is_decoding() {
                decodes.push((sequence.last_step, key));
            } else if let Some(own) = prompts.get_mut(&sequence.tenant) {
                own.push(key);
            } else {
                prompts.insert(sequence.tenant.clone(), vec![key]);
            }
        }
        let mut turn = StepTurn { order, prompts, ..StepTurn::default() };
        let demand = |tenant: &Tenant| self.prompt_demand(tenant, turn.prompts_of(tenant));
        let demands: BTreeMap<_, _> = turn.order.iter().map(|tenant| (tenant.clone(), demand(tenant))).collect();
        let lead = turn.order.iter().position(|tenant| demands[tenant] > 0);
        let chunk = self.config.chunk_tokens;
        // Where nobody's prompt waits, a few long requests are no flood: their steps are theirs.
        let is_beside = lead.is_some_and(|lead| !flooding.contains(&turn.order[lead]));
        let is_bounded = |tenant: &Tenant| is_beside || self.shares.alive(tenant) > chunk / OTHERS_PART;
        let flooding: Vec<_> = flooding.into_iter().filter(is_bounded).collect();
        if lead.is_none() && flooding.is_empty() {
            return turn;
        }
        let leader = turn.order.remove(lead.unwrap_or(0));
        decodes.retain(|(_, key)| self.sequences[key].tenant != leader || flooding.contains(&leader));

        let wanted = demands[&leader];
        let wanted_by_others = decodes.len() + demands.values().sum::<usize>() - wanted;
        turn.reserved = chunk - wanted_by_others.min((chunk / OTHERS_PART).max(1));
        let mut most_decodes = (chunk - wanted.min(turn.reserved)).max(1);
        // Beside a short prompt as beside half a chunk: steps of fewer tokens hardly take less time.
        let beside = if is_beside { wanted.max(chunk / 2) } else { chunk };
        let bound = (beside / OTHERS_PART).max(LEAST_PART);
        turn.bounds = flooding.into_iter().map(|tenant| (tenant, bound)).collect();
        // Those that were part of a step longest ago are part of this one.
        decodes.sort_unstable();
        for (_, key) in decodes {
            let tenant = &self.sequences[&key].tenant;
            let left = turn.bounds.get_mut(tenant);
            // Half of it is for prompts where there are any.
            let is_spent = |left: &usize| *left <= demands[tenant].min(bound / 2);
            if most_decodes == 0 || left.as_deref().is_some_and(is_spent) {
                turn.paused.insert(key);
                continue;
            }
            most_decodes -= 1;
            if let Some(left) = left {
                *left -= 1;
            }
        }
        turn.order.insert(0, leader);
        turn
    }

    /// The tenants that have more requests than an equal share of the places, while one that has not is there or was
    /// lately.
    fn flooding(&mut self, order: &[Tenant]) -> Vec<Tenant> {
        let equal_share = self.config.max_running / order.len().max(2);
        let flooding: Vec<_> = order.iter().filter(|tenant| self.shares.alive(tenant) > equal_share).cloned().collect();
        let step = self.stats.steps;
        if !flooding.is_empty() && flooding.len() < order.len() {
            self.guest_until = step + GUEST_STEPS;
        }
        if step < self.guest_until { flooding } else { Vec::new() }
    }

    /// Chunks of prompts, those of the tenant that leads first.
    pub(crate) fn plan_tenants(&mut self, turn: &StepTurn, plan: &mut StepPlan, mut budget: Budget) {
        let Some((leader, others)) = turn.order.split_first() else { return };
        let bound_of = |tenant: &Tenant| turn.bounds.get(tenant).copied().unwrap_or(usize::MAX);
        if others.is_empty() && turn.bounds.is_empty() {
            let is_prompt = |key: &SequenceKey| !self.sequences[key].is_decoding();
            let prompts = self.running.iter().copied().filter(is_prompt).collect();
            return self.plan_prompts(leader, prompts, plan, &mut budget);
        }
        let mut own = budget.part(turn.reserved.min(bound_of(leader)));
        self.plan_prompts(leader, self.still_running(turn.prompts_of(leader)), plan, &mut own);
        budget.join(own);
        for tenant in others {
            if budget.is_spent() {
                break;
            }
            let prompts = self.still_running(turn.prompts_of(tenant));
            let mut own = budget.part(bound_of(tenant));
            self.plan_prompts(tenant, prompts, plan, &mut own);
            budget.join(own);
        }
    }

    /// Those that were not retracted for a sequence that decodes.
    fn still_running(&self, prompts: &[SequenceKey]) -> Vec<SequenceKey> {
        prompts.iter().copied().filter(|key| self.sequences[key].lock.is_some()).collect()
    }

    /// Admit the next request of the tenant that is short of pages once they are there, before the step is shared out:
    /// by then another may have led, and have spent it.
    fn admit_short_of_pages(&mut self, plan: &mut StepPlan) {
        let Some(tenant) = self.short_of_pages.clone() else { return };
        let Some(head) = self.waiting.get(&tenant, 0) else {
            // It was aborted.
            self.short_of_pages = None;
            return;
        };
        if self.running.len() < self.config.max_running && !self.is_held_back(head) {
            self.try_admit(head, plan);
        }
    }

    /// Retract a sequence for a tenant that finds no place, or no pages, while another has at least two places more;
    /// says whether one was.
    fn make_room(&mut self, order: &[Tenant]) -> bool {
        let is_full = self.running.len() >= self.config.max_running;
        if !is_full && self.short_of_pages.is_none() {
            return false;
        }
        let Some((youngest, most)) = self.youngest_of_most(0) else { return false };
        let wants_room = |tenant: &Tenant| {
            let Some(head) = self.waiting.get(tenant, 0) else { return false };
            // What costs most last.
            (is_full || self.short_of_pages.as_ref() == Some(tenant))
                && self.shares.places(tenant) + 1 < most
                && !self.is_held_back(head)
        };
        let is_wanted = order.iter().any(wants_room);
        if is_wanted {
            self.retract(youngest);
        }
        is_wanted
    }

    /// Of the sequences that run from `first` on: the index of the youngest one of the tenant that has most of them, and
    /// how many those are. Of tenants with equally many the one whose youngest is younger.
    pub(crate) fn youngest_of_most(&self, first: usize) -> Option<(usize, usize)> {
        let mut tenants: BTreeMap<&Tenant, (usize, usize)> = BTreeMap::new();
        for (index, key) in self.running.iter().enumerate().skip(first) {
            let (count, youngest) = tenants.entry(&self.sequences[key].tenant).or_default();
            (*count, *youngest) = (*count + 1, index);
        }
        tenants.into_values().max().map(|(count, youngest)| (youngest, count))
    }

    /// Tokens that the tenant's prompts want of a step, those that wait included where they may be admitted; no more than
    /// a step has.
    fn prompt_demand(&self, tenant: &Tenant, prompts: &[SequenceKey]) -> usize {
        let is_short_of_pages = self.short_of_pages.as_ref() == Some(tenant);
        let free = if is_short_of_pages { 0 } else { self.config.max_running - self.running.len() };
        let running = prompts.iter().map(|key| self.sequences[key].behind());
        let waiting = self.waiting.of(tenant).take(free).map(|key| self.sequences[&key].tokens.len());
        let chunk = self.config.chunk_tokens;
        // Enough is known once a step is full.
        let mut demand = 0;
        for tokens in running.chain(waiting) {
            if demand >= chunk {
                break;
            }
            demand += tokens;
        }
        demand.min(chunk)
    }
}
