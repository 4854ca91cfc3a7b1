//! [`Backend`]: the operations a network is written in.

use crate::{KvFormat, LogitRow, PackedMatrix, PagedBatch, QuantFormat, RowOutput};

/// Sizes of the attention heads of one layer.
///
/// A row of `qkv` is `num_heads` query heads, then `num_kv_heads` key heads, then as many value heads,
/// each `head_dim` wide. Query head `h` reads KV head `h / (num_heads / num_kv_heads)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLayout {
    /// Query heads.
    pub num_heads: usize,
    /// Key/value heads; divides `num_heads`.
    pub num_kv_heads: usize,
    /// Features of one head; even.
    pub head_dim: usize,
}

impl HeadLayout {
    /// Features of all query heads: also the width of attention's output.
    pub fn q_dim(&self) -> usize {
        self.num_heads * self.head_dim
    }

    /// Features of all key heads (as many as of all value heads).
    pub fn kv_dim(&self) -> usize {
        self.num_kv_heads * self.head_dim
    }

    /// Features of a `qkv` row.
    pub fn qkv_dim(&self) -> usize {
        self.q_dim() + 2 * self.kv_dim()
    }
}

/// Size of the paged memory for keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvSpec {
    /// Layers, each with its own pages.
    pub num_layers: usize,
    /// Heads of a layer.
    pub heads: HeadLayout,
    /// Tokens of a page.
    pub page_size: usize,
    /// Pages of the pool; page indices are below it.
    pub num_pages: usize,
    /// How a head's key or value is stored.
    pub format: KvFormat,
}

impl KvSpec {
    /// Bytes of keys and values of one token over all layers.
    pub fn bytes_per_token(&self) -> usize {
        self.num_layers * 2 * self.heads.num_kv_heads * self.format.head_bytes(self.heads.head_dim)
    }
}

/// A weight that this backend cannot hold.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// No kernel for this encoding.
    #[error("no {op} kernel for {format} weights on the {backend} backend")]
    UnsupportedFormat {
        /// The operation the weight is for.
        op: &'static str,
        /// Its encoding.
        format: QuantFormat,
        /// The backend's name.
        backend: &'static str,
    },
    /// Memory ran out.
    #[error("{what} needs {bytes} bytes; the {backend} backend could not allocate them")]
    OutOfMemory {
        /// What was to be allocated.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The backend's name.
        backend: &'static str,
    },
    /// The file that keeps what was made of weights cannot be read or written.
    #[error("{what} of {bytes} bytes cannot be kept in a file: {cause}")]
    File {
        /// What was to be kept.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// Why.
        cause: std::io::Error,
    },
}

