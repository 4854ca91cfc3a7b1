//! What a driver refuses is an error that says so: at the start, while a network is loaded, in a step. Nothing panics.

mod support;
#[path = "support/failures.rs"]
mod twin;

use std::sync::{Mutex, MutexGuard, PoisonError};

use quern_backend::{
    Backend, Device, DeviceFault, DeviceMemory, ForwardBatch, KvFormat, KvSpec, LogitTask, PackedMatrix, QuantFormat,
    RowTask, SampleBatch, SamplingParams, UploadError,
    conformance::{Rng, matrix},
    quant::fp8,
};
use quern_gpu::{GpuBackend, GpuConfig, GpuError, GpuInfo, Vendor};
use support::{Target, config};
use twin::Twin;

/// A twin whose failures are this test's alone; tests of this file use one after the other.
struct Failing {
    twin: Twin,
    config: GpuConfig,
    _alone: MutexGuard<'static, ()>,
}

fn failing() -> Option<Failing> {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let config = config(Target::Sm90)?;
    let folder = config.libraries.as_deref().expect("a twin lies in a folder");
    Some(Failing { twin: Twin::of(folder, Target::Sm90.driver_file()), config, _alone: alone })
}

impl Failing {
    fn open(&self) -> GpuBackend {
        GpuBackend::open(&self.config).unwrap_or_else(|error| panic!("{error}"))
    }
}

impl Drop for Failing {
    fn drop(&mut self) {
        self.twin.lose(0);
        for kind in twin::KINDS {
            self.twin.fail(kind, 0, 0);
        }
        self.twin.set_capacity(4 << 30);
    }
}

/// A network of one matrix: tokens are embedded, multiplied, sampled.
struct Tiny {
    table: <GpuBackend as Backend>::Weight,
    embedded: <GpuBackend as Backend>::Buffer,
    logits: <GpuBackend as Backend>::Buffer,
}

const VOCAB: usize = 40;
const HIDDEN: usize = 24;

impl Tiny {
    fn load(b: &GpuBackend) -> Result<Self, UploadError> {
        let table = matrix(&mut Rng(1), QuantFormat::BF16, VOCAB, HIDDEN);
        let mut uploader = b.uploader();
        let table = uploader.weight(std::slice::from_ref(&table))?;
        let (embedded, logits) = (b.alloc(8, HIDDEN), b.alloc(8, VOCAB));
        uploader.finish()?;
        Ok(Self { table, embedded, logits })
    }

    /// The greedy and the drawn token after each of `tokens`.
    fn step(&mut self, b: &GpuBackend, tokens: &[u32]) -> Result<Vec<u32>, DeviceFault> {
        let batch = ForwardBatch {
            token_ids: tokens.to_vec(),
            logit_rows: (0..tokens.len()).collect(),
            ..ForwardBatch::default()
        };
        let samples = SampleBatch { tasks: (0..tokens.len()).map(|row| task(row % 2 == 0)).collect() };
        let mut step = b.begin(&batch, &samples);
        b.embed(&self.table, 0, &step, &mut self.embedded);
        b.linear(&self.embedded, &self.table, &mut self.logits);
        b.sample(&mut self.logits, &mut step, 0..tokens.len());
        b.launch(&mut step);
        Ok(b.finish(step)?.into_iter().map(|output| output.token).collect())
    }
}

fn task(greedy: bool) -> LogitTask {
    let params = SamplingParams { temperature: if greedy { 0.0 } else { 1.0 }, ..SamplingParams::default() };
    LogitTask {
        task: RowTask::Sample {
            params: params.into(),
            seed: 7,
            step: 0,
            counts: None,
            banned: Vec::new().into(),
            mask: None,
        },
        want_logprob: false,
        top_logprobs: 0,
        logprob_ids: Vec::new().into(),
    }
}

