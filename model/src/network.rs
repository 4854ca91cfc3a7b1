//! [`NetworkSpec`]: every tensor of a network by name, shape and role. A family writes it once, beside its forward;
//! loading, counting, quantising and the file formats read it and know no names of their own.

use crate::config::ModelConfig;

/// What a tensor does in a decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Features of each token; another matrix makes the logits.
    Embedding,
    /// Features of each token, and the matrix that makes the logits.
    TiedEmbedding,
    /// The matrix that makes the logits.
    Head,
    /// Gain of the norm before the head.
    FinalNorm,
    /// Gain of the norm before attention.
    AttentionNorm,
    /// Projection to the queries of all heads.
    Query,
    /// Projection to the keys.
    Key,
    /// Projection to the values.
    Value,
    /// Added to the queries.
    QueryBias,
    /// Added to the keys.
    KeyBias,
    /// Added to the values.
    ValueBias,
    /// Gain of the norm of each query.
    QueryNorm,
    /// Gain of the norm of each key.
    KeyNorm,
    /// Projection of attention's output.
    AttentionOutput,
    /// Gain of the norm before the feed-forward network.
    MlpNorm,
    /// Scores of the experts.
    Router,
    /// A matrix of a dense feed-forward network.
    Mlp(MlpPart),
    /// A matrix of each expert of a layer.
    Expert(MlpPart),
}

/// A matrix of `down(silu(gate(x)) * up(x))`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MlpPart {
    /// `[inner, hidden]`, before the activation.
    Gate,
    /// `[inner, hidden]`.
    Up,
    /// `[hidden, inner]`.
    Down,
}

impl Role {
    /// Makes the logits.
    pub fn is_head(self) -> bool {
        matches!(self, Role::Head | Role::TiedEmbedding)
    }

    /// Turns tokens into features.
    pub fn is_embedding(self) -> bool {
        matches!(self, Role::Embedding | Role::TiedEmbedding)
    }

    /// Added to what a projection makes.
    pub fn is_bias(self) -> bool {
        matches!(self, Role::QueryBias | Role::KeyBias | Role::ValueBias)
    }
}

/// The shape of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Output × input features; may be quantised.
    Matrix(usize, usize),
    /// A norm's gain or a bias; never quantised.
    Vector(usize),
}

impl Shape {
    /// Sizes, outermost first.
    pub fn dims(&self) -> Vec<usize> {
        match *self {
            Shape::Matrix(rows, cols) => vec![rows, cols],
            Shape::Vector(len) => vec![len],
        }
    }

    /// Numbers in it. In 128 bits: the product of a hostile config's sizes must not wrap around to one that fits.
    fn elements(&self) -> u128 {
        self.dims().into_iter().map(|n| n as u128).product()
    }
}

/// A tensor, or the tensors of all experts of a layer that have one role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// What it does.
    pub role: Role,
    /// Its layer; none for those before the first and behind the last.
    pub layer: Option<usize>,
    /// The shape of one.
    pub shape: Shape,
    /// The experts of the layer if it is theirs, otherwise 1.
    pub count: usize,
    /// Its name in a checkpoint, with `{layer}` and `{expert}` for their numbers.
    pattern: &'static str,
}

impl TensorSpec {
    /// The name in a checkpoint of number `index` of `count`.
    pub fn name(&self, index: usize) -> String {
        let layer = self.layer.map_or_else(String::new, |layer| layer.to_string());
        self.pattern.replace("{layer}", &layer).replace("{expert}", &index.to_string())
    }

    /// The names in a checkpoint, `count` of them.
    pub fn names(&self) -> impl Iterator<Item = String> {
        (0..self.count).map(|index| self.name(index))
    }

    /// Rows and columns of a matrix.
    ///
    /// # Panics
    /// If it is none.
    pub fn matrix(&self) -> (usize, usize) {
        match self.shape {
            Shape::Matrix(rows, cols) => (rows, cols),
            Shape::Vector(len) => panic!("{:?} is a vector of {len}, no matrix", self.role),
        }
    }

