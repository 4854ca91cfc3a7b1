//! Every flag: it parses under each of its names, what it asks for is served, noted or refused, and none
//! is silently ignored.

use std::{collections::BTreeSet, ffi::OsString};

use clap::CommandFactory;
use quern::cli::{
    Cli, CliError, Job, ServeArgs,
    compat::{Otherwise, TABLE, Takes},
};
use quern_text::JsonBlanks;

fn parse(words: &[&str]) -> Result<ServeArgs, CliError> {
    let words = ["quern", "serve"].iter().chain(words).map(OsString::from);
    let Job::Serve(args) = Cli::from_arguments(words)?.command else { panic!("not `serve`") };
    Ok(*args)
}

/// The exit status of a command line that is not understood.
fn status(words: &[&str]) -> i32 {
    match parse(words).unwrap_err() {
        CliError::Usage(error) => error.exit_code(),
        CliError::ConfigFile(_) => 1,
    }
}

/// Words that ask for `value`.
fn ask(name: &str, value: Option<&str>) -> Vec<String> {
    let mut words = vec![format!("--{name}")];
    words.extend(value.map(str::to_owned));
    words
}

/// A value of the flag's kind that its table entry does not list.
fn other_value(takes: Takes, as_is: &[&str]) -> Option<String> {
    match takes {
        Takes::Nothing => None,
        Takes::Int => Some("77".into()),
        Takes::Float => Some("0.77".into()),
        Takes::Value | Takes::Optional | Takes::Values => Some("something-else".into()),
        Takes::OneOf(choices) => {
            let other = choices.iter().find(|choice| !as_is.contains(choice));
            Some((*other.expect("a choice that is not supported, or the entry is needless")).to_owned())
        }
    }
}

