//! The operations of [`CpuBackend`], each a split of its work over the pool.

use std::ops::Range;

use quern_backend::{
    AttentionSpec, Backend, DeviceFault, ForwardBatch, HeadLayout, KvSpec, LogitTask, RowOutput, SampleBatch,
    UploadError, Uploader, sampling,
};

use crate::{
    CpuBackend,
    backend::Exchange,
    buffer::{Buffer, Routing},
    kv_cache::KvCache,
    memory::DisjointMut,
    moe::{self, Experts},
    paged_attention::Attend,
    product::{self, Weight},
    route::route_row,
    step::Step,
};

/// Elements of activations that the caller goes through sooner than a second worker wakes.
const SMALL: usize = 16 << 10;

impl CpuBackend {
    /// Call `f(row, its part of out)` for each of `rows` rows of `cols` elements.
    fn each_row<T: Send>(&self, out: &mut [T], cols: usize, f: impl Fn(usize, &mut [T]) + Sync) {
        let rows = out.len() / cols.max(1);
        let grain = if out.len() <= SMALL { rows } else { 1 + SMALL / 4 / cols };
        let out = DisjointMut::new(out);
        self.pool.for_each(rows, grain, |_, range| {
            for row in range {
                // SAFETY: each row is one worker's.
                f(row, unsafe { out.part(row * cols..(row + 1) * cols) });
            }
        });
    }
}

impl Backend for CpuBackend {
    type Buffer = Buffer;
    type Weight = Weight;
    type Experts = Experts;
    type Routing = Routing;
    type KvCache = KvCache;
    type Step = Step;

    fn alloc(&self, capacity: usize, cols: usize) -> Buffer {
        Buffer::zeroed(capacity, cols)
    }

    fn alloc_routing(&self, capacity: usize, top_k: usize) -> Routing {
        Routing::with_capacity(capacity, top_k)
    }

    fn alloc_kv(&self, spec: &KvSpec) -> Result<KvCache, UploadError> {
        self.scratch().attention.reserve(&spec.heads);
        let bytes = KvCache::bytes(spec).unwrap_or(usize::MAX);
        KvCache::new(spec).ok_or(UploadError::OutOfMemory { what: "KV pages", bytes, backend: "cpu" })
    }

