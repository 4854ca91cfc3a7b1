//! Networks that are divided over ranks: the same tokens as on one, the same bits alone and among others, and a rank
//! that fails takes one step with it.

use std::{panic::resume_unwind, path::Path, sync::Arc};

use crate::networks::{Driver, full_row, greedy_row, limits, open};
use quern_backend::{
    Collective, ForwardBatch, KvFormat, Lost, PagedBatch, Precision, RowOutput, SampleBatch, Span, conformance::Rng,
};
use quern_cpu::{CpuBackend, CpuConfig};
use quern_model::{
    Checkpoint, CheckpointOptions, ForwardError, GenerationConfig, Model, ModelConfig, Parallelism, RankLoader,
    RankModel, Ranks, StepLimits, StepOutput, load_ranks, weights::QuantRecipe,
};

/// Checkpoints and the most ranks that their heads can be divided over; the last two are among the reference fixtures only.
const ALL: [(&str, usize); 8] = [
    ("tiny-dense", 8),
    ("tiny-fp8-ragged", 2),
    ("tiny-mixed", 4),
    ("tiny-yarn", 4),
    ("tiny-qwen2", 8),
    ("tiny-qwen2-yarn", 3),
    ("tiny-bf16", 8),
    ("tiny-fp8", 4),
];

/// Ways to divide them.
const LAYOUTS: [Parallelism; 7] = [
    Parallelism { tp: 2, ep: 1 },
    Parallelism { tp: 2, ep: 2 },
    Parallelism { tp: 3, ep: 1 },
    Parallelism { tp: 4, ep: 1 },
    Parallelism { tp: 4, ep: 2 },
    Parallelism { tp: 4, ep: 4 },
    Parallelism { tp: 8, ep: 2 },
];

fn checkpoint(dir: &Path) -> Checkpoint {
    Checkpoint::open(dir, &CheckpointOptions::default()).unwrap_or_else(|e| panic!("{e}"))
}

/// The network of `checkpoint`, divided.
fn divided(
    checkpoint: &Checkpoint,
    precision: Precision,
    threads: usize,
    Parallelism { tp, ep }: Parallelism,
    limits: StepLimits,
) -> Result<Box<dyn Model>, quern_model::LoadError> {
    let backends = backends(precision, threads, tp);
    if let [backend] = backends.as_slice() {
        return quern_model::load(checkpoint, Arc::clone(backend), limits, &mut |_| {});
    }
    let models = load_ranks(loaders(&backends), ep, checkpoint, limits, &mut |_| {})?;
    Ok(Box::new(Ranks::new(models).expect("threads to spare")))
}

fn backends(precision: Precision, threads: usize, tp: usize) -> Vec<Arc<CpuBackend>> {
    let config = CpuConfig { threads: Some(threads), isa: None, precision };
    CpuBackend::ranks(config, tp).expect("this CPU's own kernels").into_iter().map(Arc::new).collect()
}

fn loaders(backends: &[Arc<CpuBackend>]) -> Vec<RankLoader<'_, CpuBackend>> {
    let loaders = backends.iter().map(|backend| RankLoader {
        backend: Arc::clone(backend),
        uploader: Box::new(backend.uploader_with(None)),
        collective: backend.collective().expect("one of several"),
    });
    loaders.collect()
}

/// The layouts that the heads and experts of `checkpoint` allow.
fn layouts(checkpoint: &Checkpoint, most_ranks: usize) -> impl Iterator<Item = Parallelism> {
    let experts = checkpoint.config().moe.map_or(0, |moe| moe.num_experts);
    // Groups of experts mean nothing to a dense network.
    let has_groups = move |ep: usize| if experts == 0 { ep == 1 } else { experts.is_multiple_of(ep) };
    LAYOUTS.into_iter().filter(move |layout| most_ranks.is_multiple_of(layout.tp) && has_groups(layout.ep))
}

