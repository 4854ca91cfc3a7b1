//! [`RefBackend`]: every operation in plain loops, f32 throughout. It defines what the operations mean.
//!
//! Clarity over speed: one thread, buffers reallocated at will, weights decoded a row at a time.

use std::ops::Range;

use crate::{
    AttentionSpec, Backend, DeviceFault, ForwardBatch, HeadLayout, KeyOrValue, KvSpec, PackedMatrix, RowOutput,
    SampleBatch, UploadError, Uploader, sampling,
};

/// The oracle.
#[derive(Clone, Copy, Debug, Default)]
pub struct RefBackend;

/// `[rows, cols]` f32, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Buffer {
    cols: usize,
    values: Vec<f32>,
}

impl Buffer {
    fn rows(&self) -> usize {
        self.values.len() / self.cols
    }

    fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.cols..(row + 1) * self.cols]
    }

    /// Set the number of rows and hand them out one by one.
    fn rows_mut(&mut self, rows: usize) -> impl Iterator<Item = &mut [f32]> {
        self.values.resize(rows * self.cols, 0.0);
        self.values.chunks_exact_mut(self.cols)
    }
}

/// Experts of a layer.
#[derive(Clone, Debug)]
pub struct Experts {
    /// Which of the routing's the first is.
    first: usize,
    gate: Vec<PackedMatrix>,
    up: Vec<PackedMatrix>,
    down: Vec<PackedMatrix>,
}

/// For each row, its experts with their weights, best first.
#[derive(Clone, Debug, PartialEq)]
pub struct Routing {
    top_k: usize,
    rows: Vec<Vec<(usize, f32)>>,
}

/// Keys and values, `[layer][page][k|v][head][slot][dim]`, rounded to the spec's element.
#[derive(Clone, Debug)]
pub struct KvCache {
    spec: KvSpec,
    values: Vec<f32>,
}

impl KvCache {
    fn offset(&self, layer: usize, page: usize, half: KeyOrValue, head: usize, slot: usize) -> usize {
        let spec = &self.spec;
        assert!(page < spec.num_pages, "page {page} of {}", spec.num_pages);
        let heads = spec.heads.num_kv_heads;
        let index = ((layer * spec.num_pages + page) * 2 + half as usize) * heads + head;
        (index * spec.page_size + slot) * spec.heads.head_dim
    }

    fn read(&self, layer: usize, pages: &[u32], half: KeyOrValue, head: usize, position: usize) -> &[f32] {
        let page = pages[position / self.spec.page_size] as usize;
        let start = self.offset(layer, page, half, head, position % self.spec.page_size);
        &self.values[start..start + self.spec.heads.head_dim]
    }

    fn store(&mut self, layer: usize, pages: &[u32], half: KeyOrValue, head: usize, position: usize, values: &[f32]) {
        let page = pages[position / self.spec.page_size] as usize;
        let start = self.offset(layer, page, half, head, position % self.spec.page_size);
        let format = self.spec.format;
        let mut bytes = vec![0; format.head_bytes(values.len())];
        format.encode(values, &mut bytes);
        format.decode(&bytes, &mut self.values[start..start + values.len()]);
    }
}

