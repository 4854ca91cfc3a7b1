//! [`EngineFlags`] and [`EngineSettings`]: the pool of keys and values, and the order of work.

use clap::{Args, ValueEnum};
use quern_backend::KvFormat;
use quern_engine::{EngineConfig, Policy};
use quern_model::{StepCost, StepLimits};
use serde::Serialize;

use super::{
    names::Names,
    refused::RefusedFlag,
    values::{factor, parse_count, positive_size, share, size},
};
use crate::{
    defaults::{MAX_RUNNING_REQUESTS, MEM_FRACTION},
    memory::{PoolDemand, PoolError},
};

/// Tokens of a step: enough for matrix products to be bound by arithmetic, and little enough that the
/// requests that decode beside a long prompt are not held up for long.
const CHUNK_TOKENS: usize = 512;

/// What was typed about memory and scheduling.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Memory and scheduling")]
pub struct EngineFlags {
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would print it")]
    pub memory: MemoryOptions,

    /// Tokens of the KV pool at most [default: what memory allows]
    #[arg(long, value_name = "TOKENS", value_parser = parse_count)]
    pub max_total_tokens: Option<u64>,

    /// Most requests computed together
    #[arg(long, value_name = "N", default_value_t = MAX_RUNNING_REQUESTS,
          value_parser = positive_size)]
    pub max_running_requests: usize,

    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would print it")]
    pub queue: QueueOptions,

    /// Tokens computed per step, in whole pages of --page-size; longer prompts take several steps. -1 computes
    /// every prompt in one [default: 512]
    #[arg(long, value_name = "TOKENS")]
    pub chunked_prefill_size: Option<i64>,

    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would print it")]
    pub schedule: ScheduleOptions,
}

/// What the pool is made of: what was typed is what is decided.
#[derive(Args, Clone, Debug, PartialEq, Serialize)]
pub struct MemoryOptions {
    /// Share of the available memory for weights and KV pool, between 0 and 1
    #[arg(long, value_name = "SHARE", default_value_t = MEM_FRACTION,
          value_parser = share)]
    pub mem_fraction_static: f64,

    /// Tokens of a KV page; prefixes are reused in whole pages
    #[arg(long, value_name = "TOKENS", default_value = "32", value_parser = positive_size)]
    pub page_size: usize,
}

/// What waits: what was typed is what is decided.
#[derive(Args, Clone, Debug, PartialEq, Serialize)]
pub struct QueueOptions {
    /// Most requests waiting; further ones are answered 503, or 429 where their client has its share of them and others
    /// wait too
    #[arg(long, value_name = "N", default_value = "4096", value_parser = size)]
    pub max_queued_requests: usize,

    /// Most prompt tokens of those that wait, in the same way; one request may wait alone whatever its length
    #[arg(long, value_name = "TOKENS", default_value = "32Mi", value_parser = size)]
    pub max_queued_tokens: usize,
}

/// The order of work: what was typed is what is decided.
#[derive(Args, Clone, Debug, PartialEq, Serialize)]
pub struct ScheduleOptions {
    /// Prompt tokens admitted per step; a longer prompt is admitted alone
    #[arg(long, value_name = "TOKENS", default_value = "16384", value_parser = positive_size)]
    pub max_prefill_tokens: usize,

    /// Who goes first: `fcfs` first come, `lpm` longest cached prefix
    #[arg(long, value_name = "POLICY", default_value = "fcfs", value_parser = Names::<SchedulePolicy>::of_enum()
          .refusing(&["random", "dfs-weight", "lof", "priority", "routing-key", "hrrn", "shortest-prefill-first"]))]
    pub schedule_policy: SchedulePolicy,

    /// Above 1 admits fewer requests at once, below 1 more, at the risk of pausing some
    #[arg(long, value_name = "FACTOR", default_value = "1.0", value_parser = factor)]
    pub schedule_conservativeness: f64,

    /// Do not reuse the computed prefixes of earlier requests
    #[arg(long)]
    pub disable_radix_cache: bool,
}

/// Rows of logits computed at once: with 150,000 tokens of vocabulary 40 MB; steps with more rows take
/// several rounds.
const MAX_LOGIT_ROWS: usize = 64;

/// Order of the waiting requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum SchedulePolicy {
    /// First come, first served
    Fcfs,
    /// Longest cached prefix first
    Lpm,
}

/// The pool of keys and values, and the order of work.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EngineSettings {
    /// What the pool is made of.
    #[serde(flatten)]
    pub memory: MemoryOptions,
    /// Pages of the KV pool.
    pub num_pages: usize,
    /// Bytes of one token's keys and values over all layers, as what computes stores them.
    #[serde(skip)]
    pub kv_bytes_per_token: u64,
    /// Tokens of the KV pool: `num_pages × page_size`.
    pub max_total_num_tokens: usize,
    /// Most requests computed together.
    pub max_running_requests: usize,
    /// What waits.
    #[serde(flatten)]
    pub queue: QueueOptions,
    /// Tokens computed per step, whole pages; longer prompts are computed in several.
    pub chunked_prefill_size: usize,
    /// The order of work.
    #[serde(flatten)]
    pub schedule: ScheduleOptions,
}

