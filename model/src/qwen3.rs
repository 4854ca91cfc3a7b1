//! Qwen3 and Qwen3-MoE: a decoder whose layers are attention, then a dense or a sparse MLP.
//!
//! Source: Qwen Team 2025, "Qwen3 Technical Report"; HF `modeling_qwen3.py`, `modeling_qwen3_moe.py`.

use std::sync::Arc;

use quern_backend::{Backend, ForwardBatch, KvSpec, SampleBatch};

use crate::{
    ForwardError, Model, StepOutput,
    config::{ConfigError, Fields, ModelConfig},
    layers::{
        Attention, Embedding, Experts, Head, LayerContext, LoadContext, Mlp, RmsNorm, attention::AttentionBuffers,
        experts::ExpertsBuffers, head::HeadBuffers, mlp::MlpBuffers,
    },
    network::{MlpPart, NetworkSpec, Role},
    rope::Rope,
    step_limits::StepLimits,
    weights::LoadError,
};

/// Every tensor of the network that `config` describes.
pub(crate) fn network(config: &ModelConfig) -> NetworkSpec {
    NetworkSpec::decoder(config, |layer| {
        layer.norms();
        layer.attention();
        layer.vector(Role::QueryNorm, "model.layers.{layer}.self_attn.q_norm.weight", config.heads.head_dim);
        layer.vector(Role::KeyNorm, "model.layers.{layer}.self_attn.k_norm.weight", config.heads.head_dim);
        let Some(moe) = config.moe.filter(|_| config.sparse_layers[layer.index]) else { return layer.mlp() };
        let (count, inner, hidden) = (moe.num_experts, moe.inner, config.hidden);
        layer.matrix(Role::Router, "model.layers.{layer}.mlp.gate.weight", count, hidden);
        for (part, pattern, [rows, cols]) in [
            (MlpPart::Gate, "model.layers.{layer}.mlp.experts.{expert}.gate_proj.weight", [inner, hidden]),
            (MlpPart::Up, "model.layers.{layer}.mlp.experts.{expert}.up_proj.weight", [inner, hidden]),
            (MlpPart::Down, "model.layers.{layer}.mlp.experts.{expert}.down_proj.weight", [hidden, inner]),
        ] {
            layer.experts(part, pattern, count, rows, cols);
        }
    })
}

/// Refuse switches whose other position is another network.
pub(crate) fn check(fields: &Fields<'_>) -> Result<(), ConfigError> {
    for switch in ["attention_bias", "qkv_bias", "use_sliding_window", "mlp_bias"] {
        if fields.flag(switch, false)? {
            return Err(fields.unsupported(switch, "false"));
        }
    }
    if !fields.flag("use_qk_norm", true)? {
        return Err(fields.unsupported("use_qk_norm", "true"));
    }
    if fields.present("hidden_act").is_some_and(|v| v != "silu") {
        return Err(fields.unsupported("hidden_act", "\"silu\""));
    }
    if fields.present("partial_rotary_factor").is_some_and(|share| share.as_f64() != Some(1.0)) {
        return Err(fields.unsupported("partial_rotary_factor", "1.0"));
    }
    if fields.present("shared_expert_intermediate_size").is_some_and(|v| v.as_u64() != Some(0)) {
        return Err(fields.unsupported("shared_expert_intermediate_size", "0"));
    }
    Ok(())
}

/// The network, its pages of keys and values, and the buffers of a step.
pub struct Qwen3<B: Backend> {
    backend: Arc<B>,
    limits: StepLimits,
    embed_tokens: Embedding<B>,
    layers: Vec<Layer<B>>,
    norm: RmsNorm<B>,
    lm_head: Head<B>,
    rope: Rope,
    kv: B::KvCache,
    scratch: StepBuffers<B>,
    /// `[tokens, head_dim]`.
    rotation: B::Buffer,
    rotation_host: Vec<f32>,
    in_flight: Option<B::Step>,
}

/// One decoder layer.
struct Layer<B: Backend> {
    input_norm: RmsNorm<B>,
    attention: Attention<B>,
    post_norm: RmsNorm<B>,
    mlp: FeedForward<B>,
}

/// A layer's second half.
enum FeedForward<B: Backend> {
    Dense(Mlp<B>),
    Sparse(Experts<B>),
}

/// Activations of a step; nothing is allocated after start.
struct StepBuffers<B: Backend> {
    /// `[tokens, hidden]`: the residual stream.
    residual: B::Buffer,
    /// `[tokens, hidden]`: a block's normalised input.
    x: B::Buffer,
    /// `[tokens, hidden]`: a block's output, not yet added.
    out: B::Buffer,
    attention: AttentionBuffers<B>,
    /// Present where a layer is dense.
    mlp: Option<MlpBuffers<B>>,
    /// Present where a layer is sparse.
    experts: Option<ExpertsBuffers<B>>,
    head: HeadBuffers<B>,
}