/// The fused operations of a decoder, and the memory they act on.
///
/// Conventions:
/// - Activations are [`Backend::Buffer`]s: `[rows, cols]` f32, contiguous, one row a token. `cols` is
///   fixed at allocation; `rows` varies up to the allocated capacity. **Each operation sets the rows
///   of its outputs** to those of its first input; inputs with another number of rows are a
///   programmer's error and panic with both numbers.
/// - **A row's result depends only on its own row** (for `attention`: and on its own sequence). The
///   order of additions is fixed by the shapes of the weights and the row's own position, never by the
///   number of rows, the other sequences or the number of threads: the same bits alone and in a batch,
///   in one chunk or in many.
/// - After start nothing here allocates device memory.
/// - No default methods and no capability queries: an operation that is missing does not compile.
pub trait Backend: Send + Sync + 'static {
    /// Activations, `[rows, cols]` f32.
    type Buffer: Send + Sync;
    /// A weight matrix, or several stacked by rows, in this backend's layout.
    type Weight: Send + Sync;
    /// All experts of one layer in this backend's layout.
    type Experts: Send + Sync;
    /// Which experts each row goes to, with weights.
    type Routing: Send + Sync;
    /// Pages of keys and values of all layers.
    type KvCache: Send;

    /// A zeroed buffer of `capacity` rows (its present rows) and `cols` columns.
    fn alloc(&self, capacity: usize, cols: usize) -> Self::Buffer;

    /// Room for the routing of `capacity` rows to `top_k` experts each.
    fn alloc_routing(&self, capacity: usize, top_k: usize) -> Self::Routing;

    /// Pages for `spec`, zeroed.
    fn alloc_kv(&self, spec: &KvSpec) -> Result<Self::KvCache, UploadError>;

    /// Take one or more matrices of equal `cols` as one, stacked by rows in the order given (q, k, v;
    /// gate, up). May keep the stored bytes where they are.
    fn upload_weight(&self, parts: &[PackedMatrix]) -> Result<Self::Weight, UploadError>;

    /// Take the experts of a layer: `gate[e]` and `up[e]` are `[inner, hidden]`, `down[e]` is
    /// `[hidden, inner]`.
    fn upload_experts(
        &self,
        gate: &[PackedMatrix],
        up: &[PackedMatrix],
        down: &[PackedMatrix],
    ) -> Result<Self::Experts, UploadError>;

    /// Whether an earlier start kept what it made of these very weights: they were checked then, and need no second
    /// check.
    fn has_weights(&self) -> bool {
        false
    }

    /// All weights have been uploaded.
    fn uploaded(&self) {}

    /// Overwrite `buffer` with `values`, row-major; sets its rows to `values.len() / cols`.
    fn write(&self, buffer: &mut Self::Buffer, values: &[f32]);

    /// Copy of the present rows, row-major.
    fn read(&self, buffer: &Self::Buffer) -> Vec<f32>;

    /// Set `rows` rows of zeros.
    fn zero(&self, buffer: &mut Self::Buffer, rows: usize);

    /// `out[i] = table[ids[i]]`. `table`: `[vocab, cols]`. Ids are below `vocab`.
    fn embed(&self, table: &Self::Weight, ids: &[u32], out: &mut Self::Buffer);

    /// `residual += delta`, then `out = residual / rms(residual) * gain`, with
    /// `rms(x) = sqrt(mean(x²) + eps)`. `gain`: one row.
    ///
    /// Source: Zhang & Sennrich 2019, "Root Mean Square Layer Normalization"; HF `Qwen3MoeRMSNorm`.
    fn add_rms_norm(
        &self,
        residual: &mut Self::Buffer,
        delta: &Self::Buffer,
        gain: &Self::Buffer,
        eps: f32,
        out: &mut Self::Buffer,
    );

    /// `out = x · wᵀ`. `x`: `[rows, cols of w]`; `out`: `[rows, rows of w]`.
    fn linear(&self, x: &Self::Buffer, weight: &Self::Weight, out: &mut Self::Buffer);

    /// RMS-norm each query and key head by itself, then rotate it; values are left alone.
    ///
    /// `q_gain`, `k_gain`: one row of `head_dim`. `rotation`: `[rows, head_dim]`, for each row the
    /// cosines of its `head_dim / 2` angles, then their sines (any scale of YaRN's included). Pairs
    /// are `(i, i + head_dim / 2)`, the "neox" form.
    ///
    /// Source: Su et al. 2021, "RoFormer"; HF `modeling_qwen3_moe.py`, `apply_rotary_pos_emb`.
    fn qk_norm_rope(
        &self,
        qkv: &mut Self::Buffer,
        heads: &HeadLayout,
        q_gain: &Self::Buffer,
        k_gain: &Self::Buffer,
        eps: f32,
        rotation: &Self::Buffer,
    );

    /// Add `bias` to each row, then rotate its queries and keys as [`qk_norm_rope`](Self::qk_norm_rope) does; values
    /// are not rotated.
    ///
    /// `bias`: one row of `qkv_dim`.
    ///
    /// Source: HF `modeling_qwen2.py`, `Qwen2Attention.forward`.
    fn bias_rope(&self, qkv: &mut Self::Buffer, heads: &HeadLayout, bias: &Self::Buffer, rotation: &Self::Buffer);

    /// Store the rows' keys and values in their pages, then attend: for each row and query head
    /// `softmax(q · kᵀ / sqrt(head_dim)) · v` over the sequence's positions up to the row's own.
    ///
    /// `qkv`: `[rows, qkv_dim]`, rotated. `out`: `[rows, q_dim]`.
    fn attention(
        &self,
        qkv: &Self::Buffer,
        heads: &HeadLayout,
        kv: &mut Self::KvCache,
        layer: usize,
        batch: &PagedBatch,
        out: &mut Self::Buffer,
    );

    /// `out = silu(gate) * up`, `silu(x) = x / (1 + exp(-x))`. `gate_up`: `[rows, 2 * inner]`, the gate
    /// first; `out`: `[rows, inner]`.
    fn silu_mul(&self, gate_up: &Self::Buffer, out: &mut Self::Buffer);

    /// Softmax over all experts in f32, keep the `top_k` of the routing, best first, ties to the lower
    /// index; if `renormalise`, scale the kept weights to sum 1. `logits`: `[rows, experts]`.
    ///
    /// Source: HF `modeling_qwen3_moe.py`, `Qwen3MoeSparseMoeBlock.forward`.
    fn route(&self, logits: &Self::Buffer, renormalise: bool, routing: &mut Self::Routing);

    /// `out = Σ w_e · down_e(silu(gate_e(x)) * up_e(x))` over each row's experts, added in the order of
    /// the routing. `x`, `out`: `[rows, hidden]`.
    fn moe(&self, x: &Self::Buffer, routing: &Self::Routing, experts: &Self::Experts, out: &mut Self::Buffer);

    /// `out[i] = x[rows[i]]`.
    fn gather_rows(&self, x: &Self::Buffer, rows: &[usize], out: &mut Self::Buffer);

    /// Sample or score: row `i` of `logits` belongs to `tasks[i]` (whose `row` field is not looked at).
    /// May overwrite `logits`. Clears `out` and pushes one output a task.
    fn sample(&self, logits: &mut Self::Buffer, tasks: &[LogitRow], out: &mut Vec<RowOutput>);
}
