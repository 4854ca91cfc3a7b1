//! Turns: how it is decided whose work a step does, where several tenants want it.
//!
//! The least served tenant that has prompts to compute leads: it has seven eighths of the step, less if it wants less,
//! and the others what is left, their decoding sequences taking turns where that is less than all of them. Places
//! and pages are shared as well: where a tenant cannot be admitted while another holds at least two places more, the
//! youngest of that other's sequences is retracted, one a step.

use std::collections::BTreeMap;

use crate::{
    budget::Budget, scheduler::Scheduler, sequence::Sequence, step_plan::StepPlan, step_turn::StepTurn, tenant::Tenant,
};

/// This part of a step is for those that do not lead, if they want it.
const OTHERS_PART: usize = 8;

impl Scheduler {
    /// Whose work the next step does. With one tenant it is all that one's.
    pub(crate) fn next_turn(&mut self) -> StepTurn {
        let mut order = self.shares.in_order();
        let mut short_of_pages = self.short_of_pages.take();
        if order.len() < 2 {
            return StepTurn { order, ..StepTurn::default() };
        }
        if self.make_room(&order, short_of_pages.as_ref()) {
            short_of_pages = None;
        }
        let demands: Vec<_> =
            order.iter().map(|tenant| self.prompt_demand(tenant, short_of_pages.as_ref() == Some(tenant))).collect();
        let Some(lead) = demands.iter().position(|&demand| demand > 0) else {
            return StepTurn { order, ..StepTurn::default() };
        };
        let is_others = |sequence: &Sequence| sequence.is_decoding() && sequence.tenant != order[lead];
        let running = self.running.iter().map(|key| (key, &self.sequences[key]));
        let others = running.filter(|(_, sequence)| is_others(sequence));
        let mut decodes: Vec<_> = others.map(|(&key, sequence)| (sequence.last_step, key)).collect();

        let chunk = self.config.chunk_tokens;
        let wanted_by_others = decodes.len() + demands.iter().sum::<usize>() - demands[lead];
        let reserved = chunk - wanted_by_others.min((chunk / OTHERS_PART).max(1));
        let most_decodes = (chunk - demands[lead].min(reserved)).max(1);
        // Those that were part of a step longest ago are part of this one.
        decodes.sort_unstable();
        let paused = decodes.into_iter().skip(most_decodes).map(|(_, key)| key).collect();
        let leader = order.remove(lead);
        order.insert(0, leader);
        StepTurn { order, reserved, paused }
    }

    /// Chunks of prompts, those of the tenant that leads first.
    pub(crate) fn plan_tenants(&mut self, turn: &StepTurn, plan: &mut StepPlan, mut budget: Budget) {
        let Some((leader, others)) = turn.order.split_first() else { return };
        if others.is_empty() {
            return self.plan_prompts(leader, plan, &mut budget);
        }
        let mut own = budget.part(turn.reserved);
        self.plan_prompts(leader, plan, &mut own);
        budget.join(own);
        for tenant in others {
            self.plan_prompts(tenant, plan, &mut budget);
        }
    }

    /// Sequences of the tenant that run.
    pub(crate) fn num_places(&self, tenant: &Tenant) -> usize {
        self.running.iter().filter(|key| self.sequences[key].tenant == *tenant).count()
    }

    /// Retract a sequence for a tenant that finds no place, or no pages, while another has at least two places more;
    /// says whether one was.
    fn make_room(&mut self, order: &[Tenant], short_of_pages: Option<&Tenant>) -> bool {
        let is_full = self.running.len() >= self.config.max_running;
        let wants_room = |tenant: &&Tenant| {
            let Some(head) = self.waiting.get(tenant, 0) else { return false };
            (is_full || short_of_pages == Some(*tenant)) && !self.is_held_back(head)
        };
        let mut places: BTreeMap<&Tenant, usize> = BTreeMap::new();
        for key in &self.running {
            *places.entry(&self.sequences[key].tenant).or_default() += 1;
        }
        let Some((richest, most)) = places.iter().max_by_key(|(_, count)| **count) else { return false };
        let poor = |tenant: &&Tenant| places.get(*tenant).map_or(0, |count| *count) + 1 < *most;
        if !order.iter().filter(wants_room).any(|tenant| poor(&tenant)) {
            return false;
        }
        let youngest = self.running.iter().rposition(|key| self.sequences[key].tenant == **richest);
        self.retract(youngest.expect("a tenant with places has a sequence that runs"));
        true
    }

    /// Tokens that the tenant's prompts want of a step, those that wait included where they may be admitted; no more than
    /// a step has.
    fn prompt_demand(&self, tenant: &Tenant, is_short_of_pages: bool) -> usize {
        let running = self.running.iter().map(|key| &self.sequences[key]);
        let behind = running.filter(|s| s.tenant == *tenant && !s.is_decoding()).map(Sequence::behind).sum();
        let free = if is_short_of_pages { 0 } else { self.config.max_running - self.running.len() };
        let waiting = self.waiting.of(tenant).take(free).map(|key| self.sequences[&key].tokens.len());
        let chunk = self.config.chunk_tokens;
        // Enough is known once a step is full.
        let mut demand: usize = behind;
        for tokens in waiting {
            if demand >= chunk {
                break;
            }
            demand += tokens;
        }
        demand.min(chunk)
    }
}