    /// Numbers in all of them.
    pub fn params(&self) -> u128 {
        self.count as u128 * self.shape.elements()
    }
}

/// The module of a tensor: its name without `.weight` or `.bias`.
pub fn module(name: &str) -> &str {
    name.strip_suffix(".weight").or(name.strip_suffix(".bias")).unwrap_or(name)
}

/// How a network is described: every tensor of the one that a config is of.
pub type Describe = fn(&ModelConfig) -> NetworkSpec;

/// All tensors of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkSpec {
    tensors: Vec<TensorSpec>,
    num_layers: usize,
    experts_per_token: usize,
}

/// The embedding of all these families.
pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";

/// The head of all these families, which some exporters write beside a tied embedding.
pub(crate) const HEAD: &str = "lm_head.weight";

impl NetworkSpec {
    /// What all decoders have outside their layers, `add_layer` to say what each of those has.
    pub(crate) fn decoder(config: &ModelConfig, mut add_layer: impl FnMut(&mut LayerSpec<'_>)) -> Self {
        let experts_per_token = config.moe.map_or(0, |moe| moe.top_k);
        let mut spec = Self { tensors: Vec::new(), num_layers: config.num_layers, experts_per_token };
        let mut push = |role, pattern, shape| {
            spec.tensors.push(TensorSpec { role, layer: None, shape, count: 1, pattern });
        };
        let embedding = if config.tie_word_embeddings { Role::TiedEmbedding } else { Role::Embedding };
        let table = Shape::Matrix(config.vocab_size, config.hidden);
        push(embedding, EMBEDDING, table);
        push(Role::FinalNorm, "model.norm.weight", Shape::Vector(config.hidden));
        if !config.tie_word_embeddings {
            push(Role::Head, HEAD, table);
        }
        for index in 0..config.num_layers {
            add_layer(&mut LayerSpec { index, config, tensors: &mut spec.tensors });
        }
        spec
    }

    /// Every tensor, those of a layer together.
    pub fn tensors(&self) -> &[TensorSpec] {
        &self.tensors
    }

    /// The tensor of this role, in `layer` if it is of one.
    ///
    /// # Panics
    /// If there is none: a family's forward asks for what its description has.
    pub fn tensor(&self, layer: Option<usize>, role: Role) -> &TensorSpec {
        let found = self.tensors.iter().find(|tensor| tensor.role == role && tensor.layer == layer);
        found.unwrap_or_else(|| panic!("no {role:?} in layer {layer:?} of the network's description"))
    }

    /// Whether `layer` has a tensor of this role.
    pub fn has(&self, layer: usize, role: Role) -> bool {
        self.tensors.iter().any(|tensor| tensor.role == role && tensor.layer == Some(layer))
    }

    /// The table of tokens' features.
    pub fn embedding(&self) -> &TensorSpec {
        self.tensors.iter().find(|tensor| tensor.role.is_embedding()).expect("every decoder has one")
    }

    /// The matrix that makes the logits, be it the embedding.
    pub fn head(&self) -> &TensorSpec {
        self.tensors.iter().find(|tensor| tensor.role.is_head()).expect("every decoder has one")
    }

    /// Decoder layers.
    pub fn num_layers(&self) -> usize {
        self.num_layers
    }

    /// Numbers stored.
    pub fn total_params(&self) -> u64 {
        saturated(self.tensors.iter().map(TensorSpec::params).sum())
    }

    /// Numbers one token meets: its experts only, the head but not the embedding.
    pub fn active_params(&self) -> u64 {
        saturated(self.met_per_token(|role| role != Role::Embedding))
    }

    /// Positions of context whose attention costs a token as many operations as its matrix products, the
    /// head left out: 2 a parameter against 4 a query feature and position in each layer.
    pub fn balanced_context(&self) -> usize {
        let products = 2 * self.met_per_token(|role| !role.is_embedding() && !role.is_head());
        usize::try_from(products / self.pair_ops().max(1)).unwrap_or(usize::MAX).max(1)
    }

    /// Operations of attention for one token that looks at one position, over all layers: two products with
    /// each feature of its queries.
    pub fn pair_ops(&self) -> u128 {
        let features = self.tensors.iter().filter(|tensor| tensor.role == Role::Query);
        4 * features.map(|tensor| tensor.shape.dims()[0] as u128).sum::<u128>()
    }

    /// Parameters of the `wanted` roles that one token meets.
    fn met_per_token(&self, wanted: impl Fn(Role) -> bool) -> u128 {
        let met = |tensor: &TensorSpec| match tensor.role {
            Role::Expert(_) => self.experts_per_token as u128 * tensor.shape.elements(),
            _ => tensor.params(),
        };
        self.tensors.iter().filter(|tensor| wanted(tensor.role)).map(met).sum()
    }
}

fn saturated(n: u128) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

/// The tensors of one layer, while a family writes them down.
pub(crate) struct LayerSpec<'a> {
    /// Which layer.
    pub(crate) index: usize,
    /// The network's numbers.
    pub(crate) config: &'a ModelConfig,
    tensors: &'a mut Vec<TensorSpec>,
}

