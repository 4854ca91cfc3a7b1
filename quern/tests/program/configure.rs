//! `quern configure`: every combination of the cookbook's choices, letter for letter, through the program.

use std::process::{Command, Output};

use clap::ValueEnum;
use quern::{
    config::LoadFormat,
    configure::{
        cookbook::{Platform, Quantization, Recipe, Size, Tools},
        network::{Network, Weights},
    },
    model_files::ModelFiles,
};
use quern_model::{Parallelism, weights::QuantRecipe as Mixture};
use serde_json::{Map, json};

const AMD: &[&str] = &["MI300X", "MI325X", "MI355X"];

/// The published table, a line a row: model size, weights, tool calls; `|`; the whole command on AMD hardware.
const COMMANDS: &str = "\
480b bf16 disabled|--model Qwen/Qwen3-Coder-480B-A35B-Instruct --tp 8 --context-length 8192 --page-size 32
480b bf16 enabled|--model Qwen/Qwen3-Coder-480B-A35B-Instruct --tp 8 --tool-call-parser qwen3_coder --context-length 8192 --page-size 32
480b fp8 disabled|--model Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8 --tp 8 --ep 2 --context-length 8192 --page-size 32 --trust-remote-code
480b fp8 enabled|--model Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8 --tp 8 --ep 2 --tool-call-parser qwen3_coder --context-length 8192 --page-size 32 --trust-remote-code
30b bf16 disabled|--model Qwen/Qwen3-Coder-30B-A3B-Instruct --tp 1 --context-length 8192 --page-size 32
30b bf16 enabled|--model Qwen/Qwen3-Coder-30B-A3B-Instruct --tp 1 --tool-call-parser qwen3_coder --context-length 8192 --page-size 32
30b fp8 disabled|--model Qwen/Qwen3-Coder-30B-A3B-Instruct-FP8 --tp 1 --context-length 8192 --page-size 32 --trust-remote-code
30b fp8 enabled|--model Qwen/Qwen3-Coder-30B-A3B-Instruct-FP8 --tp 1 --tool-call-parser qwen3_coder --context-length 8192 --page-size 32 --trust-remote-code";

/// The same on NVIDIA hardware.
const NVIDIA_COMMANDS: &str = "\
480b fp8 disabled|--model Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8 --tp 8 --ep 2 --moe-runner-backend triton
480b fp8 enabled|--model Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8 --tp 8 --ep 2 --moe-runner-backend triton --tool-call-parser qwen3_coder
480b nvfp4 disabled|--model nvidia/Qwen3-Coder-480B-A35B-Instruct-NVFP --tp 8 --ep 1 --enable-dp-attention --moe-runner-backend flashinfer_cutlass --quantization modelopt_fp4
480b nvfp4 enabled|--model nvidia/Qwen3-Coder-480B-A35B-Instruct-NVFP --tp 8 --ep 1 --enable-dp-attention --moe-runner-backend flashinfer_cutlass --quantization modelopt_fp4 --tool-call-parser qwen3_coder";

fn name(value: &impl ValueEnum) -> String {
    value.to_possible_value().unwrap().get_name().to_owned()
}

/// A line of a table as the page prints it: every flag with its value on a line of its own.
fn printed(program: &str, table: &str, row: &str) -> Option<String> {
    let flags = table.lines().find_map(|line| line.strip_prefix(row)?.strip_prefix('|'))?;
    Some(format!("{program} {flags}").replace(" --", " \\\n  --"))
}

fn expected(platform: Platform, size: Size, quantization: Quantization, tools: Tools) -> String {
    let hardware = name(&platform).to_uppercase();
    let row = format!("{} {} {}", name(&size), name(&quantization), name(&tools));
    let amd = AMD.contains(&hardware.as_str());
    if size == Size::B30 && !amd {
        format!("# Configuration not available: 30B model has not been verified on {hardware}.")
    } else if quantization == Quantization::Nvfp4 && amd {
        "# NVFP4 quantization is only available on NVIDIA B200/GB200 hardware.".into()
    } else if quantization == Quantization::Bf16 && !amd {
        format!("# BF16 deployment on {hardware} has not been verified yet. Please use FP8 or NVFP4.")
    } else if amd {
        printed("SGLANG_USE_AITER=0 python -m sglang.launch_server", COMMANDS, &row).unwrap()
    } else {
        printed("python -m sglang.launch_server", NVIDIA_COMMANDS, &row).unwrap()
    }
}

fn quern(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_quern")).arg("configure").args(words).output().unwrap()
}

