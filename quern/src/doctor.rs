//! `quern doctor`: what this machine can do, and what that allows a model.

use quern_backend::{DType, Device, KvFormat, MachinePeaks, Precision};
use quern_bench::{BenchError, output};
use quern_model::{Checkpoint, GenerationConfig, StepCost, StepShape, Work, weights::QuantRecipe};
use serde::Serialize;
use serde_json::{Map, json};
use tokio::runtime::Runtime;

use crate::{
    bench::MeasureError,
    cli::DoctorArgs,
    config::LoadFormat,
    configure::{cookbook::Size, network::Network},
    hub::Wanted,
    machine::{self, Machine},
    memory::gib,
    model_files::{LookedUp, Source},
    roofline::{self, Roofline},
    start::for_measuring,
    start_error::StartError,
};

/// Tokens of context that decoding is told for.
const DEPTHS: [usize; 3] = [0, 4096, 32_768];
/// Tokens of the prompt that prefill is told for, and of a step that reads it.
const PROMPT: usize = 2048;
const CHUNK: usize = 512;

/// Measure, and print what was found.
///
/// # Errors
/// If the machine cannot be measured or the model not be read.
pub fn run(args: &DoctorArgs) -> Result<(), MeasureError> {
    let busy = machine::busy_cores();
    let backend = for_measuring(&args.cpu)?;
    let checkpoints = match &args.model {
        Some(model) => Runtime::new().map_err(StartError::Thread)?.block_on(named(model, args.revision.as_deref()))?,
        None => published(),
    };
    let peaks = roofline::measure(&backend).ok_or(MeasureError::Memory)?;
    let machine = Machine::probe();
    let forecasts = checkpoints.iter().map(|(name, checkpoint)| Forecast::of(name, checkpoint, &peaks, &machine));
    let forecasts = forecasts.collect::<Result<Vec<_>, _>>()?;
    if args.json {
        let peaks = json!({"read_bytes_per_s": peaks.read_bytes_per_s, "int8_ops_per_s": peaks.int8_ops,
            "bf16_ops_per_s": peaks.bf16_flops, "f32_ops_per_s": peaks.f32_flops});
        let found = json!({"cpu": machine::cpu_name(), "cores": machine.cores, "available_bytes": machine.available_bytes,
            "load_average": busy, "threads": backend.threads(), "isa": backend.isa(), "peaks": peaks,
            "models": forecasts});
        output::line(format_args!("{found:#}"))?;
    } else {
        print(&backend, &peaks, &machine, &forecasts)?;
        if let Some(busy) = busy.filter(|busy| *busy > 0.3) {
            output::line(format_args!(
                "\nOther work keeps {busy:.1} cores busy, so the machine can do more than this; measure when it rests."
            ))?;
        }
    }
    Ok(())
}

/// What a model could do here.
#[derive(Debug, Serialize)]
struct Forecast {
    name: String,
    weight_bytes: u64,
    kv_bytes_per_token: u64,
    /// Tokens of context that fit beside the weights; `None` if memory is unknown, 0 if the weights do not fit.
    context_that_fits: Option<u64>,
    /// Tokens a second at most, decoding one sequence at each of [`DEPTHS`].
    decode: [f64; DEPTHS.len()],
    /// The same for eight at once, with no context to speak of.
    decode_8: f64,
    /// Prompt tokens a second at most.
    prefill: f64,
}

impl Forecast {
    fn of(name: &str, checkpoint: &Checkpoint, peaks: &MachinePeaks, machine: &Machine) -> Result<Self, StartError> {
        let cost = StepCost::of(checkpoint, KvFormat::BF16)?;
        let precision = match checkpoint.config().dtype {
            DType::F32 | DType::F16 if checkpoint.config().quantization.is_none() => Precision::F32,
            _ => Precision::Bf16,
        };
        let roofline = Roofline::of(peaks, &checkpoint.formats(), precision);
        let mut prefill = Work::default();
        for end in (CHUNK..=PROMPT).step_by(CHUNK) {
            prefill += cost.step(StepShape::sequence(CHUNK, end, usize::from(end == PROMPT)));
        }
        let weight_bytes = checkpoint.weight_bytes();
        let kv_bytes_per_token = checkpoint.config().kv_bytes_per_token(KvFormat::BF16);
        Ok(Self {
            name: name.to_owned(),
            weight_bytes,
            kv_bytes_per_token,
            context_that_fits: machine
                .available_bytes
                .map(|bytes| bytes.saturating_sub(weight_bytes) / kv_bytes_per_token.max(1)),
            decode: DEPTHS.map(|depth| roofline.decode(&cost, 1, depth)),
            decode_8: roofline.decode(&cost, 8, 0),
            prefill: PROMPT as f64 / roofline.least_s(prefill),
        })
    }
}

