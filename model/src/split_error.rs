//! [`SplitError`]: why a network cannot be divided.

use quern_backend::QuantFormat;

/// A network that cannot be divided as it was to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// Query heads are not divided within.
    #[error("num_attention_heads = {heads} is not divisible by tp_size = {tp}")]
    Heads {
        /// Query heads.
        heads: usize,
        /// Ranks.
        tp: usize,
    },
    /// KV heads are neither divided evenly nor replicated evenly.
    #[error("num_key_value_heads = {kv_heads} is neither divisible by tp_size = {tp} nor a divisor of it")]
    KvHeads {
        /// KV heads.
        kv_heads: usize,
        /// Ranks.
        tp: usize,
    },
    /// Groups of experts have equally many ranks.
    #[error("tp_size = {tp} is not divisible by ep_size = {ep}")]
    Groups {
        /// Ranks.
        tp: usize,
        /// Groups.
        ep: usize,
    },
    /// Groups have equally many experts.
    #[error("num_experts = {experts} is not divisible by ep_size = {ep}")]
    Experts {
        /// Experts of a layer.
        experts: usize,
        /// Groups.
        ep: usize,
    },
    /// A dimension has fewer blocks than ranks that each need one.
    #[error(
        "{field} = {len} has {} whole blocks of {unit} ({format}), too few for {parts} ranks{}",
        .len.div_ceil(*.unit),
        .ep.map_or_else(String::new, |ep| format!("; ep_size = {ep} divides the experts instead"))
    )]
    Blocks {
        /// As `config.json` calls the dimension.
        field: &'static str,
        /// Its size.
        len: usize,
        /// Features that stay together.
        unit: usize,
        /// The encoding that keeps them together.
        format: QuantFormat,
        /// Ranks that are to have some of it.
        parts: usize,
        /// An `ep_size` with which it need not be divided.
        ep: Option<usize>,
    },
    /// A rank's heads end within a block.
    #[error(
        "tp_size = {tp} gives each rank {width} input features of o_proj, which are not whole blocks of {unit} \
         ({format}); fewer ranks may get whole blocks, and smaller blocks (q8_0) can be divided further"
    )]
    HeadBlocks {
        /// Ranks.
        tp: usize,
        /// Features of a rank's query heads.
        width: usize,
        /// Features that stay together.
        unit: usize,
        /// The encoding that keeps them together.
        format: QuantFormat,
    },
}