/// A copy of what the step was begun with, and what has been sampled.
#[derive(Clone, Debug)]
pub struct Step {
    batch: ForwardBatch,
    samples: SampleBatch,
    outputs: Vec<RowOutput>,
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

pub(crate) fn silu(x: f32) -> f32 {
    x / (1.0 + (-x).exp())
}

fn rms_norm(values: &mut [f32], gain: &[f32], eps: f32) {
    let mean = values.iter().map(|x| x * x).sum::<f32>() / values.len() as f32;
    let scale = 1.0 / (mean + eps).sqrt();
    for (x, g) in values.iter_mut().zip(gain) {
        *x = *x * scale * g;
    }
}

/// Rotate the pairs `(i, i + dim / 2)` of a head. `rotation`: `dim / 2` cosines, then as many sines.
fn rotate(head: &mut [f32], rotation: &[f32]) {
    let half = head.len() / 2;
    let (cos, sin) = rotation.split_at(half);
    let (low, high) = head.split_at_mut(half);
    for d in 0..half {
        let (a, b) = (low[d], high[d]);
        low[d] = a * cos[d] - b * sin[d];
        high[d] = b * cos[d] + a * sin[d];
    }
}

/// Exponentials of `values` minus their maximum, divided by their sum.
fn softmax(values: &mut [f32]) {
    let max = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    values.iter_mut().for_each(|v| *v = (*v - max).exp());
    let sum: f32 = values.iter().sum();
    values.iter_mut().for_each(|v| *v /= sum);
}

/// `matrix · x`.
pub(crate) fn project(matrix: &PackedMatrix, x: &[f32]) -> Vec<f32> {
    let mut row = vec![0.0; matrix.cols()];
    (0..matrix.rows())
        .map(|r| {
            matrix.decode_row(r, &mut row);
            dot(&row, x)
        })
        .collect()
}

impl Backend for RefBackend {
    type Buffer = Buffer;
    type Weight = Vec<PackedMatrix>;
    type Experts = Experts;
    type Routing = Routing;
    type KvCache = KvCache;
    type Step = Step;

    fn alloc(&self, capacity: usize, cols: usize) -> Buffer {
        Buffer { cols, values: vec![0.0; capacity * cols] }
    }

    fn alloc_routing(&self, _capacity: usize, top_k: usize) -> Routing {
        Routing { top_k, rows: Vec::new() }
    }

    fn alloc_kv(&self, spec: &KvSpec) -> Result<KvCache, UploadError> {
        let len = spec.num_layers * spec.num_pages * spec.page_size * 2 * spec.heads.kv_dim();
        Ok(KvCache { spec: *spec, values: vec![0.0; len] })
    }

    fn uploader(&self) -> Box<dyn Uploader<Self> + '_> {
        Box::new(*self)
    }

    fn write(&self, buffer: &mut Buffer, values: &[f32]) {
        assert_eq!(values.len() % buffer.cols, 0, "whole rows of {} columns", buffer.cols);
        buffer.values = values.to_vec();
    }

    fn read(&self, buffer: &Buffer) -> Vec<f32> {
        buffer.values.clone()
    }

    fn zero(&self, buffer: &mut Buffer, rows: usize) {
        buffer.rows_mut(rows).for_each(|row| row.fill(0.0));
    }

    fn begin(&self, batch: &ForwardBatch, samples: &SampleBatch) -> Step {
        Step { batch: batch.clone(), samples: samples.clone(), outputs: Vec::new() }
    }

    fn embed(&self, table: &Vec<PackedMatrix>, first: usize, step: &Step, out: &mut Buffer) {
        let [table] = table.as_slice() else { panic!("an embedding table is one matrix, not {}", table.len()) };
        let ids = &step.batch.token_ids;
        for (row, &id) in out.rows_mut(ids.len()).zip(ids) {
            match (id as usize).checked_sub(first).filter(|&id| id < table.rows()) {
                Some(id) => table.decode_row(id, row),
                None => row.fill(0.0),
            }
        }
    }

    fn add_rms_norm(&self, residual: &mut Buffer, delta: &Buffer, gain: &Buffer, eps: f32, out: &mut Buffer) {
        assert_eq!(residual.rows(), delta.rows(), "rows of the residual and of what is added");
        let rows = residual.rows();
        for (i, row) in out.rows_mut(rows).enumerate() {
            for (r, d) in residual.values[i * delta.cols..].iter_mut().zip(delta.row(i)) {
                *r += d;
            }
            row.copy_from_slice(residual.row(i));
            rms_norm(row, gain.row(0), eps);
        }
    }

