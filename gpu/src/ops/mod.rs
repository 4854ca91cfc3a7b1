//! The operations of [`GpuBackend`], each one kernel or a few.

mod attention;
mod linear;
mod moe;

use std::ops::Range;

use quern_backend::{
    AttentionSpec, Backend, DeviceFault, ForwardBatch, HeadLayout, KvSpec, RowOutput, SampleBatch, UploadError,
    Uploader,
};

use crate::{
    GpuBackend,
    buffer::{Buffer, Routing, RoutingMemory},
    driver::{
        ADD_RMS_NORM, BIAS_ROPE, BiasRopeArgs, GATHER_ROWS, GatherArgs, GpuDevice, NormArgs, NormRopeArgs,
        QK_NORM_ROPE, ROUTE, RouteArgs, SILU_MUL, SiluArgs,
    },
    fault::upload_error,
    kv_cache::{self, KvCache},
    sampling::{self, Round},
    step::{Step, Tables},
    weights::{Experts, GpuUploader, Weight},
};

impl Backend for GpuBackend {
    type Buffer = Buffer;
    type Weight = Weight;
    type Experts = Experts;
    type Routing = Routing;
    type KvCache = KvCache;
    type Step = Step;

    /// Where there is no memory for it, [`Uploader::finish`] says so, or the first step.
    fn alloc(&self, capacity: usize, cols: usize) -> Buffer {
        let memory = self.attempt(|device| device.alloc(Buffer::bytes(capacity, cols)));
        self.attempt(|device| {
            let scratch = &mut *self.scratch();
            scratch.largest.rows = scratch.largest.rows.max(capacity);
            Step::reserve(device, scratch)
        });
        Buffer::new(memory, capacity, cols)
    }

    fn alloc_routing(&self, capacity: usize, top_k: usize) -> Routing {
        let routes = capacity * top_k;
        let memory = self.attempt(|device| {
            let words = |count: usize| device.alloc(count * size_of::<u32>());
            let [experts, weights, order] = [words(routes)?, words(routes)?, words(routes)?];
            // `PlanTile` in kernels/moe.cu: four numbers.
            Ok(RoutingMemory { experts, weights, order, tiles: words(4 * routes)?, num_tiles: words(1)? })
        });
        self.attempt(|device| moe::reserve(device, &mut self.scratch(), routes));
        Routing::new(memory, capacity, top_k)
    }

    fn alloc_kv(&self, spec: &KvSpec) -> Result<KvCache, UploadError> {
        kv_cache::check(spec, self.name())?;
        let (device, bytes) = (self.device(), kv_cache::layer_bytes(spec).unwrap_or(usize::MAX));
        let pages = (0..spec.num_layers).map(|_| device.alloc(bytes)).collect::<Result<_, _>>();
        let layers = pages.map_err(|error| match upload_error("KV pages", self.name(), error) {
            UploadError::OutOfMemory { what, bytes, backend } => {
                UploadError::OutOfMemory { what, bytes: bytes.saturating_mul(spec.num_layers), backend }
            }
            error => error,
        })?;
        attention::reserve(device, &mut self.scratch(), spec)
            .map_err(|error| upload_error("partial results of attention", self.name(), error))?;
        let mut scratch = self.scratch();
        scratch.largest.pages = scratch.largest.pages.max(spec.num_pages);
        scratch.largest.group = scratch.largest.group.max(spec.heads.num_heads / spec.heads.num_kv_heads);
        Step::reserve(device, &mut scratch).map_err(|error| upload_error("tables of a step", self.name(), error))?;
        Ok(KvCache::new(spec, layers))
    }