#[test]
fn a_machine_without_a_driver_says_which_file_is_missing() {
    let nowhere = tempfile::tempdir().unwrap();
    for vendor in [Vendor::Nvidia, Vendor::Amd] {
        let config = GpuConfig { vendor, index: 0, libraries: Some(nowhere.path().into()), cache: None };
        let error = GpuBackend::open(&config).err().expect("there is no driver in an empty folder");
        assert!(matches!(error, GpuError::NoDriver { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(vendor.backend()) && text.contains("lib"), "{text}");
    }
}

#[test]
fn a_device_says_that_it_is_not_measured() {
    let Some(failing) = failing() else { return };
    let backend = failing.open();
    assert!(!backend.can_be_measured());
    assert_eq!(backend.measure(&|| true), None);
}

#[test]
fn a_device_that_is_not_there_is_named() {
    let Some(failing) = failing() else { return };
    let error = GpuBackend::open(&GpuConfig { index: 3, ..failing.config.clone() }).err().expect("there is one device");
    assert_eq!(error.to_string(), "there is no cuda device 3; the driver knows 1");
}

#[test]
fn a_device_gives_back_what_it_took() {
    let Some(failing) = failing() else { return };
    let nothing_is_held = |after: &str| {
        assert_eq!((failing.twin.held(), failing.twin.used()), (0, 0), "after {after}: something is still held");
    };
    nothing_is_held("the tests before this one");
    let libraries = failing.config.libraries.as_deref().unwrap();
    GpuInfo::probe(Vendor::Nvidia, 0, Some(libraries)).unwrap();
    nothing_is_held("a device was asked what it is");

    // The same driver, without a compiler beside it.
    let driver_alone = tempfile::tempdir().unwrap();
    let file = Target::Sm90.driver_file();
    std::os::unix::fs::symlink(libraries.join(file), driver_alone.path().join(file)).unwrap();
    let error = GpuInfo::probe(Vendor::Nvidia, 0, Some(driver_alone.path())).expect_err("there is no compiler");
    assert!(matches!(error, GpuError::NoCompiler { .. }), "{error}");
    nothing_is_held("a device had no compiler");

    for (kind, call) in [("context", "cuDevicePrimaryCtxRetain"), ("stream", "cuStreamCreate")] {
        failing.twin.fail(kind, 1, 2);
        let error = GpuInfo::probe(Vendor::Nvidia, 0, Some(libraries)).expect_err("a call has failed");
        assert_eq!(error.to_string(), format!("{call} failed with error 2 (out of memory)"));
        nothing_is_held(call);
    }

    // Neither the kept kernels can be loaded nor new ones compiled.
    drop(failing.open());
    failing.twin.fail("module", 1, 200);
    failing.twin.fail("compile", 1, 1);
    let error = GpuBackend::open(&failing.config).err().expect("there are no kernels");
    assert!(matches!(error, GpuError::Compile { code: 1, .. }), "{error}");
    nothing_is_held("a device had no kernels");

    let b = failing.open();
    let mut tiny = Tiny::load(&b).unwrap();
    tiny.step(&b, &[1, 2]).unwrap();
    assert!(failing.twin.held() > 0 && failing.twin.used() > 0);
    // A network may outlive its backend.
    drop(b);
    drop(tiny);
    nothing_is_held("a network ran");
}

#[test]
fn kernels_are_compiled_once() {
    let Some(failing) = failing() else { return };
    let cache = tempfile::tempdir().unwrap();
    let config = GpuConfig { cache: Some(cache.path().join("kernels")), ..failing.config.clone() };
    let before = failing.twin.compilations();
    let first = GpuBackend::open(&config).unwrap();
    assert_eq!(failing.twin.compilations() - before, 1);
    assert!(first.is_compiled_now());
    let second = GpuBackend::open(&config).unwrap();
    assert_eq!(failing.twin.compilations() - before, 1, "the second start found the image");
    assert!(!second.is_compiled_now());
    // A file that was cut short is compiled anew.
    let file = std::fs::read_dir(cache.path().join("kernels")).unwrap().next().unwrap().unwrap().path();
    std::fs::write(&file, b"short").unwrap();
    assert!(GpuBackend::open(&config).unwrap().is_compiled_now());
    assert_eq!(failing.twin.compilations() - before, 2);
}

#[test]
fn what_a_compiler_refuses_is_not_taken_for_an_error_of_the_driver() {
    let Some(failing) = failing() else { return };
    let config = GpuConfig { cache: None, ..failing.config.clone() };
    let refused = |kind, code| {
        failing.twin.fail(kind, 1, code);
        GpuBackend::open(&config).err().expect("the compiler has refused").to_string()
    };
    // To NVRTC these are memory that ran out and a program that could not be created; the driver has other words for both.
    assert_eq!(refused("program", 1), "nvrtcCreateProgram failed with error 1");
    let refusal = "the kernels do not compile for sm_90a (error 2):\nrefused, as it was told";
    assert_eq!(refused("compile", 2), refusal);
}

#[test]
fn each_allocation_of_a_load_may_fail() {
    let Some(failing) = failing() else { return };
    let b = failing.open();
    drop(Tiny::load(&b).unwrap());
    let mut refused = 0;
    for n in 1.. {
        // A backend that was not loaded whole stays unusable, so each gets its own.
        let b = failing.open();
        failing.twin.fail("alloc", n, 2);
        match Tiny::load(&b) {
            Err(UploadError::OutOfMemory { backend: "cuda", .. }) => refused += 1,
            Err(error) => panic!("allocation {n}: {error}"),
            Ok(mut tiny) => {
                failing.twin.fail("alloc", 0, 0);
                assert_eq!(tiny.step(&b, &[1, 2]).unwrap().len(), 2, "all allocations have succeeded");
                break;
            }
        }
    }
    let what = "bytes, scales and places of the weight; an activation, three tables of a step; a second activation";
    assert_eq!(refused, 8, "{what}");
}

#[test]
fn each_call_of_a_step_may_fail_and_the_next_step_is_computed() {
    let Some(failing) = failing() else { return };
    let b = failing.open();
    let mut tiny = Tiny::load(&b).unwrap();
    let tokens = [3, 1, 4, 1, 5];
    let want = tiny.step(&b, &tokens).unwrap();
    assert_eq!(want[1], want[3], "the same token with the same seed");
    for (kind, calls) in [("launch", 3), ("copy", 4), ("wait", 1)] {
        for n in 1..=calls {
            failing.twin.fail(kind, n, 701);
            let fault = tiny.step(&b, &tokens).expect_err("a call has failed");
            let DeviceFault::Step { backend: "cuda", cause } = &fault else { panic!("{kind} {n}: {fault}") };
            assert!(cause.contains("701 (too many resources for a launch)"), "{kind} {n}: {cause}");
            assert_eq!(tiny.step(&b, &tokens).unwrap(), want, "after {kind} {n} has failed");
        }
    }
    failing.twin.fail("launch", 4, 701);
    assert_eq!(tiny.step(&b, &tokens).unwrap(), want, "a step is three launches");
}

#[test]
fn memory_of_the_host_may_run_out_in_the_first_step() {
    let Some(failing) = failing() else { return };
    // Later steps use that of the first again, so each failure gets a backend of its own.
    for n in 1..=2 {
        let b = failing.open();
        let mut tiny = Tiny::load(&b).unwrap();
        failing.twin.fail("host_alloc", n, 2);
        let fault = tiny.step(&b, &[3, 1]).expect_err("no memory for the greedy token, or for the other's logits");
        let DeviceFault::Step { backend: "cuda", cause } = &fault else { panic!("{n}: {fault}") };
        assert_eq!(cause, "cuMemHostAlloc failed with error 2 (out of memory)", "{n}");
        failing.twin.fail("host_alloc", 3, 2);
        let want = tiny.step(&b, &[3, 1]).unwrap();
        assert_eq!(tiny.step(&b, &[3, 1]).unwrap(), want, "a third allocation would have failed");
    }
}

#[test]
fn a_step_allocates_no_memory_of_the_device() {
    let Some(failing) = failing() else { return };
    let b = failing.open();
    // 32 heads of queries a head of keys: two tiles a row, the most that tables are made for.
    let heads = quern_backend::HeadLayout { num_heads: 32, num_kv_heads: 1, head_dim: 16 };
    let (rows, num_pages) = (9000, 40_000);
    let spec = KvSpec { num_layers: 1, heads, page_size: 1, num_pages, format: KvFormat::BF16 };
    let mut kv = b.alloc_kv(&spec).unwrap();
    let (qkv, mut out) = (b.alloc(rows, heads.qkv_dim()), b.alloc(rows, heads.q_dim()));
    b.uploader().finish().unwrap();
    failing.twin.fail("alloc", 1, 2);
    // A row is a sequence with a row of logits, and the sequences have all pages.
    let span = |row| {
        let first = row * 4;
        let end = if row + 1 == rows { num_pages } else { first + 4 };
        quern_backend::Span { q_start: row, q_len: 1, kv_len: 1, pages: first..end }
    };
    let paged =
        quern_backend::PagedBatch { spans: (0..rows).map(span).collect(), pages: (0..num_pages as u32).collect() };
    let batch =
        ForwardBatch { token_ids: vec![0; rows], positions: vec![0; rows], logit_rows: (0..rows).collect(), paged };
    let mut step = b.begin(&batch, &SampleBatch { tasks: (0..rows).map(|_| task(true)).collect() });
    b.attention(&qkv, &quern_backend::AttentionSpec::causal(0, heads), &mut kv, &step, &mut out);
    b.sample(&mut out, &mut step, 0..rows);
    b.launch(&mut step);
    assert_eq!(b.finish(step).unwrap().len(), rows);
}

#[test]
fn tables_that_grow_may_find_no_memory() {
    let Some(failing) = failing() else { return };
    let b = failing.open();
    let mut tiny = Tiny::load(&b).unwrap();
    let want = tiny.step(&b, &[1]).unwrap();
    let pages = |count: usize| ForwardBatch {
        paged: quern_backend::PagedBatch { pages: vec![0; count], ..Default::default() },
        ..ForwardBatch::default()
    };
    failing.twin.set_capacity(failing.twin.used());
    let step = b.begin(&pages(1 << 20), &SampleBatch::default());
    let fault = b.finish(step).expect_err("no memory for a million pages");
    assert!(fault.to_string().contains("no 8388608 bytes"), "{fault}");
    failing.twin.set_capacity(4 << 30);
    assert_eq!(tiny.step(&b, &[1]).unwrap(), want);
}

#[test]
fn a_lost_device_stays_lost() {
    let Some(failing) = failing() else { return };
    let b = failing.open();
    let mut tiny = Tiny::load(&b).unwrap();
    tiny.step(&b, &[1, 2]).unwrap();
    // A kernel that touches what it may not: the driver says so when the host waits, and refuses everything behind it.
    failing.twin.fail("execute", 2, 700);
    let fault = tiny.step(&b, &[1, 2]).expect_err("a kernel has failed");
    let DeviceFault::Lost { backend: "cuda", cause } = &fault else { panic!("{fault}") };
    assert!(cause.contains("700 (illegal address)"), "{cause}");
    assert_eq!(tiny.step(&b, &[1, 2]).expect_err("still lost"), fault);
    let DeviceMemory::Own { available_bytes: 0, .. } = b.memory() else { panic!("a lost device has no memory") };
    drop((b, tiny));
    assert_eq!((failing.twin.held(), failing.twin.used()), (0, 0), "its context has been released");
}

#[test]
fn what_has_no_kernel_is_refused_by_name() {
    let Some(failing) = failing() else { return };
    let b = failing.open();
    let mut rng = Rng(2);
    let refused = |parts: &[PackedMatrix]| b.uploader().weight(parts).err().expect("refused").to_string();
    for format in QuantFormat::ALL.into_iter().filter(|format| !quern_gpu::WEIGHT_FORMATS.contains(format)) {
        let error = refused(&[matrix(&mut rng, format, 2, 256)]);
        assert_eq!(error, format!("no linear kernel for {format} weights on the cuda backend"));
    }
    let mixed = [QuantFormat::BF16, QuantFormat::F16].map(|format| matrix(&mut rng, format, 4, 8));
    let same = || vec![mixed[0].clone(), mixed[0].clone()];
    let error = b.uploader().experts(1, &same(), &same(), &same()).err().expect("refused").to_string();
    assert!(error.contains("experts from 1 on"), "{error}");
    let error = b.uploader().experts(0, &mixed, &same(), &same()).err().expect("refused").to_string();
    assert!(error.contains("bf16 and in f16"), "{error}");
    let heads = quern_backend::HeadLayout { num_heads: 2, num_kv_heads: 1, head_dim: 16 };
    let spec = KvSpec { num_layers: 1, heads, page_size: 4, num_pages: 2, format: KvFormat::Q8_0 };
    let error = b.alloc_kv(&spec).err().expect("refused").to_string();
    assert_eq!(error, "the cuda backend does not support keys and values in q8_0; it has bfloat16, fp8_e4m3, fp8_e5m2");
    let wide = quern_backend::HeadLayout { head_dim: 256, ..heads };
    let error = b.alloc_kv(&KvSpec { heads: wide, format: KvFormat::BF16, ..spec }).err().expect("refused").to_string();
    assert_eq!(error, "the cuda backend does not support heads of 256 features; at most 128");
    let huge = KvSpec { num_pages: usize::MAX / 8, format: KvFormat::BF16, ..spec };
    assert!(matches!(b.alloc_kv(&huge), Err(UploadError::OutOfMemory { what: "KV pages", .. })));
}

#[test]
fn what_finds_no_memory_beside_the_pages_is_named_with_its_own_size() {
    let Some(failing) = failing() else { return };
    let b = failing.open();
    let heads = quern_backend::HeadLayout { num_heads: 2, num_kv_heads: 1, head_dim: 128 };
    let spec = KvSpec { num_layers: 3, heads, page_size: 16, num_pages: 64, format: KvFormat::BF16 };
    let pages = 3 * 64 * 16 * 2 * 128 * size_of::<u16>();
    let refused = || match b.alloc_kv(&spec).err().expect("refused") {
        UploadError::OutOfMemory { what, bytes, .. } => (what, bytes),
        error => panic!("{error}"),
    };
    failing.twin.set_capacity(failing.twin.used() + pages - 1);
    assert_eq!(refused(), ("KV pages", pages));
    failing.twin.set_capacity(failing.twin.used() + pages);
    assert_eq!(refused(), ("partial results of attention", 32 << 20));
}

/// A value attended to alone comes back as its encoding holds it, bit by bit: what the kernels write and read is what
/// the formats define.
#[test]
fn pages_hold_what_their_format_defines() {
    let Some(_alone) = failing() else { return };
    for target in Target::ALL {
        let Some(config) = config(target) else { return };
        let b = GpuBackend::open(&config).unwrap_or_else(|error| panic!("{error}"));
        let heads = quern_backend::HeadLayout { num_heads: 1, num_kv_heads: 1, head_dim: 128 };
        let mut values: Vec<f32> = fp8::E4M3.iter().filter(|value| !value.is_nan()).copied().collect();
        // Between neighbours, halfway and to either side; larger than the largest; subnormal; halfway in bfloat16.
        values.extend((0..120).flat_map(|i| {
            let x = f32::from_bits(0x3c00_0000 + i * 0x0008_0000);
            [x, x * 1.001, -x * 0.999]
        }));
        values.extend([1e6, -1e6, 460.0, 6e4, -6e4, 1e-3, 1.5e-3, 1e-7, 1e-6, -3e-5, 1.003_906_2, 1.011_718_8, 0.0]);
        values.resize(values.len().next_multiple_of(128), 0.25);
        let rows = values.len() / 128;
        for format in quern_gpu::KV_FORMATS {
            let spec = KvSpec { num_layers: 1, heads, page_size: 1, num_pages: rows, format };
            let mut kv = b.alloc_kv(&spec).unwrap();
            // Each row is a sequence of its own, so that its one weight is 1.
            let qkv: Vec<f32> = values.chunks(128).flat_map(|row| [&[0.0; 256], row].concat()).collect();
            let mut buffer = b.alloc(rows, 3 * 128);
            b.write(&mut buffer, &qkv);
            let mut out = b.alloc(rows, 128);
            let span = |row| quern_backend::Span { q_start: row, q_len: 1, kv_len: 1, pages: row..row + 1 };
            let paged =
                quern_backend::PagedBatch { spans: (0..rows).map(span).collect(), pages: (0..rows as u32).collect() };
            let step = quern_backend::conformance::step_over(&b, &paged);
            b.attention(&buffer, &quern_backend::AttentionSpec::causal(0, heads), &mut kv, &step, &mut out);
            let (mut bytes, mut want) = (vec![0; format.head_bytes(values.len())], vec![0.0; values.len()]);
            format.encode(&values, &mut bytes);
            format.decode(&bytes, &mut want);
            for ((value, want), got) in values.iter().zip(&want).zip(b.read(&out)) {
                assert_eq!(got, *want, "{target:?}, {format}: {value} read back");
            }
        }
    }
}