#[test]
fn every_layout_continues_as_transformers_does() {
    let mut tried = 0;
    for (name, most_ranks) in ALL {
        let Some((dir, golden)) = open(name) else { continue };
        let checkpoint = checkpoint(&dir);
        for layout in layouts(&checkpoint, most_ranks) {
            let limits = limits(16, KvFormat::F32);
            let model = divided(&checkpoint, Precision::F32, 2, layout, limits).unwrap_or_else(|e| panic!("{e}"));
            let mut driver = Driver::over(model, limits);
            let prompts = golden.prompts();
            for prompt in &prompts {
                driver.add(&golden.ids(&format!("{prompt}.ids")));
            }
            for (prompt, tokens) in prompts.iter().zip(driver.greedy(64, 100)) {
                assert_eq!(tokens, golden.ids(&format!("{prompt}.greedy_ids")), "{name} {prompt} {layout:?}");
            }
            tried += 1;
        }
    }
    // So many with the checkpoints of this repository alone.
    assert!(tried >= 17, "{tried} pairs of checkpoint and layout");
}

/// The largest difference of a log-probability of the last position of `ids` on two models.
fn difference(models: [Box<dyn Model>; 2], limits: StepLimits, vocab: usize, ids: &[u32]) -> f32 {
    let [a, b] = models.map(|model| {
        let mut driver = Driver::over(model, limits);
        driver.add(ids);
        driver.step(&[(0, ids.len())], |rows| vec![full_row(rows[0], vocab)]).remove(0).requested
    });
    a.iter().zip(&b).map(|((_, a), (_, b))| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn layouts_differ_by_the_order_of_additions_only() {
    for (name, most_ranks) in ALL {
        let Some((dir, golden)) = open(name) else { continue };
        let checkpoint = checkpoint(&dir);
        let limits = limits(16, KvFormat::F32);
        let ids = golden.ids(&format!("{}.ids", golden.prompts()[0]));
        let mut largest = 0.0_f32;
        for layout in layouts(&checkpoint, most_ranks) {
            let models = [Parallelism::NONE, layout].map(|layout| {
                divided(&checkpoint, Precision::F32, 1, layout, limits).unwrap_or_else(|e| panic!("{e}"))
            });
            largest = largest.max(difference(models, limits, checkpoint.config().vocab_size, &ids));
        }
        eprintln!("{name}: log-probabilities differ by {largest:e} at most");
        assert!(largest < 1e-4, "{name}: {largest}");
    }
}

#[test]
fn a_row_has_the_same_bits_alone_among_others_and_on_any_threads_in_every_layout() {
    for (name, precision) in [
        ("tiny-mixed", Precision::Bf16),
        ("tiny-fp8-ragged", Precision::Bf16),
        ("tiny-dense", Precision::F32),
        ("tiny-qwen2", Precision::Bf16),
    ] {
        let (dir, golden) = open(name).expect("a checkpoint of the repository");
        let checkpoint = checkpoint(&dir);
        let most_ranks = ALL.iter().find(|(known, _)| *known == name).expect("one of them").1;
        let prompts: Vec<_> = golden.prompts().iter().map(|prompt| golden.ids(&format!("{prompt}.ids"))).collect();
        for layout in layouts(&checkpoint, most_ranks) {
            let limits = limits(16, KvFormat::BF16);
            let driver = |threads, prompts: &[Vec<u32>]| {
                let model = divided(&checkpoint, precision, threads, layout, limits).unwrap_or_else(|e| panic!("{e}"));
                let mut driver = Driver::over(model, limits);
                for prompt in prompts {
                    driver.add(prompt);
                }
                driver
            };
            let together = driver(layout.tp, &prompts).greedy_bits(8, 2048);
            let chunked = driver(2 * layout.tp + 1, &prompts).greedy_bits(8, 7);
            assert_eq!(together, chunked, "{name} {layout:?}: in chunks, on other threads");
            for index in [0, prompts.len() - 1] {
                let alone = driver(layout.tp, &prompts[index..index + 1]).greedy_bits(8, 2048);
                assert_eq!(alone[0], together[index], "{name} {layout:?}: alone");
            }
        }
    }
}

/// A network whose inner sizes are whole blocks of K-quants, of random weights.
fn wide(recipe: QuantRecipe) -> Checkpoint {
    let config = serde_json::json!({
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "vocab_size": 512, "hidden_size": 256,
        "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64,
        "intermediate_size": 512, "moe_intermediate_size": 768, "num_experts": 4, "num_experts_per_tok": 2,
        "norm_topk_prob": true, "decoder_sparse_step": 2, "mlp_only_layers": [], "hidden_act": "silu",
        "rms_norm_eps": 1e-6, "rope_theta": 1e7, "max_position_embeddings": 4096, "tie_word_embeddings": false,
        "attention_bias": false, "torch_dtype": "bfloat16",
    });
    let config = ModelConfig::from_json(config.as_object().unwrap()).unwrap();
    Checkpoint::dummy(config, GenerationConfig::default()).quantised(Some(recipe))
}

#[test]
fn weights_made_of_blocks_are_divided_at_whole_blocks_or_refused() {
    let limits = limits(16, KvFormat::F32);
    let ids: Vec<u32> = (0..40).map(|i| i * 37 % 512).collect();
    for (recipe, layouts) in [
        (QuantRecipe::Q8_0, &[(2, 1), (4, 1), (4, 2), (4, 4)][..]),
        // 768 columns are three superblocks of 256, of which two ranks get 1 and 2.
        (QuantRecipe::Q4KM, &[(2, 1), (2, 2)]),
    ] {
        let checkpoint = wide(recipe);
        for &(tp, ep) in layouts {
            let models = [Parallelism::NONE, Parallelism { tp, ep }].map(|layout| {
                divided(&checkpoint, Precision::F32, 1, layout, limits).unwrap_or_else(|e| panic!("{e}"))
            });
            let off = difference(models, limits, 512, &ids);
            assert!(off < 1e-4, "{recipe}, tp {tp} ep {ep}: {off}");
        }
    }
    let refused = |tp, ep| {
        let error = divided(&wide(QuantRecipe::Q4KM), Precision::F32, 1, Parallelism { tp, ep }, limits).err();
        error.unwrap_or_else(|| panic!("tp {tp} ep {ep} is taken")).to_string()
    };
    // Each rank's two heads of 64 are half a superblock.
    let error = refused(4, 1);
    assert!(error.contains("tp_size = 4") && error.contains("128 input features of o_proj"), "{error}");
    let error = refused(2, 4);
    assert!(error.contains("tp_size = 2 is not divisible by ep_size = 4"), "{error}");
    let error = refused(3, 1);
    assert!(error.contains("num_attention_heads = 8 is not divisible by tp_size = 3"), "{error}");
}

/// Exchanges of a step of an [`Adder`].
const EXCHANGES: usize = 5;

/// A model that adds up numbers over the ranks, and panics before one of the exchanges, or behind the last, where its
/// plan says so.
struct Adder {
    collective: Arc<dyn Collective>,
    plan: Vec<Option<usize>>,
    step: usize,
    lost: Option<Lost>,
    sum: f32,
}

impl Model for Adder {
    fn launch(&mut self, _: &ForwardBatch, _: &SampleBatch) {
        self.step += 1;
        (self.lost, self.sum) = (None, 0.0);
        for exchange in 0..=EXCHANGES {
            if self.plan[self.step - 1] == Some(exchange) {
                // Without the message on standard error: there are thousands of them.
                resume_unwind(Box::new(format!("unlucky at {exchange}")));
            }
            let mut value = [(self.step * (self.collective.rank().index + 1)) as f32];
            if exchange < EXCHANGES
                && let Err(lost) = self.collective.all_reduce(&mut value)
            {
                self.lost.get_or_insert(lost);
            }
            self.sum += value[0];
        }
    }

    fn wait(&mut self) -> Result<StepOutput, ForwardError> {
        match self.lost.take() {
            Some(lost) => Err(lost.into()),
            None => Ok(StepOutput { rows: vec![RowOutput { logprob: self.sum, ..RowOutput::default() }] }),
        }
    }
}

#[test]
fn a_panic_anywhere_fails_its_step_once_and_the_next_is_right() {
    let mut rng = Rng(20_261_129);
    let mut failed = 0;
    for ranks in [2, 3, 4] {
        let backends = backends(Precision::F32, 1, ranks);
        for seed in 0..350 {
            // Of each step and rank, where it panics.
            let mut place = |_| (rng.below(6) == 0).then(|| rng.below(EXCHANGES + 1));
            let steps: Vec<Vec<Option<usize>>> = (0..6).map(|_| (0..ranks).map(&mut place).collect()).collect();
            let adders = backends.iter().enumerate().map(|(rank, backend)| {
                let collective = backend.collective().expect("one of several");
                let plan = steps.iter().map(|places| places[rank]).collect();
                let adder = Adder { collective: Arc::clone(&collective), plan, step: 0, lost: None, sum: 0.0 };
                RankModel { model: Box::new(adder), collective }
            });
            let mut model = Ranks::new(adders.collect()).unwrap();
            for (step, places) in steps.iter().enumerate() {
                model.launch(&ForwardBatch::default(), &SampleBatch::default());
                let unlucky: Vec<usize> = (0..ranks).filter(|&rank| places[rank].is_some()).collect();
                let what = format!("{ranks} ranks, seed {seed}, step {step}, unlucky {unlucky:?}");
                match model.wait() {
                    Ok(output) => {
                        assert!(unlucky.is_empty(), "{what}");
                        let sum = (step + 1) * (ranks * (ranks + 1) / 2 * EXCHANGES + 1);
                        assert_eq!(output.rows[0].logprob, sum as f32, "{what}");
                    }
                    Err(error) => {
                        let text = error.to_string();
                        let named = unlucky.iter().any(|rank| text.starts_with(&format!("rank {rank} panicked")));
                        assert!(named && !error.is_final(), "{what}: {text}");
                        failed += 1;
                    }
                }
            }
        }
    }
    assert!(failed > 1000, "{failed} steps failed");
}

/// A model that panics in some of its steps, before it has exchanged anything or once it has ended.
struct Failing {
    inner: Box<dyn Model>,
    step: usize,
    fails: fn(usize) -> Option<Moment>,
}

#[derive(Clone, Copy, PartialEq)]
enum Moment {
    Before,
    After,
}

impl Model for Failing {
    fn launch(&mut self, batch: &ForwardBatch, samples: &SampleBatch) {
        self.step += 1;
        assert!((self.fails)(self.step) != Some(Moment::Before), "unlucky before step {}", self.step);
        self.inner.launch(batch, samples);
    }

    fn wait(&mut self) -> Result<StepOutput, ForwardError> {
        let output = self.inner.wait();
        assert!((self.fails)(self.step) != Some(Moment::After), "unlucky after step {}", self.step);
        output
    }
}

#[test]
fn a_rank_that_fails_takes_one_step_with_it() {
    let (dir, golden) = open("tiny-mixed").expect("a checkpoint of the repository");
    let checkpoint = checkpoint(&dir);
    let limits = limits(16, KvFormat::F32);
    let ids = golden.ids(&format!("{}.ids", golden.prompts()[0]));
    let batch = ForwardBatch {
        positions: (0..ids.len() as u32).collect(),
        paged: PagedBatch {
            spans: vec![Span { q_start: 0, q_len: ids.len(), kv_len: ids.len(), pages: 0..ids.len().div_ceil(16) }],
            pages: (0..ids.len().div_ceil(16) as u32).collect(),
        },
        logit_rows: vec![ids.len() - 1],
        token_ids: ids,
    };
    let samples = SampleBatch { tasks: vec![greedy_row(0).1] };
    let wanted = golden.ids(&format!("{}.greedy_ids", golden.prompts()[0]))[0];
    for unlucky in 0..4 {
        let fails: fn(usize) -> Option<Moment> = |step| match step {
            2 | 3 => Some(Moment::Before),
            5 => Some(Moment::After),
            _ => None,
        };
        let mut model = failing(&checkpoint, limits, unlucky, fails);
        for step in 1..=6 {
            model.launch(&batch, &samples);
            match (model.wait(), fails(step)) {
                (Ok(output), None) => assert_eq!(output.rows[0].token, wanted, "rank {unlucky}, step {step}"),
                (Err(error), Some(_)) => {
                    let text = error.to_string();
                    let named = format!("rank {unlucky} panicked: unlucky");
                    assert!(text.contains(&named) && text.ends_with(&format!("step {step}")), "{text}");
                    assert!(!error.is_final(), "{text}");
                }
                (outcome, _) => panic!("rank {unlucky}, step {step}: {outcome:?}"),
            }
        }
    }
}

/// Four ranks, of which `unlucky` fails.
fn failing(
    checkpoint: &Checkpoint,
    limits: StepLimits,
    unlucky: usize,
    fails: fn(usize) -> Option<Moment>,
) -> Box<dyn Model> {
    let backends = backends(Precision::F32, 1, 4);
    let mut models =
        load_ranks(loaders(&backends), 2, checkpoint, limits, &mut |_| {}).unwrap_or_else(|e| panic!("{e}"));
    let RankModel { model: inner, collective } = models.remove(unlucky);
    models.insert(unlucky, RankModel { model: Box::new(Failing { inner, step: 0, fails }), collective });
    Box::new(Ranks::new(models).unwrap())
}
