//! How many pages of keys and values fit.

/// What the size of the KV pool depends on.
#[derive(Clone, Copy, Debug)]
pub struct PoolDemand {
    /// Memory that can be allocated, bytes; `None`: unknown.
    pub available_bytes: Option<u64>,
    /// `--mem-fraction-static`: the share of it for weights and pool.
    pub fraction: f64,
    /// Bytes that are neither weights' nor the pool's, whatever the share.
    pub reserved_bytes: u64,
    /// Bytes of the weights. Mapped files count too: evicting their pages to disk would stop the server
    /// for seconds per token.
    pub weight_bytes: u64,
    /// Bytes of one token's keys and values over all layers.
    pub kv_bytes_per_token: u64,
    /// Tokens of a page.
    pub page_size: usize,
    /// Most tokens of a sequence.
    pub context_length: usize,
    /// Most sequences at once.
    pub max_running_requests: usize,
    /// `--max-total-tokens`.
    pub max_total_tokens: Option<u64>,
}

/// Why there is no pool.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PoolError {
    /// Not a Linux `/proc`.
    #[error(
        "this system does not say how much memory is available; give --max-total-tokens, the tokens of the KV pool"
    )]
    Unknown,
    /// Nothing is left beside the weights.
    #[error(
        "the weights need {} and --mem-fraction-static {fraction} of {} available is {}; \
         free memory, raise --mem-fraction-static (at most 1) or serve a smaller model",
        gib(*weight_bytes), gib(*available_bytes), gib(*budget_bytes)
    )]
    Weights {
        /// Bytes of the weights.
        weight_bytes: u64,
        /// Bytes available.
        available_bytes: u64,
        /// The share.
        fraction: f64,
        /// Their product.
        budget_bytes: u64,
    },
    /// The pool cannot hold one sequence of full length.
    #[error(
        "one request of {context_length} tokens needs {} of KV cache ({kv_bytes_per_token} bytes per token) and {} is \
         left for it, {pool_tokens} tokens; lower --context-length to at most {pool_tokens}, raise \
         --mem-fraction-static (now {fraction}), or accept shorter requests with --max-total-tokens {pool_tokens}",
        gib(kv_bytes_per_token * *context_length as u64), gib(*pool_bytes)
    )]
    Context {
        /// Most tokens of a sequence.
        context_length: usize,
        /// Bytes per token.
        kv_bytes_per_token: u64,
        /// Bytes left for the pool.
        pool_bytes: u64,
        /// Whole pages of them, in tokens.
        pool_tokens: u64,
        /// The share.
        fraction: f64,
    },
    /// `--max-total-tokens` is below one page.
    #[error("--max-total-tokens {max_total_tokens}: less than one page of --page-size {page_size} tokens")]
    Page {
        /// As typed.
        max_total_tokens: u64,
        /// Tokens of a page.
        page_size: usize,
    },
}

/// A pool that fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolPlan {
    /// Its pages.
    pub num_pages: usize,
    /// A line for the log, where less was given than asked for.
    pub note: Option<String>,
}

impl PoolDemand {
    /// The largest useful pool that fits: never more than every running request can fill, and never less
    /// than one request of full length unless `--max-total-tokens` asks for less.
    ///
    /// # Errors
    /// If not even the smallest useful pool fits.
    pub fn pool(&self) -> Result<PoolPlan, PoolError> {
        let page = self.page_size as u64;
        let whole_pages = |tokens: u64| tokens / page * page;
        let context = (self.context_length as u64).div_ceil(page) * page;
        let useful = context.saturating_mul(self.max_running_requests as u64);

        let asked = match self.max_total_tokens {
            Some(tokens) if tokens < page => {
                return Err(PoolError::Page { max_total_tokens: tokens, page_size: self.page_size });
            }
            Some(tokens) => whole_pages(tokens),
            None => useful,
        };
        let fits = match self.available_bytes {
            None if self.max_total_tokens.is_some() => u64::MAX,
            None => return Err(PoolError::Unknown),
            Some(available_bytes) => {
                let share = (available_bytes as f64 * self.fraction) as u64;
                let budget_bytes = share.min(available_bytes.saturating_sub(self.reserved_bytes));
                let Some(pool_bytes) = budget_bytes.checked_sub(self.weight_bytes).filter(|&left| left > 0) else {
                    return Err(PoolError::Weights {
                        weight_bytes: self.weight_bytes,
                        available_bytes,
                        fraction: self.fraction,
                        budget_bytes,
                    });
                };
                let pool_tokens = whole_pages(pool_bytes / self.kv_bytes_per_token);
                if pool_tokens < context.min(asked) || pool_tokens == 0 {
                    return Err(PoolError::Context {
                        context_length: self.context_length,
                        kv_bytes_per_token: self.kv_bytes_per_token,
                        pool_bytes,
                        pool_tokens,
                        fraction: self.fraction,
                    });
                }
                pool_tokens
            }
        };
        let note = (self.max_total_tokens.is_some() && fits < asked)
            .then(|| format!("--max-total-tokens {asked}: {fits} tokens fit into memory; the pool has {fits}."));
        let tokens = asked.min(fits).min(useful);
        Ok(PoolPlan { num_pages: usize::try_from(tokens / page).unwrap_or(usize::MAX), note })
    }
}

