//! [`Backend`]: the operations a network is written in; [`Uploader`]: how its weights get there.

use std::ops::Range;

use crate::{
    AttentionSpec, DeviceFault, ForwardBatch, HeadLayout, KvSpec, PackedMatrix, RowOutput, SampleBatch, UploadError,
};

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
///
/// A network may be divided over the backends of several ranks: each holds a part of the weights and computes the same
/// operations as the others, in the same order; [`all_reduce`](Self::all_reduce) and [`gather`](Self::gather) are where
/// they exchange ([`collective`](crate::collective)).
///
/// A step is begun once, which is when its tables go to the device, and finished once, which is the one place that
/// waits and may fail:
///
/// ```text
/// begin ─▶ embed, linear, attention, …, sample ─▶ launch ─▶ (the host does other work) ─▶ finish
/// ```
///
/// Between `begin` and `launch` a backend may compute, queue or only record the operations (a captured graph is
/// replayed by `launch`); it reads nothing of the host's meanwhile but what `begin` took.
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
    /// A step in flight: its tables where the operations read them, and what has been sampled.
    type Step: Send;

    /// A zeroed buffer of `capacity` rows (its present rows) and `cols` columns.
    fn alloc(&self, capacity: usize, cols: usize) -> Self::Buffer;

    /// Room for the routing of `capacity` rows to `top_k` experts each.
    fn alloc_routing(&self, capacity: usize, top_k: usize) -> Self::Routing;

    /// Pages for `spec`, zeroed.
    ///
    /// # Errors
    /// If the device has no memory for them.
    fn alloc_kv(&self, spec: &KvSpec) -> Result<Self::KvCache, UploadError>;

    /// A way for weights to this backend, which lasts as long as a network is loaded.
    fn uploader(&self) -> Box<dyn Uploader<Self> + '_>;

    /// Overwrite `buffer` with `values`, row-major; sets its rows to `values.len() / cols`.
    fn write(&self, buffer: &mut Self::Buffer, values: &[f32]);

    /// Copy of the present rows, row-major.
    fn read(&self, buffer: &Self::Buffer) -> Vec<f32>;

    /// Set `rows` rows of zeros.
    fn zero(&self, buffer: &mut Self::Buffer, rows: usize);

    /// Hand over what a step needs besides activations: `batch`, and what to make of its logits. One step is in
    /// flight at a time.
    ///
    /// `samples` has a task for each of the batch's `logit_rows`, or none where another rank samples.
    fn begin(&self, batch: &ForwardBatch, samples: &SampleBatch) -> Self::Step;

    /// `out[i] = table[token i of the step - first]`, zeros where the table has no such row: it holds those of the
    /// tokens from `first` on. `table`: `[tokens, cols]`.
    fn embed(&self, table: &Self::Weight, first: usize, step: &Self::Step, out: &mut Self::Buffer);

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

    /// Store the rows' keys and values in the layer's pages, then attend: for each row and query head
    /// `softmax(q · kᵀ * scale) · v` over the sequence's positions up to the row's own, or the last `window` of them.
    ///
    /// `qkv`: `[rows, qkv_dim]`, rotated. `out`: `[rows, q_dim]`.
    fn attention(
        &self,
        qkv: &Self::Buffer,
        spec: &AttentionSpec,
        kv: &mut Self::KvCache,
        step: &Self::Step,
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

    /// `out = Σ w_e · down_e(silu(gate_e(x)) * up_e(x))` over those of each row's experts that are here, added in the
    /// order of the routing; zeros where none is. `x`, `out`: `[rows, hidden]`.
    fn moe(&self, x: &Self::Buffer, routing: &Self::Routing, experts: &Self::Experts, out: &mut Self::Buffer);

    /// `buffer` becomes the sum of what all ranks have in it, added as [`tree`](crate::collective::tree) adds. One rank
    /// alone leaves it as it is.
    ///
    /// Where a rank is lost, [`finish`](Self::finish) says so and the buffer means nothing.
    fn all_reduce(&self, buffer: &mut Self::Buffer);

    /// On rank 0, `out[i]` becomes row `i` of every rank's `part`, side by side in the order of the ranks; on the others
    /// `out` is left alone. `widths`: the columns of each rank's `part`; `out`: `[rows, Σ widths]`.
    ///
    /// Where a rank is lost: as for [`all_reduce`](Self::all_reduce).
    fn gather(&self, part: &Self::Buffer, widths: &[usize], out: &mut Self::Buffer);

    /// `out[i] = x[logit row rows.start + i of the step]`, for all of `rows`.
    fn gather_rows(&self, x: &Self::Buffer, step: &Self::Step, rows: Range<usize>, out: &mut Self::Buffer);

    /// Sample or score: row `i` of `logits` belongs to the step's task `rows.start + i`. May overwrite `logits`.
    /// Nothing happens in a step that was begun without tasks.
    ///
    /// The outputs stay with the step. Ranges of one step follow one another from 0.
    fn sample(&self, logits: &mut Self::Buffer, step: &mut Self::Step, rows: Range<usize>);

    /// All operations of `step` have been called: have them computed, if that has not begun. Does not wait.
    fn launch(&self, step: &mut Self::Step);

    /// Wait for `step`; returns the output of each of its tasks, in their order.
    ///
    /// # Errors
    /// If any of its operations failed, the device did, or a rank is lost.
    fn finish(&self, step: Self::Step) -> Result<Vec<RowOutput>, DeviceFault>;
}

/// Weights on their way to a backend. May keep memory for as long as it lives (what is read ahead, what is pinned).
pub trait Uploader<B: Backend + ?Sized> {
    /// Take one or more matrices of equal `cols` as one, stacked by rows in the order given (q, k, v;
    /// gate, up). May keep the stored bytes where they are.
    ///
    /// # Errors
    /// If there is no kernel for a format, or no memory.
    fn weight(&mut self, parts: &[PackedMatrix]) -> Result<B::Weight, UploadError>;

    /// Take experts of a layer, those of the routing from `first` on: `gate[e]` and `up[e]` are `[inner, hidden]`,
    /// `down[e]` is `[hidden, inner]`.
    ///
    /// # Errors
    /// As for [`weight`](Self::weight).
    fn experts(
        &mut self,
        first: usize,
        gate: &[PackedMatrix],
        up: &[PackedMatrix],
        down: &[PackedMatrix],
    ) -> Result<B::Experts, UploadError>;

    /// All weights of the network have been taken. An uploader that is dropped without it keeps nothing for later
    /// starts.
    ///
    /// # Errors
    /// If a weight that was taken did not arrive.
    fn finish(self: Box<Self>) -> Result<(), UploadError>;
}