    fn linear(&self, x: &Buffer, weight: &Vec<PackedMatrix>, out: &mut Buffer) {
        let mut outputs: Vec<_> = out.rows_mut(x.rows()).collect();
        let rows = weight.iter().flat_map(|part| (0..part.rows()).map(move |r| (part, r)));
        let mut decoded = vec![0.0; x.cols];
        for (column, (part, r)) in rows.enumerate() {
            part.decode_row(r, &mut decoded);
            outputs.iter_mut().enumerate().for_each(|(i, output)| output[column] = dot(&decoded, x.row(i)));
        }
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
        let rows = qkv.rows();
        for (i, row) in qkv.rows_mut(rows).enumerate() {
            let (queries, rest) = row.split_at_mut(heads.q_dim());
            let keys = &mut rest[..heads.kv_dim()];
            for (part, gain) in [(queries, q_gain), (keys, k_gain)] {
                for head in part.chunks_exact_mut(heads.head_dim) {
                    rms_norm(head, gain.row(0), eps);
                    rotate(head, rotation.row(i));
                }
            }
        }
    }

    fn bias_rope(&self, qkv: &mut Buffer, heads: &HeadLayout, bias: &Buffer, rotation: &Buffer) {
        assert_eq!(qkv.rows(), rotation.rows(), "rows of qkv and of the rotation");
        let rows = qkv.rows();
        for (i, row) in qkv.rows_mut(rows).enumerate() {
            row.iter_mut().zip(bias.row(0)).for_each(|(x, b)| *x += b);
            let rotated = row[..heads.q_dim() + heads.kv_dim()].chunks_exact_mut(heads.head_dim);
            rotated.for_each(|head| rotate(head, rotation.row(i)));
        }
    }

    fn attention(&self, qkv: &Buffer, spec: &AttentionSpec, kv: &mut KvCache, step: &Step, out: &mut Buffer) {
        let AttentionSpec { layer, heads, scale, window } = *spec;
        let batch = &step.batch.paged;
        assert_eq!(qkv.rows(), batch.num_rows(), "rows of qkv and of the batch");
        assert_ne!(window, Some(0), "a row sees its own position");
        let dim = heads.head_dim;
        for span in &batch.spans {
            for i in 0..span.q_len {
                let (_, keys_values) = qkv.row(span.q_start + i).split_at(heads.q_dim());
                let position = span.kv_len - span.q_len + i;
                for (head, values) in keys_values.chunks_exact(dim).enumerate() {
                    let (half, head) = heads.stored_head(head);
                    kv.store(layer, batch.pages_of(span), half, head, position, values);
                }
            }
        }
        let group = heads.num_heads / heads.num_kv_heads;
        let mut rows = out.rows_mut(qkv.rows());
        for span in &batch.spans {
            let pages = batch.pages_of(span);
            for i in 0..span.q_len {
                let row = rows.next().expect("one output row a query row");
                let queries = &qkv.row(span.q_start + i)[..heads.q_dim()];
                let end = span.kv_len - span.q_len + i + 1;
                let visible = end - window.unwrap_or(end).min(end)..end;
                for (h, (query, out)) in queries.chunks_exact(dim).zip(row.chunks_exact_mut(dim)).enumerate() {
                    let head = h / group;
                    let mut weights: Vec<f32> = visible
                        .clone()
                        .map(|p| dot(query, kv.read(layer, pages, KeyOrValue::Key, head, p)) * scale)
                        .collect();
                    softmax(&mut weights);
                    out.fill(0.0);
                    for (p, weight) in visible.clone().zip(&weights) {
                        for (o, v) in out.iter_mut().zip(kv.read(layer, pages, KeyOrValue::Value, head, p)) {
                            *o += weight * v;
                        }
                    }
                }
            }
        }
    }

    fn silu_mul(&self, gate_up: &Buffer, out: &mut Buffer) {
        for (i, row) in out.rows_mut(gate_up.rows()).enumerate() {
            let (gate, up) = gate_up.row(i).split_at(gate_up.cols / 2);
            row.iter_mut().zip(gate.iter().zip(up)).for_each(|(o, (&g, &u))| *o = silu(g) * u);
        }
    }