/// `12.3 GB`, or `4.5 MB` when that says more; powers of 1024, as SGLang's log counts.
pub fn gib(bytes: u64) -> String {
    let bytes = bytes as f64;
    match bytes {
        b if b >= (1u64 << 30) as f64 => format!("{:.2} GB", b / (1u64 << 30) as f64),
        b if b >= (1u64 << 20) as f64 => format!("{:.1} MB", b / (1u64 << 20) as f64),
        b => format!("{:.1} kB", b / 1024.0),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DEMAND: PoolDemand = PoolDemand {
        available_bytes: Some(100_000_000),
        fraction: 0.8,
        reserved_bytes: 0,
        weight_bytes: 30_000_000,
        kv_bytes_per_token: 1000,
        page_size: 32,
        context_length: 4096,
        max_running_requests: 256,
        max_total_tokens: None,
    };

    fn pages(demand: PoolDemand) -> usize {
        demand.pool().unwrap().num_pages
    }

    #[test]
    fn the_pool_is_what_the_weights_leave_in_whole_pages() {
        // 0.8 × 100 MB − 30 MB = 50 MB = 50,000 tokens = 1562.5 pages.
        assert_eq!(pages(DEMAND), 1562);
    }

    #[test]
    fn what_is_reserved_stays() {
        // 100 MB − 60 MB − 30 MB = 10 MB = 10,000 tokens.
        assert_eq!(pages(PoolDemand { reserved_bytes: 60_000_000, ..DEMAND }), 312);
        assert_eq!(pages(PoolDemand { reserved_bytes: 20_000_000, ..DEMAND }), 1562);
    }

    #[test]
    fn the_pool_is_no_larger_than_the_requests_can_fill() {
        assert_eq!(pages(PoolDemand { max_running_requests: 2, ..DEMAND }), 2 * 4096 / 32);
    }

    #[test]
    fn max_total_tokens_lowers_and_never_raises_the_pool() {
        assert_eq!(pages(PoolDemand { max_total_tokens: Some(1000), ..DEMAND }), 31);
        let lowered = PoolDemand { max_total_tokens: Some(1_000_000), ..DEMAND }.pool().unwrap();
        assert_eq!(lowered.num_pages, 1562);
        assert!(lowered.note.unwrap().contains("--max-total-tokens 1000000"));
        let page = PoolDemand { max_total_tokens: Some(31), ..DEMAND }.pool().unwrap_err();
        assert!(page.to_string().contains("--page-size 32"), "{page}");
    }

    #[test]
    fn less_than_one_context_is_refused_with_numbers_and_flags() {
        let error = PoolDemand { context_length: 60_000, ..DEMAND }.pool().unwrap_err().to_string();
        for part in ["60000 tokens", "49984", "--context-length", "--mem-fraction-static", "--max-total-tokens"] {
            assert!(error.contains(part), "{part} in {error}");
        }
        let accepted = PoolDemand { context_length: 60_000, max_total_tokens: Some(49_984), ..DEMAND };
        assert_eq!(pages(accepted), 1562);
    }

    #[test]
    fn weights_that_do_not_fit_are_refused_with_numbers() {
        let error = PoolDemand { weight_bytes: 90_000_000, ..DEMAND }.pool().unwrap_err().to_string();
        for part in ["85.8 MB", "95.4 MB", "76.3 MB", "--mem-fraction-static 0.8"] {
            assert!(error.contains(part), "{part} in {error}");
        }
    }

    #[test]
    fn unknown_memory_needs_max_total_tokens() {
        assert_eq!(PoolDemand { available_bytes: None, ..DEMAND }.pool(), Err(PoolError::Unknown));
        assert_eq!(pages(PoolDemand { available_bytes: None, max_total_tokens: Some(3200), ..DEMAND }), 100);
    }

    proptest! {
        #[test]
        fn no_pool_exceeds_its_budget(
            available in 0u64..1 << 40,
            weights in 0u64..1 << 40,
            per_token in 1u64..1 << 20,
            page in 1usize..512,
            context in 8usize..1 << 18,
            running in 1usize..4096,
            asked in proptest::option::of(0u64..1 << 32),
        ) {
            let demand = PoolDemand {
                available_bytes: Some(available),
                weight_bytes: weights,
                kv_bytes_per_token: per_token,
                page_size: page,
                context_length: context,
                max_running_requests: running,
                max_total_tokens: asked,
                ..DEMAND
            };
            if let Ok(pool) = demand.pool() {
                let tokens = pool.num_pages as u64 * page as u64;
                prop_assert!(tokens > 0);
                prop_assert!(weights + tokens * per_token <= (available as f64 * 0.8) as u64);
                prop_assert!(asked.is_none_or(|asked| tokens <= asked));
                prop_assert!(asked.is_some() || tokens >= context as u64);
            }
        }
    }
}