#[test]
fn every_flag_of_the_table_is_served_noted_or_refused() {
    for flag in TABLE {
        for name in [&flag.name].into_iter().chain(flag.aliases) {
            for value in flag.as_is {
                let words = ask(name, Some(value));
                let args = parse(&words.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
                let notes = args.compat.judge().unwrap();
                assert!(notes.is_empty(), "{words:?} asks for what happens anyway: {notes:?}");
            }
            let value = other_value(flag.takes, flag.as_is);
            let words = ask(name, value.as_deref());
            let args = parse(&words.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
            let spoken = match (args.compat.judge(), flag.otherwise) {
                (Ok(notes), Otherwise::Note(reason)) if notes.len() == 1 => {
                    assert!(notes[0].contains(reason), "{notes:?}");
                    notes[0].clone()
                }
                (Err(refusal), Otherwise::Refuse(reason)) => {
                    assert!(refusal.reason.contains(reason), "{refusal}");
                    refusal.to_string()
                }
                (judged, _) => panic!("{words:?}: {judged:?}"),
            };
            assert!(spoken.starts_with(&format!("--{}", flag.name)), "{spoken}");
            assert!(spoken.contains(value.as_deref().unwrap_or_default()), "{spoken}");
            assert_eq!(spoken.lines().count(), 1, "{spoken}");
        }
    }
}

#[test]
fn values_of_the_wrong_kind_are_usage_errors() {
    for flag in TABLE {
        let wrong = match flag.takes {
            Takes::Int | Takes::Float => "many",
            Takes::OneOf(_) => "something-else",
            Takes::Nothing | Takes::Value | Takes::Optional | Takes::Values => continue,
        };
        assert_eq!(status(&[&format!("--{}", flag.name), wrong]), 2, "{}", flag.name);
        assert_eq!(status(&[&format!("--{}", flag.name)]), 2, "{} without a value", flag.name);
    }
}

#[test]
fn no_two_flags_share_a_name() {
    let command = Cli::command();
    let serve = command.find_subcommand("serve").unwrap();
    let mut seen = BTreeSet::new();
    for arg in serve.get_arguments() {
        let names = arg.get_long().into_iter().chain(arg.get_all_aliases().unwrap_or_default());
        for name in names {
            assert!(seen.insert(name.to_owned()), "--{name} twice");
            assert!(!name.contains('_'), "--{name}");
        }
    }
    // The flags of the cookbook's commands and of SGLang's front page.
    for name in [
        "model",
        "model-path",
        "tp-size",
        "tensor-parallel-size",
        "ep",
        "ep-size",
        "context-length",
        "page-size",
        "trust-remote-code",
        "tool-call-parser",
        "host",
        "port",
        "mem-fraction-static",
        "chunked-prefill-size",
        "dp-size",
        "quantization",
        "moe-runner-backend",
        "enable-dp-attention",
        "api-key",
        "served-model-name",
    ] {
        assert!(seen.contains(name), "--{name}");
    }
}

#[test]
fn built_flags_parse() {
    for line in [
        "--model Qwen/Qwen3-Coder-30B-A3B-Instruct --tp 1 --context-length 8192 --page-size 32 --tool-call-parser \
         qwen3_coder",
        "--model-path m --tokenizer-path t --revision v1 --download-dir /d --load-format dummy --dtype bfloat16",
        "--json-model-override-args {\"a\":1} --quantization fp8 --kv-cache-dtype bf16 --served-model-name n",
        "--host 0.0.0.0 --port 0 --fastapi-root-path /api --api-key k,l --api-key m --shared-prefix-cache --admin-api-key a --skip-server-warmup",
        "--chat-template f.jinja --hf-chat-template-name n --default-chat-template-kwargs {} --weight-version w",
        "--sampling-defaults openai --preferred-sampling-params {\"top_k\":1} --allow-auto-truncate",
        "--stream-interval 4 --incremental-streaming-output --stream-response-default-include-usage",
        "--mem-fraction-static 0.5 --max-running-requests 8 --max-queued-requests 9 --max-queued-tokens 1Mi --max-total-tokens 8Ki",
        "--chunked-prefill-size -1 --max-prefill-tokens 1k --schedule-policy lpm --schedule-conservativeness 0.3",
        "--disable-radix-cache --random-seed 7 --cpu-threads 2 --cpu-isa scalar --weight-cache /c --drain-timeout 1.5",
        "--max-request-bytes 1Mi --max-connections 4 --max-connections-per-address 2 --request-read-timeout 3",
        "--slow-client-timeout 3 --skip-peak-measurement",
        "--allowed-origins https://a.example,http://localhost:* --allowed-origins [\"*\"] --allowed-methods [\"GET\"]",
        "--allowed-headers authorization --allow-credentials --allowed-hosts llm.example *.example",
        "--log-level DEBUG --log-level-http warning --decode-log-interval 10 --enable-metrics --crash-dump-folder d",
        "--extra-metric-labels {\"a\":\"b\"} --bucket-time-to-first-token 0.1 1 --bucket-inter-token-latency 1",
        "--bucket-e2e-request-latency 1 2 3 --print-config",
    ] {
        parse(&line.split_whitespace().collect::<Vec<_>>()).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}

#[test]
fn prefixes_equals_signs_and_repetition_work_as_with_argparse() {
    let args = parse(&["--tp", "1", "--dp=1", "--ep", "1", "--mem=0.5", "--context=4k", "--chunked=-1"]).unwrap();
    assert_eq!(args.engine.memory.mem_fraction_static, 0.5);
    assert_eq!(args.model.context_length, Some(4000));
    assert_eq!(args.engine.chunked_prefill_size, Some(-1));
    assert!(args.compat.judge().unwrap().is_empty());
    assert_eq!(parse(&["--port", "1", "--port", "2"]).unwrap().listen.port, 2, "the last one wins");
    // pp-size, pp-max-micro-batch-size and pp-async-batch-depth.
    assert_eq!(status(&["--pp", "1"]), 2);
    assert_eq!(parse(&["--model", "a"]).unwrap().model.model_path.as_deref(), Some("a"));
}

#[test]
fn what_vllm_and_llama_server_call_our_flags_is_told() {
    for (theirs, ours) in [
        (&["--max-model-len", "2048"][..], "--context-length"),
        (&["-c", "4096"], "--context-length"),
        (&["--gpu-memory-utilization=0.9"], "--mem-fraction-static"),
        (&["--max-num-seqs", "4"], "--max-running-requests"),
        (&["--max-num-batched-tokens", "8192"], "--chunked-prefill-size"),
        (&["--block-size", "16"], "--page-size"),
        (&["--no-enable-prefix-caching"], "--disable-radix-cache"),
        (&["-a", "name"], "--served-model-name"),
        (&["-hf", "a/model", "-hff", "x.gguf"], "--model OWNER/NAME/FILE.gguf"),
        (&["--offline"], "the environment variable HF_HUB_OFFLINE=1"),
        (&["-t", "8"], "--cpu-threads"),
        (&["--no-warmup"], "--skip-server-warmup"),
        (&["--metrics"], "--enable-metrics"),
    ] {
        let error = parse(theirs).unwrap().compat.judge().unwrap_err().to_string();
        assert!(error.ends_with(&format!("here it is {ours}")), "{theirs:?}: {error}");
    }
    for words in [["-m", "a/model"], ["-hf", "a/model"], ["--hf-repo", "a/model"]] {
        assert_eq!(parse(&words).unwrap().model.model_path.as_deref(), Some("a/model"));
    }

    let words = ["-ngl", "99", "-fa", "-np", "4", "-b", "2048", "-ub", "512", "-cb", "-ot", "exps=CPU", "-tb", "2"];
    let notes = parse(&words).unwrap().compat.judge().unwrap();
    assert_eq!(notes.len(), 8, "{notes:?}");
    assert!(notes.iter().any(|note| note.starts_with("--n-gpu-layers 99 changes nothing")), "{notes:?}");
    assert!(parse(&["-fa", "off"]).unwrap().compat.judge().unwrap()[0].starts_with("--flash-attn off changes nothing"));
}

#[test]
fn keys_add_up_and_none_is_empty() {
    let args = parse(&["--api-key", "a,b", "--api-key", "c"]).unwrap();
    assert_eq!(args.api.server.api_key.iter().map(|key| key.expose()).collect::<Vec<_>>(), ["a", "b", "c"]);
    assert!(parse(&[]).unwrap().api.server.api_key.is_empty());
    for words in [["--api-key", ""], ["--api-key", "a,,b"], ["--api-key-file", "/no/such/file"]] {
        assert_eq!(status(&words), 2, "{words:?}");
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    let words = ["--api-key-file", file.to_str().unwrap()];
    std::fs::write(&file, "\n").unwrap();
    assert_eq!(status(&words), 2, "a file without a key would let nobody in");
    std::fs::write(&file, "one\ntwo\n").unwrap();
    assert_eq!(parse(&words).unwrap().api.server.api_key_file.as_deref(), Some(file.as_path()));
}

#[test]
fn usage_errors_exit_with_two() {
    for words in [
        &["--no-such-flag"][..],
        &["--port"],
        &["--port", "many"],
        &["--port", "65536"],
        &["--context-length", "8kB"],
        &["--load-format", "zip"],
        &["--dtype", "int8"],
        &["--tool-call-parser", "no_such_parser"],
        &["--schedule-policy", "lifo"],
        &["--json-model-override-args", "[1]"],
        &["--default-chat-template-kwargs", "{"],
        &["--drain-timeout", "-1"],
        &["--drain-timeout", "nan"],
        &["--enable-metrics=yes"],
        &["--allowed-origins", "a.example"],
        &["--allowed-origins", "[1]"],
        &["--allowed-hosts", "http://a"],
        &["a/model", "stray"],
        &["a/model", "--model", "another/model"],
    ] {
        assert_eq!(status(words), 2, "{words:?}");
    }
}

#[test]
fn a_configuration_file_stands_before_what_is_typed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("server.yml");
    let yaml = "model: m\ntp_size: 1\nport: 1\nhost: 0.0.0.0\ncontext_length: 8k\ntrust-remote-code: true\n\
                enable_metrics: false\nbucket_time_to_first_token: [0.5, 1]\nextra_metric_labels: {a: b}\n";
    std::fs::write(&file, yaml).unwrap();
    let file = file.to_str().unwrap();
    for words in [vec!["--config", file, "--port", "2"], vec!["--port", "2", "--config", file]] {
        let args = parse(&words).unwrap();
        assert_eq!((args.listen.port, args.listen.host.as_str()), (2, "0.0.0.0"));
        assert_eq!(args.model.model_path.as_deref(), Some("m"));
        assert_eq!(args.model.context_length, Some(8000));
        assert!(!args.metrics.enable_metrics);
        assert_eq!(args.metrics.bucket_time_to_first_token, Some(vec![0.5, 1.0]));
        assert_eq!(args.metrics.extra_metric_labels, [("a".to_owned(), "b".to_owned())]);
        assert_eq!(args.compat.judge().unwrap().len(), 1, "trust-remote-code is noted");
    }
    std::fs::write(file, "no_such_flag: 1\n").unwrap();
    assert_eq!(status(&["--config", file]), 2);
    assert_eq!(status(&["--config", file, "--config", file]), 1);
    assert_eq!(status(&["--config", "server.json"]), 1);
    assert_eq!(status(&["--config"]), 2);
    // A shortened `--config` would be read by nobody.
    assert_eq!(status(&["--conf", file]), 1);
}

#[test]
fn flags_that_are_refused_say_so_before_a_model_is_looked_for() {
    for (words, parts) in [
        (&["--tp", "4", "--ep", "3"][..], &["--ep-size 3", "--tp-size 4"][..]),
        (&["--dp-size", "2"], &["--dp-size 2", "router"]),
        (&["--nnodes", "2"], &["--nnodes 2", "--tp-size 1"]),
        (&["--enable-lora"], &["--enable-lora:", "not supported"]),
        (&["--speculative-algorithm", "EAGLE"], &["--speculative-algorithm EAGLE"]),
        (&["--kv-cache-dtype", "nvfp4"], &["--kv-cache-dtype nvfp4", "fp8_e4m3"]),
        (&["--ssl-certfile", "c.pem"], &["--ssl-certfile c.pem", "proxy"]),
        (&["--grpc-port", "1"], &["--grpc-port 1"]),
        (&["--dtype", "float16"], &["--dtype float16", "bfloat16"]),
        (&["--device", "xpu"], &["--device xpu", "cuda"]),
        (&["--quantization", "awq"], &["--quantization awq", "fp8"]),
    ] {
        let error = match parse(words) {
            Ok(args) => args.check().unwrap_err().to_string(),
            Err(error) => error.to_string(),
        };
        for part in parts {
            assert!(error.contains(part), "{words:?}: {error}");
        }
    }
}

#[test]
fn the_help_teaches_what_is_built() {
    let mut command = Cli::command();
    let serve = command.find_subcommand_mut("serve").unwrap().clone().bin_name("quern serve");
    let help = serve.term_width(100).render_long_help().to_string();
    insta::assert_snapshot!(help);
}

#[test]
fn blanks_of_constrained_json_are_an_operators_choice() {
    let blanks = |line: &str| {
        let words: Vec<&str> = line.split(' ').filter(|word| !word.is_empty()).collect();
        parse(&words).map(|args| {
            (
                args.api.requests.constrained_json_disable_any_whitespace,
                args.api.requests.constrained_json_whitespace_pattern,
                args.api.requests.constrained_json_max_whitespace_cnt,
            )
        })
    };
    let pattern = Some(JsonBlanks::Pattern(r"[\n]*".into()));
    assert_eq!(blanks(r"--constrained-json-whitespace-pattern [\n]*").unwrap(), (false, pattern, None));
    assert_eq!(blanks("--constrained-json-disable-any-whitespace").unwrap(), (true, None, None));
    assert_eq!(blanks("--constrained-json-max-whitespace-cnt 4").unwrap(), (false, None, Some(4)));
    for (line, words) in [
        ("--constrained-json-whitespace-pattern [", "--constrained-json-whitespace-pattern"),
        ("--constrained-json-max-whitespace-cnt -1", "--constrained-json-max-whitespace-cnt"),
        ("--constrained-json-max-whitespace-cnt 4 --constrained-json-disable-any-whitespace", "cannot be used with"),
    ] {
        let error = blanks(line).unwrap_err().to_string();
        assert!(error.contains(words), "{line}: {error}");
    }
}