/// What the size of the pool depends on beside the command line.
#[derive(Clone, Copy, Debug)]
pub struct PoolFacts {
    /// Most tokens of a sequence.
    pub context_length: usize,
    /// Bytes of one token's keys and values over all layers.
    pub kv_bytes_per_token: u64,
    /// Bytes of the weights.
    pub weight_bytes: u64,
    /// Memory that can be allocated, bytes; `None`: unknown.
    pub available_bytes: Option<u64>,
    /// Bytes of it that requests need.
    pub reserved_bytes: u64,
}

impl EngineFlags {
    /// Refuse pages that no sequence of `context_length` tokens fills.
    ///
    /// # Errors
    /// If the pages are of that kind.
    pub fn check_page(&self, context_length: usize) -> Result<(), RefusedFlag> {
        let page_size = self.memory.page_size;
        if page_size > context_length.next_multiple_of(32) {
            let reason = format!("a page larger than the context of {context_length} tokens is never filled");
            return Err(RefusedFlag::new("page-size", page_size, reason));
        }
        Ok(())
    }

    /// What is decided for pages that were [checked](Self::check_page); `notes` gets lines about what is not quite what was asked for.
    ///
    /// # Errors
    /// If the weights and a pool do not fit into the memory, or the pool does not hold what was asked for.
    pub fn settings(&self, facts: &PoolFacts, notes: &mut Vec<String>) -> Result<EngineSettings, PoolError> {
        let MemoryOptions { mem_fraction_static, page_size } = self.memory;
        let pool = PoolDemand {
            available_bytes: facts.available_bytes,
            fraction: mem_fraction_static,
            reserved_bytes: facts.reserved_bytes,
            weight_bytes: facts.weight_bytes,
            kv_bytes_per_token: facts.kv_bytes_per_token,
            page_size,
            context_length: facts.context_length,
            max_running_requests: self.max_running_requests,
            max_total_tokens: self.max_total_tokens,
        }
        .pool()?;
        let chunked_prefill_size = self.chunk(facts.context_length, notes);
        notes.extend(pool.note);
        let max_total_num_tokens = pool.num_pages * page_size;
        Ok(EngineSettings {
            memory: self.memory.clone(),
            num_pages: pool.num_pages,
            kv_bytes_per_token: facts.kv_bytes_per_token,
            max_total_num_tokens,
            // Every running request holds at least two tokens.
            max_running_requests: self.max_running_requests.min(max_total_num_tokens / 2).max(1),
            queue: self.queue.clone(),
            chunked_prefill_size,
            schedule: self.schedule.clone(),
        })
    }

    /// Whole pages. SGLang's users type what filled their memory, 130172 say: that is rounded and said.
    fn chunk(&self, context_length: usize, notes: &mut Vec<String>) -> usize {
        let page_size = self.memory.page_size;
        let whole = context_length.next_multiple_of(page_size);
        let Some(typed) = self.chunked_prefill_size else { return CHUNK_TOKENS.next_multiple_of(page_size) };
        let Ok(chunk @ 1..) = usize::try_from(typed) else { return whole };
        let rounded = (chunk / page_size).max(1) * page_size;
        if rounded != chunk && rounded <= whole {
            notes.push(format!(
                "--chunked-prefill-size {chunk} is {rounded} here: a step computes whole pages of --page-size \
                 {page_size}."
            ));
        }
        rounded.min(whole)
    }
}

impl EngineSettings {
    /// Most tokens of a step: every running sequence may decode, even when that exceeds the chunk.
    pub fn step_tokens(&self) -> usize {
        self.chunked_prefill_size.max(self.max_running_requests)
    }

    /// What a network is loaded for, whose steps have at most `max_tokens`.
    pub fn limits(&self, max_tokens: usize, kv_format: KvFormat) -> StepLimits {
        let (page_size, num_pages) = (self.memory.page_size, self.num_pages);
        StepLimits { max_tokens, max_logit_rows: MAX_LOGIT_ROWS, page_size, num_pages, kv_format }
    }

    /// Make do with `num_pages`, if these are fewer; says whether they are.
    pub fn limit_pages(&mut self, num_pages: usize) -> bool {
        if num_pages >= self.num_pages {
            return false;
        }
        self.num_pages = num_pages;
        self.max_total_num_tokens = num_pages * self.memory.page_size;
        self.max_running_requests = self.max_running_requests.min(self.max_total_num_tokens / 2).max(1);
        true
    }

    /// The same as the engine takes it. The model's: `balanced_context`, the tokens of context whose attention costs as
    /// much as the rest of the network, and `cost`, the least that its steps take.
    pub fn engine_config(&self, decode_log_interval: usize, balanced_context: usize, cost: StepCost) -> EngineConfig {
        EngineConfig {
            page_size: self.memory.page_size,
            num_pages: self.num_pages,
            max_running: self.max_running_requests,
            max_queued: Some(self.queue.max_queued_requests),
            max_queued_tokens: Some(self.queue.max_queued_tokens),
            chunk_tokens: self.chunked_prefill_size,
            max_prefill_tokens: self.schedule.max_prefill_tokens,
            balanced_context,
            cost,
            policy: match self.schedule.schedule_policy {
                SchedulePolicy::Fcfs => Policy::Fcfs,
                SchedulePolicy::Lpm => Policy::Lpm,
            },
            prefix_cache: !self.schedule.disable_radix_cache,
            conservativeness: self.schedule.schedule_conservativeness,
            decode_log_interval: decode_log_interval as u64,
        }
    }
}
