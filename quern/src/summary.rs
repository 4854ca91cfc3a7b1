//! What an operator reads at start: the model, its weights, the pool, the kernels, the limits.

use quern_backend::{Device, DeviceMemory, KvFormat};
use quern_model::Checkpoint;

use crate::{
    config::{Config, DeviceSettings, DistTransport, EngineSettings, ModelSettings, ParallelOptions},
    memory::gib,
    start_error::StartError,
};

/// How many times as large as in their file weights are in memory where the summary says both.
const GROWN: f64 = 1.1;

/// The lines about the model, before its weights are read.
pub fn model_lines(settings: &ModelSettings, checkpoint: &Checkpoint) -> Vec<String> {
    let (model, network) = (checkpoint.config(), checkpoint.network());
    let mut lines = Vec::new();
    lines.push(format!(
        "Model {}: {}, {} layers, {} parameters, {} of them active per token, vocabulary {}, context {}.",
        settings.model_path,
        model.architecture,
        model.num_layers,
        count(network.total_params()),
        count(network.active_params()),
        model.vocab_size,
        model.max_position_embeddings,
    ));
    lines.push(format!("Positions: {}.", model.rope));
    let formats: Vec<_> = checkpoint.formats().iter().map(ToString::to_string).collect();
    let formats = formats.join(", ");
    let format = checkpoint.recipe().map_or(formats.clone(), |recipe| format!("{recipe} ({formats})"));
    let weights = gib(checkpoint.weight_bytes());
    // Indices into grids are a code for each element in memory.
    let grown = checkpoint.recipe().is_none() && !checkpoint.gguf_files().is_empty();
    let weights = match checkpoint.scanned_bytes() {
        stored if grown && checkpoint.weight_bytes() as f64 > GROWN * stored as f64 => {
            format!("{weights} of memory for {} of the file", gib(stored))
        }
        _ => weights,
    };
    lines.push(match (checkpoint.is_dummy(), &settings.model_dir) {
        (true, _) => format!(
            "Weights: {weights} of RANDOM numbers. Everything works, but the answers make no sense; leave out \
             --load-format dummy for ones that do."
        ),
        (false, Some(dir)) => format!("Weights: {weights}, {format}, from {}.", dir.display()),
        (false, None) => format!(
            "Weights: {weights}, {format}, from this program. This is a DEMONSTRATION model: it writes a few known \
             functions, calls tools and solves small sums; name a real model with --model."
        ),
    });
    lines
}

/// The lines about threads and kernels: the kernel of each operation, for the encodings that this model
/// uses. Where there are several ranks, `device` is one of them.
pub fn kernel_lines(device: &dyn Device, checkpoint: &Checkpoint, config: &Config) -> Vec<String> {
    let mut used: Vec<String> = checkpoint.formats().iter().map(ToString::to_string).collect();
    used.push(config.model.kv_cache_dtype.to_string());
    let kernels = device.kernels().into_iter().filter_map(|choice| match choice.format {
        None => Some(format!("{} [{}]", choice.op, choice.kernel)),
        Some(format) if used.contains(&format) => Some(format!("{} {format} [{}]", choice.op, choice.kernel)),
        Some(_) => None,
    });
    let computes = match device.memory() {
        DeviceMemory::Host => format!("CPU: {} threads, {} kernels", config.device.cpu_threads, device.isa()),
        DeviceMemory::Own { available_bytes, .. } => {
            format!("GPU: {}, {} kernels, {} free", device.name(), device.isa(), gib(available_bytes))
        }
    };
    vec![
        format!("{computes}, inputs of products in {}.", config.model.dtype),
        format!("Kernels: {}.", kernels.collect::<Vec<_>>().join(", ")),
    ]
}

/// The lines about the ranks, where there are several.
///
/// # Errors
/// If the network cannot be divided, or a tensor is missing.
pub fn rank_lines(
    device: &DeviceSettings,
    checkpoint: &Checkpoint,
    kv_format: KvFormat,
) -> Result<Vec<String>, StartError> {
    let ParallelOptions { tp_size, ep_size, nnodes, node_rank } = device.parallel;
    if !device.parallel.is_divided() {
        return Ok(Vec::new());
    }
    let parts = device.parallel.split(checkpoint)?;
    let bytes = parts[device.parallel.ranks_here()]
        .iter()
        .map(|part| checkpoint.part_bytes(part))
        .collect::<Result<Vec<_>, _>>()?;
    let (least, most) = (bytes.iter().min().copied().unwrap_or(0), bytes.iter().max().copied().unwrap_or(0));
    let weights = if gib(least) == gib(most) { gib(most) } else { format!("{} to {}", gib(least), gib(most)) };
    let kv_bytes = parts[0].narrowed(checkpoint.config()).kv_bytes_per_token(kv_format);
    let here = device.parallel.ranks_here();
    let place = match nnodes {
        1 => format!("{tp_size} in this process"),
        _ => format!(
            "{} to {} of {tp_size} on node {node_rank} of {nnodes} over {}",
            here.start,
            here.end - 1,
            if device.nodes.dist_transport == Some(DistTransport::Mpi) { "MPI" } else { "sockets" }
        ),
    };
    let mut lines = vec![format!(
        "Ranks: {place} (tp_size {tp_size}, ep_size {ep_size}). Each: {weights} of weights, {kv_bytes} bytes \
         of keys and values per token."
    )];
    lines.extend(parts[0].notes());
    if device.cpu_threads < here.len() {
        let (threads, ranks) = (device.cpu_threads, here.len());
        lines.push(format!("{ranks} ranks have one thread each, on the cores of {threads}: they take turns."));
    }
    Ok(lines)
}