/// The published models as they come and as they can be quantised.
fn published() -> Vec<(String, Checkpoint)> {
    let forms = |size: Size| {
        let checkpoint = |fp8: bool, recipe: Option<QuantRecipe>| {
            let config = Network::of(size).model_config(fp8);
            Checkpoint::dummy(config, GenerationConfig::default()).quantised(recipe)
        };
        let plain = [("bf16", false), ("fp8", true)].map(|(form, fp8)| (form, checkpoint(fp8, None)));
        let quantised = QuantRecipe::NAMES.map(|(form, recipe)| (form, checkpoint(false, Some(recipe))));
        let name = size.model().trim_end_matches("-Instruct");
        plain.into_iter().chain(quantised).map(move |(form, checkpoint)| (format!("{name} {form}"), checkpoint))
    };
    [Size::B30, Size::B480].into_iter().flat_map(forms).collect()
}

/// One model as it is stored and, unless it is in llama.cpp's format, as it can be quantised.
async fn named(model: &str, revision: Option<&str>) -> Result<Vec<(String, Checkpoint)>, StartError> {
    let source = Source { path: Some(model), revision, download_dir: None, wanted: Wanted::NoWeights };
    let files = match LookedUp::find(&source).await? {
        LookedUp::Here(files) => files,
        LookedUp::Announced(unfetched) => return Ok(vec![(model.to_owned(), unfetched.checkpoint(&Map::new())?)]),
    };
    let open = || files.checkpoint(if files.is_gguf() { LoadFormat::Gguf } else { LoadFormat::Dummy }, &Map::new());
    let mut found = vec![(model.to_owned(), open()?)];
    if !files.is_gguf() {
        for (form, recipe) in QuantRecipe::NAMES {
            found.push((format!("  --quantization {form}"), open()?.quantised(Some(recipe))));
        }
    }
    Ok(found)
}

fn print(
    device: &dyn Device,
    peaks: &MachinePeaks,
    machine: &Machine,
    forecasts: &[Forecast],
) -> Result<(), BenchError> {
    let available = machine.available_bytes.map_or_else(|| "unknown".into(), gib);
    output::line(format_args!(
        "CPU       {}, {} physical cores to use",
        machine::cpu_name().unwrap_or_else(|| "unknown".into()),
        machine.cores
    ))?;
    output::line(format_args!("Kernels   {} of {} (--cpu-isa)", device.isa(), device.isas().join(", ")))?;
    output::line(format_args!("Memory    {available} available"))?;
    output::line(format_args!("Measured  {}", roofline::line(peaks, device).trim_start_matches("Machine peaks: ")))?;
    output::line(format_args!(
        "\nAt most, projected from what was measured; nothing reads weights quicker than memory. `quern bench offline` \
         measures what is reached.\n"
    ))?;
    let [one, deep, deeper] = DEPTHS;
    output::line(format_args!(
        "{:34} {:>10} {:>12} {:>34} {:>8} {:>9}",
        "", "", "context", "decode tok/s, one sequence", "eight", "prefill"
    ))?;
    let header = format!("at {one}    at {deep}   at {deeper}");
    output::line(format_args!(
        "{:34} {:>10} {:>12} {header:>34} {:>8} {:>9}",
        "model", "weights", "that fits", "at 0", "tok/s"
    ))?;
    for forecast in forecasts {
        let fits = match forecast.context_that_fits {
            None => "unknown".into(),
            Some(0) => "does not fit".into(),
            Some(tokens) => format!("{tokens}"),
        };
        let decode: Vec<_> = forecast.decode.iter().map(|speed| format!("{speed:10.1}")).collect();
        output::line(format_args!(
            "{:34} {:>10} {fits:>12} {:>34} {:>8.1} {:>9.1}",
            forecast.name,
            gib(forecast.weight_bytes),
            decode.join(" "),
            forecast.decode_8,
            forecast.prefill,
        ))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_those_of_arithmetic() {
        // The machine of the figures in the reference: 71 GB/s and 2.102 TOP/s of int8.
        let peaks =
            MachinePeaks { read_bytes_per_s: 71e9, f32_flops: 508e9, bf16_flops: Some(974e9), int8_ops: 2102e9 };
        let machine = Machine { available_bytes: Some(24 << 30), cores: 2 };
        let forecasts: Vec<_> = published()
            .iter()
            .map(|(name, checkpoint)| Forecast::of(name, checkpoint, &peaks, &machine).unwrap())
            .collect();
        let of = |name: &str| forecasts.iter().find(|forecast| forecast.name == name).unwrap();
        let four = of("Qwen3-Coder-30B-A3B q4_k_m");
        assert!((four.decode[0] - 37.0).abs() < 0.6 && (four.decode[1] - 30.6).abs() < 0.5, "{four:?}");
        assert!((four.prefill - 292.0).abs() < 60.0, "{four:?}");
        assert!(four.context_that_fits.unwrap() > 32_768);
        assert_eq!(of("Qwen3-Coder-30B-A3B bf16").context_that_fits, Some(0));
        assert_eq!(of("Qwen3-Coder-480B-A35B q4_k_m").context_that_fits, Some(0));
    }
}