    fn uploader(&self) -> Box<dyn Uploader<Self> + '_> {
        Box::new(self.uploader_with(None))
    }

    fn write(&self, buffer: &mut Buffer, values: &[f32]) {
        assert_eq!(values.len() % buffer.cols(), 0, "whole rows of {} columns", buffer.cols());
        buffer.set_rows(values.len() / buffer.cols());
        buffer.values_mut().copy_from_slice(values);
    }

    fn read(&self, buffer: &Buffer) -> Vec<f32> {
        buffer.values().to_vec()
    }

    fn zero(&self, buffer: &mut Buffer, rows: usize) {
        buffer.set_rows(rows);
        buffer.values_mut().fill(0.0);
    }

    fn begin(&self, batch: &ForwardBatch, samples: &SampleBatch) -> Step {
        self.pool.pin_caller();
        // What a step that panicked left behind.
        self.exchange.as_ref().and_then(Exchange::take_lost);
        Step::new(batch, samples)
    }

    fn embed(&self, table: &Weight, first: usize, step: &Step, out: &mut Buffer) {
        let [table] = table.parts() else { panic!("an embedding table is one matrix, not {}", table.parts().len()) };
        assert_eq!(out.cols(), table.cols(), "columns of the output and of the table");
        let ids = &step.batch.token_ids;
        out.set_rows(ids.len());
        let cols = out.cols();
        self.each_row(out.values_mut(), cols, |i, row| {
            match (ids[i] as usize).checked_sub(first).filter(|&id| id < table.rows()) {
                Some(id) => table.decode_row(id, row),
                None => row.fill(0.0),
            }
        });
    }

    fn add_rms_norm(&self, residual: &mut Buffer, delta: &Buffer, gain: &Buffer, eps: f32, out: &mut Buffer) {
        assert_eq!(residual.rows(), delta.rows(), "rows of the residual and of what is added");
        out.set_rows(residual.rows());
        let cols = residual.cols();
        assert_eq!(out.cols(), cols, "columns of the output and of the residual");
        let out = DisjointMut::new(out.values_mut());
        self.each_row(residual.values_mut(), cols, |i, row| {
            // SAFETY: row `i` is one worker's.
            let out = unsafe { out.part(i * cols..(i + 1) * cols) };
            self.kernels.add_rms_norm(row, delta.row(i), gain.row(0), eps, out);
        });
    }

    fn linear(&self, x: &Buffer, weight: &Weight, out: &mut Buffer) {
        product::linear(&self.kernels, &self.pool, &mut self.scratch().product, x, weight, out);
    }

    fn qk_norm_rope(
        &self,
        qkv: &mut Buffer,
        heads: &HeadLayout,
        q_gain: &Buffer,
        k_gain: &Buffer,
        eps: f32,
        rotation: &Buffer,
    ) {
        assert_eq!(qkv.rows(), rotation.rows(), "rows of qkv and of the rotation");
        assert_eq!(qkv.cols(), heads.qkv_dim(), "columns of qkv");
        let cols = qkv.cols();
        self.each_row(qkv.values_mut(), cols, |i, row| {
            let rotated = row[..heads.q_dim() + heads.kv_dim()].chunks_exact_mut(heads.head_dim);
            for (h, head) in rotated.enumerate() {
                let gain = if h < heads.num_heads { q_gain } else { k_gain };
                self.kernels.norm_rope(head, gain.row(0), eps, rotation.row(i));
            }
        });
    }

    fn bias_rope(&self, qkv: &mut Buffer, heads: &HeadLayout, bias: &Buffer, rotation: &Buffer) {
        assert_eq!(qkv.rows(), rotation.rows(), "rows of qkv and of the rotation");
        let cols = heads.qkv_dim();
        assert_eq!((qkv.cols(), bias.cols()), (cols, cols), "columns of qkv and of the bias");
        let (bias, bias_of_values) = bias.row(0).split_at(heads.q_dim() + heads.kv_dim());
        self.each_row(qkv.values_mut(), cols, |i, row| {
            let (rotated, values) = row.split_at_mut(bias.len());
            for (head, bias) in rotated.chunks_exact_mut(heads.head_dim).zip(bias.chunks_exact(heads.head_dim)) {
                self.kernels.bias_rope(head, bias, rotation.row(i));
            }
            values.iter_mut().zip(bias_of_values).for_each(|(value, bias)| *value += bias);
        });
    }

    fn attention(&self, qkv: &Buffer, spec: &AttentionSpec, kv: &mut KvCache, step: &Step, out: &mut Buffer) {
        let (batch, heads) = (&step.batch.paged, &spec.heads);
        assert_eq!(qkv.rows(), batch.num_rows(), "rows of qkv and of the batch");
        assert_eq!(*heads, kv.spec().heads, "heads of the layer and of the pages");
        assert!(qkv.cols() == heads.qkv_dim() && out.cols() == heads.q_dim(), "columns of qkv and of the output");
        assert_ne!(spec.window, Some(0), "a row sees its own position");
        out.set_rows(qkv.rows());
        let pages = kv.layer(spec.layer);
        let attend = Attend { kernels: &self.kernels, pool: &self.pool, qkv, spec, pages, batch };
        attend.store();
        attend.run(&mut self.scratch().attention, out);
    }

    fn silu_mul(&self, gate_up: &Buffer, out: &mut Buffer) {
        assert_eq!(gate_up.cols(), 2 * out.cols(), "columns of gate and up, and of the output");
        out.set_rows(gate_up.rows());
        let cols = out.cols();
        self.each_row(out.values_mut(), cols, |i, row| {
            let (gate, up) = gate_up.row(i).split_at(cols);
            self.kernels.silu_mul(gate, up, row);
        });
    }

    fn route(&self, logits: &Buffer, renormalise: bool, routing: &mut Routing) {
        routing.set_rows(logits.rows());
        let top_k = routing.top_k();
        let (experts, weights) = routing.parts_mut();
        let weights = DisjointMut::new(weights);
        self.each_row(experts, top_k, |i, experts| {
            // SAFETY: row `i` is one worker's.
            let weights = unsafe { weights.part(i * top_k..(i + 1) * top_k) };
            route_row(logits.row(i), renormalise, experts, weights);
        });
    }

    fn moe(&self, x: &Buffer, routing: &Routing, experts: &Experts, out: &mut Buffer) {
        moe::moe(&self.kernels, &self.pool, &mut self.scratch().moe, x, routing, experts, out);
    }

    fn all_reduce(&self, buffer: &mut Buffer) {
        if let Some(exchange) = &self.exchange {
            exchange.note(exchange.collective.all_reduce(buffer.values_mut()));
        }
    }

    fn gather(&self, part: &Buffer, widths: &[usize], out: &mut Buffer) {
        let Some(exchange) = &self.exchange else {
            assert_eq!((widths, out.cols()), (&[part.cols()][..], part.cols()), "columns of the only rank");
            out.set_rows(part.rows());
            return out.values_mut().copy_from_slice(part.values());
        };
        let rank = exchange.collective.rank();
        assert_eq!(part.cols(), widths[rank.index], "columns of this rank");
        let all = match rank.index {
            0 => {
                assert_eq!(out.cols(), widths.iter().sum::<usize>(), "columns of the output and of all ranks");
                out.set_rows(part.rows());
                out.values_mut()
            }
            _ => &mut [],
        };
        exchange.note(exchange.collective.gather(part.values(), widths, all));
    }

    fn gather_rows(&self, x: &Buffer, step: &Step, rows: Range<usize>, out: &mut Buffer) {
        assert_eq!(out.cols(), x.cols(), "columns of the output and of the input");
        let rows = &step.batch.logit_rows[rows];
        out.set_rows(rows.len());
        let cols = out.cols();
        out.values_mut().chunks_exact_mut(cols).zip(rows).for_each(|(row, &from)| row.copy_from_slice(x.row(from)));
    }

    fn sample(&self, logits: &mut Buffer, step: &mut Step, rows: Range<usize>) {
        if step.samples.tasks.is_empty() {
            return;
        }
        assert_eq!(logits.rows(), rows.len(), "rows of logits and tasks");
        assert_eq!(step.outputs.len(), rows.start, "rows of a step are sampled in order");
        let tasks = &step.samples.tasks[rows.clone()];
        step.outputs.resize_with(rows.end, RowOutput::default);
        let outputs = DisjointMut::new(&mut step.outputs[rows]);
        let cols = logits.cols();
        let rows = DisjointMut::new(logits.values_mut());
        self.pool.for_each(tasks.len(), 1, |_, range| {
            for i in range {
                // SAFETY: row `i` and its output are one worker's.
                let row = unsafe { rows.part(i * cols..(i + 1) * cols) };
                // SAFETY: as above.
                let output = &mut unsafe { outputs.part(i..i + 1) }[0];
                *output = match self.plainly_greedy(row, &tasks[i]) {
                    Some(token) => RowOutput { token, ..RowOutput::default() },
                    None => sampling::sample_row(row, &tasks[i]),
                };
            }
        });
    }

    /// Operations compute when they are called.
    fn launch(&self, _: &mut Step) {}

    /// What can fail on a CPU is a programmer's error, and panics where it happens; another rank may be lost.
    fn finish(&self, step: Step) -> Result<Vec<RowOutput>, DeviceFault> {
        match self.exchange.as_ref().and_then(Exchange::take_lost) {
            None => Ok(step.outputs),
            Some(lost) if lost.gone => Err(DeviceFault::Lost { backend: "cpu", cause: lost.to_string() }),
            Some(lost) => Err(DeviceFault::Step { backend: "cpu", cause: lost.to_string() }),
        }
    }
}

impl CpuBackend {
    /// The largest logit's token, where that is all the task asks for and every logit is finite: the
    /// same as [`sampling::sample_row`], at the speed of memory.
    fn plainly_greedy(&self, logits: &[f32], task: &LogitTask) -> Option<u32> {
        if !task.is_plain_argmax() {
            return None;
        }
        let peak = self.kernels.peak(logits)?;
        // By blocks, so that the comparison runs in vectors.
        const BLOCK: usize = 256;
        let block = logits.chunks(BLOCK).position(|b| b.iter().fold(false, |found, &x| found | (x == peak)))?;
        let within = logits[block * BLOCK..].iter().position(|&x| x == peak)?;
        u32::try_from(block * BLOCK + within).ok()
    }
}