/// The line about the pool, in SGLang's form.
pub fn pool_line(engine: &EngineSettings, kv_format: KvFormat) -> String {
    let kv_bytes_per_token = engine.kv_bytes_per_token;
    let half = gib(engine.max_total_num_tokens as u64 * kv_bytes_per_token / 2);
    format!(
        "KV Cache is allocated. dtype: {kv_format}, #tokens: {}, K size: {half}, V size: {half} ({} pages of {} tokens, \
         {kv_bytes_per_token} bytes per token)",
        engine.max_total_num_tokens, engine.num_pages, engine.memory.page_size,
    )
}

/// The line of limits that scripts read, in SGLang's form. `available_gpu_mem` is memory of what computes: main memory
/// where that is the CPU.
pub fn limits_line(engine: &EngineSettings, context_length: usize, available_bytes: Option<u64>) -> String {
    let available = available_bytes.unwrap_or(0) as f64 / (1u64 << 30) as f64;
    format!(
        "max_total_num_tokens={}, chunked_prefill_size={}, max_prefill_tokens={}, max_running_requests={}, \
         context_len={context_length}, available_gpu_mem={available:.2} GB",
        engine.max_total_num_tokens,
        engine.chunked_prefill_size,
        engine.schedule.max_prefill_tokens,
        engine.max_running_requests,
    )
}

/// `30.5 B`, `412.3 M`, `98 k`.
fn count(n: u64) -> String {
    match n {
        n if n >= 1_000_000_000 => format!("{:.1} B", n as f64 / 1e9),
        n if n >= 1_000_000 => format!("{:.1} M", n as f64 / 1e6),
        n => format!("{:.0} k", n as f64 / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use serde_json::Map;

    use super::*;
    use crate::{config::LoadFormat, model_files::ModelFiles, resolve::tests::decide};

    #[test]
    fn limits_have_sglangs_form() {
        let config = decide("--max-total-tokens 8192").unwrap().config;
        assert_snapshot!(limits_line(&config.engine, 4096, Some(13_249_974_108)), @"max_total_num_tokens=8192, chunked_prefill_size=512, max_prefill_tokens=16384, max_running_requests=256, context_len=4096, available_gpu_mem=12.34 GB");
        let engine = EngineSettings { kv_bytes_per_token: 98_304, ..config.engine };
        assert_snapshot!(pool_line(&engine, KvFormat::BF16), @"KV Cache is allocated. dtype: bfloat16, #tokens: 8192, K size: 384.0 MB, V size: 384.0 MB (256 pages of 32 tokens, 98304 bytes per token)");
    }

    #[test]
    fn random_weights_are_announced() {
        let checkpoint = ModelFiles::Shipped.checkpoint(LoadFormat::Dummy, &Map::new()).unwrap();
        let lines = model_lines(&decide("").unwrap().config.model, &checkpoint);
        assert!(lines[0].contains("quern-demo: Qwen3MoeForCausalLM"), "{lines:?}");
        assert!(lines[2].contains("RANDOM") && lines[2].contains("no sense"), "{lines:?}");
    }

    #[test]
    fn the_shipped_model_is_announced_as_a_demonstration() {
        let checkpoint = ModelFiles::Shipped.checkpoint(LoadFormat::Safetensors, &Map::new()).unwrap();
        let lines = model_lines(&decide("").unwrap().config.model, &checkpoint);
        assert!(lines[2].contains("DEMONSTRATION") && lines[2].contains("--model"), "{lines:?}");
    }

    #[test]
    fn counts_are_short() {
        assert_eq!(count(30_532_122_624), "30.5 B");
        assert_eq!(count(3_349_000), "3.3 M");
        assert_eq!(count(98_304), "98 k");
    }
}