    fn uploader(&self) -> Box<dyn Uploader<Self> + '_> {
        Box::new(GpuUploader(self))
    }

    fn write(&self, buffer: &mut Buffer, values: &[f32]) {
        let (cols, stride) = (buffer.cols(), buffer.stride());
        assert_eq!(values.len() % cols, 0, "whole rows of {cols} columns");
        buffer.set_rows(values.len() / cols);
        let Some(memory) = buffer.memory() else { return };
        if cols == stride {
            self.attempt(|device| device.write(memory, 0, values));
            return;
        }
        let mut rows = vec![0.0; buffer.rows() * stride];
        for (to, from) in rows.chunks_exact_mut(stride).zip(values.chunks_exact(cols)) {
            to[..cols].copy_from_slice(from);
        }
        self.attempt(|device| device.write(memory, 0, &rows));
    }

    /// NaNs, if the device has failed.
    fn read(&self, buffer: &Buffer) -> Vec<f32> {
        let (rows, cols, stride) = (buffer.rows(), buffer.cols(), buffer.stride());
        let values = buffer.memory().and_then(|memory| self.attempt(|device| device.read(memory, rows * stride)));
        match values {
            None => vec![f32::NAN; rows * cols],
            Some(values) => values.chunks_exact(stride).flat_map(|row| &row[..cols]).copied().collect(),
        }
    }

    fn zero(&self, buffer: &mut Buffer, rows: usize) {
        buffer.set_rows(rows);
        let bytes = Buffer::bytes(rows, buffer.cols());
        if let Some(memory) = buffer.memory().filter(|_| bytes > 0) {
            self.attempt(|device| device.zero(memory, bytes));
        }
    }

    fn begin(&self, batch: &ForwardBatch, samples: &SampleBatch) -> Step {
        let tables = self.attempt(|device| Tables::copy(device, &mut self.scratch(), batch));
        Step::new(self.device(), batch, samples, tables.unwrap_or_default())
    }

    fn embed(&self, table: &Weight, first: usize, step: &Step, out: &mut Buffer) {
        assert_eq!(first, 0, "a device has the whole table: there are no ranks of devices yet");
        linear::embed(self, table, step, out);
    }

    fn add_rms_norm(&self, residual: &mut Buffer, delta: &Buffer, gain: &Buffer, eps: f32, out: &mut Buffer) {
        assert_eq!(residual.rows(), delta.rows(), "rows of the residual and of what is added");
        let cols = residual.cols();
        assert_eq!((delta.cols(), gain.cols(), out.cols()), (cols, cols, cols), "columns of all four");
        out.set_rows(residual.rows());
        let args = NormArgs {
            residual: residual.address(),
            delta: delta.address(),
            gain: gain.address(),
            out: out.address(),
            cols: cols as u32,
            stride: residual.stride() as u32,
            eps,
            pad: 0,
        };
        self.launch(ADD_RMS_NORM, [residual.rows(), 1, 1], args);
    }

    fn linear(&self, x: &Buffer, weight: &Weight, out: &mut Buffer) {
        linear::linear(self, x, weight, out);
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
        let rotated = heads.num_heads + heads.num_kv_heads;
        let args = NormRopeArgs {
            qkv: qkv.address(),
            q_gain: q_gain.address(),
            k_gain: k_gain.address(),
            rotation: rotation.address(),
            heads: rotated as u32,
            q_heads: heads.num_heads as u32,
            dim: heads.head_dim as u32,
            stride: qkv.stride() as u32,
            rotation_stride: rotation.stride() as u32,
            eps,
        };
        self.launch(QK_NORM_ROPE, [qkv.rows(), rotated.div_ceil(4), 1], args);
    }

    fn bias_rope(&self, qkv: &mut Buffer, heads: &HeadLayout, bias: &Buffer, rotation: &Buffer) {
        assert_eq!(qkv.rows(), rotation.rows(), "rows of qkv and of the rotation");
        let cols = heads.qkv_dim();
        assert_eq!((qkv.cols(), bias.cols()), (cols, cols), "columns of qkv and of the bias");
        let all = heads.num_heads + 2 * heads.num_kv_heads;
        let args = BiasRopeArgs {
            qkv: qkv.address(),
            bias: bias.address(),
            rotation: rotation.address(),
            heads: all as u32,
            rotated: (heads.num_heads + heads.num_kv_heads) as u32,
            dim: heads.head_dim as u32,
            stride: qkv.stride() as u32,
            rotation_stride: rotation.stride() as u32,
            pad: 0,
        };
        self.launch(BIAS_ROPE, [qkv.rows(), all.div_ceil(4), 1], args);
    }

    fn attention(&self, qkv: &Buffer, spec: &AttentionSpec, kv: &mut KvCache, step: &Step, out: &mut Buffer) {
        attention::attention(self, qkv, spec, kv, step, out);
    }

    fn silu_mul(&self, gate_up: &Buffer, out: &mut Buffer) {
        assert_eq!(gate_up.cols(), 2 * out.cols(), "columns of gate and up, and of the output");
        out.set_rows(gate_up.rows());
        let args = SiluArgs {
            x: gate_up.address(),
            out: out.address(),
            inner: out.cols() as u32,
            x_stride: gate_up.stride() as u32,
            out_stride: out.stride() as u32,
            pad: 0,
        };
        self.launch(SILU_MUL, [out.cols().div_ceil(self.arch().threads()), gate_up.rows(), 1], args);
    }

    fn route(&self, logits: &Buffer, renormalise: bool, routing: &mut Routing) {
        routing.set_rows(logits.rows());
        let Some(memory) = routing.memory() else { return };
        let args = RouteArgs {
            logits: logits.address(),
            experts: memory.experts.address(),
            weights: memory.weights.address(),
            rows: logits.rows() as u32,
            num_experts: logits.cols() as u32,
            top_k: routing.top_k() as u32,
            stride: logits.stride() as u32,
            renormalise: u32::from(renormalise),
            pad: 0,
        };
        self.launch(ROUTE, [logits.rows().div_ceil(4), 1, 1], args);
    }

    fn moe(&self, x: &Buffer, routing: &Routing, experts: &Experts, out: &mut Buffer) {
        moe::moe(self, x, routing, experts, out);
    }

    /// There is one rank.
    fn all_reduce(&self, _: &mut Buffer) {}

    /// By way of the host: a network on one rank gathers nothing.
    fn gather(&self, part: &Buffer, widths: &[usize], out: &mut Buffer) {
        assert_eq!(widths, [part.cols()], "columns of the only rank");
        self.write(out, &self.read(part));
    }

    fn gather_rows(&self, x: &Buffer, step: &Step, rows: Range<usize>, out: &mut Buffer) {
        assert_eq!(out.cols(), x.cols(), "columns of the output and of the input");
        out.set_rows(rows.len());
        let args = GatherArgs {
            x: x.address(),
            rows: step.tables.logit_rows + (rows.start * size_of::<u32>()) as u64,
            out: out.address(),
            cols: x.cols() as u32,
            stride: x.stride() as u32,
        };
        self.launch(GATHER_ROWS, [rows.len(), 1, 1], args);
    }

    fn sample(&self, logits: &mut Buffer, step: &mut Step, rows: Range<usize>) {
        if step.samples.tasks.is_empty() {
            return;
        }
        assert_eq!(logits.rows(), rows.len(), "rows of logits and tasks");
        assert_eq!(step.sampled(), rows.start, "rows of a step are sampled in order");
        let round = Round::new(rows.clone(), logits.cols(), &step.samples.tasks[rows]);
        let round = step.rounds.push_mut(round);
        self.attempt(|device| round.queue(device, &mut self.scratch(), logits));
    }

    /// Everything is queued when it is called; the device has begun.
    fn launch(&self, _: &mut Step) {}

    fn finish(&self, step: Step) -> Result<Vec<RowOutput>, DeviceFault> {
        self.attempt(GpuDevice::wait);
        self.faults.of_step(self.device(), self.name())?;
        let outputs = sampling::outputs(&step.rounds, &step.samples.tasks, self.host_threads());
        self.scratch().pinned.extend(step.into_pinned());
        Ok(outputs)
    }
}