    fn route(&self, logits: &Buffer, renormalise: bool, routing: &mut Routing) {
        let top_k = routing.top_k;
        routing.rows = (0..logits.rows())
            .map(|i| {
                let mut weights = logits.row(i).to_vec();
                softmax(&mut weights);
                let mut ranked: Vec<(usize, f32)> = weights.into_iter().enumerate().collect();
                ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
                ranked.truncate(top_k);
                if renormalise {
                    let sum: f32 = ranked.iter().map(|(_, w)| w).sum();
                    ranked.iter_mut().for_each(|(_, w)| *w /= sum);
                }
                ranked
            })
            .collect();
    }

    fn moe(&self, x: &Buffer, routing: &Routing, experts: &Experts, out: &mut Buffer) {
        assert_eq!(x.rows(), routing.rows.len(), "rows of the input and of the routing");
        for (i, row) in out.rows_mut(x.rows()).enumerate() {
            row.fill(0.0);
            for &(expert, weight) in &routing.rows[i] {
                let here = expert.checked_sub(experts.first).filter(|&expert| expert < experts.gate.len());
                let Some(expert) = here else { continue };
                let gate = project(&experts.gate[expert], x.row(i));
                let up = project(&experts.up[expert], x.row(i));
                let inner: Vec<f32> = gate.iter().zip(&up).map(|(&g, &u)| silu(g) * u).collect();
                for (o, y) in row.iter_mut().zip(project(&experts.down[expert], &inner)) {
                    *o += weight * y;
                }
            }
        }
    }

    /// The reference is one rank.
    fn all_reduce(&self, _: &mut Buffer) {}

    fn gather(&self, part: &Buffer, widths: &[usize], out: &mut Buffer) {
        assert_eq!(widths, [part.cols], "columns of the only rank");
        out.values.clone_from(&part.values);
    }

    fn gather_rows(&self, x: &Buffer, step: &Step, rows: Range<usize>, out: &mut Buffer) {
        let rows = &step.batch.logit_rows[rows];
        out.rows_mut(rows.len()).zip(rows).for_each(|(row, &from)| row.copy_from_slice(x.row(from)));
    }

    fn sample(&self, logits: &mut Buffer, step: &mut Step, rows: Range<usize>) {
        if step.samples.tasks.is_empty() {
            return;
        }
        assert_eq!(logits.rows(), rows.len(), "rows of logits and tasks");
        assert_eq!(step.outputs.len(), rows.start, "rows of a step are sampled in order");
        let tasks = &step.samples.tasks[rows];
        let rows = logits.values.chunks_exact_mut(logits.cols);
        step.outputs.extend(rows.zip(tasks).map(|(row, task)| sampling::sample_row(row, task)));
    }

    fn launch(&self, _: &mut Step) {}

    fn finish(&self, step: Step) -> Result<Vec<RowOutput>, DeviceFault> {
        Ok(step.outputs)
    }
}

impl Uploader<RefBackend> for RefBackend {
    fn weight(&mut self, parts: &[PackedMatrix]) -> Result<Vec<PackedMatrix>, UploadError> {
        assert!(parts.windows(2).all(|w| w[0].cols() == w[1].cols()), "stacked matrices share their columns");
        Ok(parts.to_vec())
    }

    fn experts(
        &mut self,
        first: usize,
        gate: &[PackedMatrix],
        up: &[PackedMatrix],
        down: &[PackedMatrix],
    ) -> Result<Experts, UploadError> {
        assert!(gate.len() == up.len() && up.len() == down.len(), "three matrices an expert");
        Ok(Experts { first, gate: gate.to_vec(), up: up.to_vec(), down: down.to_vec() })
    }

    fn finish(self: Box<Self>) -> Result<(), UploadError> {
        Ok(())
    }
}

impl RefBackend {
    /// Which experts each row of `routing` goes to, with weights; for tests that compare routings.
    pub fn routing_rows(routing: &Routing) -> &[Vec<(usize, f32)>] {
        &routing.rows
    }
}