#[test]
fn all_combinations_of_the_cookbook_are_letter_for_letter() {
    let mut distinct = std::collections::BTreeSet::new();
    let mut num = 0;
    for &platform in Platform::value_variants() {
        for &size in Size::value_variants() {
            for &quantization in Quantization::value_variants() {
                for &tools in Tools::value_variants() {
                    let output = Recipe { platform, size, quantization, tools }.output();
                    assert_eq!(output, expected(platform, size, quantization, tools));
                    let (hardware, size, quantization, tools) =
                        (name(&platform), name(&size), name(&quantization), name(&tools));
                    let printed = quern(&[
                        "sglang",
                        "--hardware",
                        &hardware,
                        "--model-size",
                        &size,
                        "--quantization",
                        &quantization,
                        "--tools",
                        &tools,
                    ]);
                    assert_eq!(String::from_utf8(printed.stdout).unwrap(), format!("{output}\n"));
                    assert_eq!(printed.status.success(), !output.starts_with('#'));
                    if AMD.contains(&platform.title()) && quantization != "nvfp4" {
                        num += 1;
                        distinct.insert(output);
                    }
                }
            }
        }
    }
    assert_eq!((num, distinct.len()), (24, 8), "the page of January: combinations and commands");
}

#[test]
fn the_defaults_are_the_pages_and_unknown_hardware_is_named() {
    let first = expected(Platform::Mi300x, Size::B480, Quantization::Bf16, Tools::Disabled);
    assert_eq!(String::from_utf8(quern(&["sglang"]).stdout).unwrap(), format!("{first}\n"));
    let unknown = quern(&["sglang", "--hardware", "tpu"]);
    assert_eq!(String::from_utf8(unknown.stdout).unwrap(), "# Error: Unknown hardware platform: tpu\n");
    assert!(!unknown.status.success());
}

#[test]
fn a_rejected_choice_is_explained_with_its_arithmetic() {
    let output = quern(&["--hardware", "mi300x", "--model-size", "480b", "--tp", "8", "--ep", "3"]);
    let (command, notes) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(command.starts_with("quern serve \\\n  --model Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8"), "{command}");
    assert!(notes.contains("tp_size = 8 is not divisible by ep_size = 3"), "{notes}");
    assert!(notes.contains("Not supported yet"), "{notes}");
    assert!(!output.status.success());
    let fits = quern(&["quern", "--hardware", "cpu-64gb", "--context-length", "8k"]);
    assert!(fits.status.success(), "{}", String::from_utf8_lossy(&fits.stderr));
    assert_eq!(quern(&["--tp", "0"]).status.code(), Some(2));
}

#[test]
fn the_bytes_are_those_that_the_loader_counts() {
    for size in [Size::B30, Size::B480] {
        let network = Network::of(size);
        let config = json!({
            "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "torch_dtype": "bfloat16",
            "hidden_size": network.hidden, "num_hidden_layers": network.layers, "head_dim": network.head_dim,
            "num_attention_heads": network.heads, "num_key_value_heads": network.kv_heads,
            "intermediate_size": 5472, "moe_intermediate_size": network.moe_inner, "num_experts": network.experts,
            "num_experts_per_tok": 8, "norm_topk_prob": true, "decoder_sparse_step": 1, "mlp_only_layers": [],
            "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1e7, "vocab_size": network.vocab,
            "max_position_embeddings": network.max_context, "tie_word_embeddings": false, "eos_token_id": 151_645,
        });
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        for (weights, mixture) in [(Weights::Bf16, None), (Weights::FourBit, Some(Mixture::Q4KM))] {
            let files = ModelFiles::Directory(dir.path().into());
            let checkpoint = files.checkpoint(LoadFormat::Dummy, &Map::new()).unwrap().quantised(mixture);
            let (_, bytes) = network.divided(weights, Parallelism::NONE).unwrap();
            assert_eq!(bytes, checkpoint.weight_bytes(), "{size:?} {weights:?}");
        }
    }
}

#[test]
#[cfg(unix)]
fn a_reader_that_has_seen_enough_ends_the_program_quietly() {
    use std::os::unix::process::ExitStatusExt;

    const SIGPIPE: i32 = 13;
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let ended = Command::new(env!("CARGO_BIN_EXE_quern")).arg("configure").stdout(writer).output().unwrap();
    assert_eq!(ended.status.signal(), Some(SIGPIPE), "{:?}", ended.status);
    assert_eq!(String::from_utf8_lossy(&ended.stderr), "");
}