impl<B: Backend> Qwen3<B> {
    /// Load every layer; allocate pages and buffers for `limits`. `loaded` hears of each finished layer.
    ///
    /// # Errors
    /// If a weight cannot be read, or the backend cannot hold it or the pages.
    pub fn load(
        cx: &LoadContext<'_, B>,
        backend: Arc<B>,
        limits: StepLimits,
        loaded: &mut dyn FnMut(usize),
    ) -> Result<Self, LoadError> {
        let config = cx.config;
        let embed_tokens = Embedding::load(cx)?;
        let mut layers = Vec::with_capacity(config.num_layers);
        for index in 0..config.num_layers {
            layers.push(Layer::load(cx, index)?);
            loaded(index + 1);
        }
        let lm_head = Head::load(cx, &embed_tokens)?;
        let kv = backend.alloc_kv(&KvSpec {
            num_layers: config.num_layers,
            heads: config.heads,
            page_size: limits.page_size,
            num_pages: limits.num_pages,
            format: limits.kv_format,
        })?;
        Ok(Self {
            norm: RmsNorm::load(cx, cx.network.tensor(None, Role::FinalNorm))?,
            rope: Rope::new(&config.rope, config.heads.head_dim),
            scratch: StepBuffers::new(cx, &lm_head, &limits),
            rotation: backend.alloc(limits.max_tokens, config.heads.head_dim),
            rotation_host: Vec::with_capacity(limits.max_tokens * config.heads.head_dim),
            in_flight: None,
            backend,
            limits,
            embed_tokens,
            layers,
            lm_head,
            kv,
        })
    }
}

impl<B: Backend> Model for Qwen3<B> {
    fn launch(&mut self, batch: &ForwardBatch, samples: &SampleBatch) {
        let (tokens, rows) = (batch.token_ids.len(), batch.logit_rows.len());
        assert!(tokens <= self.limits.max_tokens, "{tokens} tokens in a step of at most {}", self.limits.max_tokens);
        assert_eq!(tokens, batch.paged.num_rows(), "tokens and rows of the batch");
        let tasks = samples.tasks.len();
        assert!(tasks == rows || tasks == 0, "{rows} rows of logits and {tasks} tasks");
        assert!(self.in_flight.is_none(), "the step before has not been waited for");

        let b = Arc::clone(&self.backend);
        self.rotation_host.clear();
        self.rope.rotations(&batch.positions, &mut self.rotation_host);
        b.write(&mut self.rotation, &self.rotation_host);
        let mut step = b.begin(batch, samples);

        let s = &mut self.scratch;
        b.zero(&mut s.residual, tokens);
        self.embed_tokens.forward(&b, &step, &mut s.out);
        let mut cx = LayerContext { backend: &*b, step: &step, kv: &mut self.kv, rotation: &self.rotation };
        for layer in &self.layers {
            layer.forward(&mut cx, s);
        }
        self.norm.forward(&b, &mut s.residual, &s.out, &mut s.x);

        for first in (0..rows).step_by(self.limits.max_logit_rows) {
            let some = first..rows.min(first + self.limits.max_logit_rows);
            self.lm_head.sample(&b, &s.x, &mut s.head, &mut step, some);
        }
        b.launch(&mut step);
        self.in_flight = Some(step);
    }

    fn wait(&mut self) -> Result<StepOutput, ForwardError> {
        let step = self.in_flight.take().expect("a step is in flight");
        Ok(StepOutput { rows: self.backend.finish(step)? })
    }
}

impl<B: Backend> Layer<B> {
    fn load(cx: &LoadContext<'_, B>, index: usize) -> Result<Self, LoadError> {
        let mlp = match &cx.config.moe {
            Some(moe) if cx.config.sparse_layers[index] => FeedForward::Sparse(Experts::load(cx, index, moe)?),
            _ => FeedForward::Dense(Mlp::load(cx, index)?),
        };
        Ok(Self {
            input_norm: RmsNorm::load(cx, cx.network.tensor(Some(index), Role::AttentionNorm))?,
            attention: Attention::load(cx, index)?,
            post_norm: RmsNorm::load(cx, cx.network.tensor(Some(index), Role::MlpNorm))?,
            mlp,
        })
    }

    fn forward(&self, cx: &mut LayerContext<'_, B>, s: &mut StepBuffers<B>) {
        let b = cx.backend;
        self.input_norm.forward(b, &mut s.residual, &s.out, &mut s.x);
        self.attention.forward(cx, &s.x, &mut s.attention, &mut s.out);
        self.post_norm.forward(b, &mut s.residual, &s.out, &mut s.x);
        match (&self.mlp, &mut s.mlp, &mut s.experts) {
            (FeedForward::Dense(mlp), Some(scratch), _) => mlp.forward(b, &s.x, scratch, &mut s.out),
            (FeedForward::Sparse(experts), _, Some(scratch)) => experts.forward(b, &s.x, scratch, &mut s.out),
            _ => unreachable!("StepBuffers::new makes room for every kind of layer in the config"),
        }
    }
}

impl<B: Backend> StepBuffers<B> {
    fn new(cx: &LoadContext<'_, B>, lm_head: &Head<B>, limits: &StepLimits) -> Self {
        let (b, config) = (cx.backend, cx.config);
        let (tokens, heads) = (limits.max_tokens, config.heads);
        let dense = config.sparse_layers.contains(&false);
        Self {
            residual: b.alloc(tokens, config.hidden),
            x: b.alloc(tokens, config.hidden),
            out: b.alloc(tokens, config.hidden),
            attention: AttentionBuffers {
                qkv: b.alloc(tokens, heads.qkv_dim()),
                context: b.alloc(tokens, heads.q_dim()),
            },
            mlp: dense.then(|| MlpBuffers {
                gate_up: b.alloc(tokens, 2 * config.intermediate),
                inner: b.alloc(tokens, config.intermediate),
            }),
            experts: config.moe.map(|moe| ExpertsBuffers {
                logits: b.alloc(tokens, moe.num_experts),
                routing: b.alloc_routing(tokens, moe.top_k),
            }),
            head: lm_head.buffers(cx, limits.max_logit_rows),
        }
    }
}