impl LayerSpec<'_> {
    /// A matrix under `pattern`, which has `{layer}` where the layer's number stands.
    pub(crate) fn matrix(&mut self, role: Role, pattern: &'static str, rows: usize, cols: usize) {
        self.push(role, pattern, Shape::Matrix(rows, cols), 1);
    }

    /// A vector, likewise.
    pub(crate) fn vector(&mut self, role: Role, pattern: &'static str, len: usize) {
        self.push(role, pattern, Shape::Vector(len), 1);
    }

    /// The norms before both halves of the layer, under the names that all these families give them.
    pub(crate) fn norms(&mut self) {
        let hidden = self.config.hidden;
        self.vector(Role::AttentionNorm, "model.layers.{layer}.input_layernorm.weight", hidden);
        self.vector(Role::MlpNorm, "model.layers.{layer}.post_attention_layernorm.weight", hidden);
    }

    /// The four matrices of attention, likewise.
    pub(crate) fn attention(&mut self) {
        let (hidden, heads) = (self.config.hidden, self.config.heads);
        self.matrix(Role::Query, "model.layers.{layer}.self_attn.q_proj.weight", heads.q_dim(), hidden);
        self.matrix(Role::Key, "model.layers.{layer}.self_attn.k_proj.weight", heads.kv_dim(), hidden);
        self.matrix(Role::Value, "model.layers.{layer}.self_attn.v_proj.weight", heads.kv_dim(), hidden);
        self.matrix(Role::AttentionOutput, "model.layers.{layer}.self_attn.o_proj.weight", hidden, heads.q_dim());
    }

    /// A dense feed-forward network, likewise.
    pub(crate) fn mlp(&mut self) {
        let (hidden, inner) = (self.config.hidden, self.config.intermediate);
        self.matrix(Role::Mlp(MlpPart::Gate), "model.layers.{layer}.mlp.gate_proj.weight", inner, hidden);
        self.matrix(Role::Mlp(MlpPart::Up), "model.layers.{layer}.mlp.up_proj.weight", inner, hidden);
        self.matrix(Role::Mlp(MlpPart::Down), "model.layers.{layer}.mlp.down_proj.weight", hidden, inner);
    }

    /// One matrix of each of `count` experts under `pattern`, which has `{expert}` as well.
    pub(crate) fn experts(&mut self, part: MlpPart, pattern: &'static str, count: usize, rows: usize, cols: usize) {
        self.push(Role::Expert(part), pattern, Shape::Matrix(rows, cols), count);
    }

    fn push(&mut self, role: Role, pattern: &'static str, shape: Shape, count: usize) {
        self.tensors.push(TensorSpec { role, layer: Some(self.index), shape, count, pattern });
    }
}
