//! The built program and a model's files that are cut off, without an end, damaged, or kept for the next start.

use std::{io::Write, net::TcpStream, process::Command};

use crate::process::{failure, run, serve};

/// A copy of the shipped model, whose weights are served as they lie in the file.
fn a_copy_of_the_shipped_model(folder: &std::path::Path) {
    let demo = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/quern-demo");
    for entry in std::fs::read_dir(&demo).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file()) {
        std::fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
}

#[test]
#[cfg(target_os = "linux")]
fn weights_that_are_cut_off_while_they_are_served_end_the_process_with_their_name() {
    let folder = tempfile::tempdir().unwrap();
    a_copy_of_the_shipped_model(folder.path());
    let mut server = serve(&["--model", &folder.path().display().to_string(), "--skip-peak-measurement"]);
    let weights = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
    let weights = weights.filter(|path| path.extension().is_some_and(|suffix| suffix == "safetensors"));
    for file in weights {
        std::fs::File::options().write(true).open(file).unwrap().set_len(4096).unwrap();
    }
    let mut socket = TcpStream::connect(server.address).unwrap();
    let body = r#"{"text":"def add(a, b):","sampling_params":{"temperature":0,"max_new_tokens":24}}"#;
    let head = "host: x\r\ncontent-type: application/json";
    write!(socket, "POST /generate HTTP/1.1\r\n{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
    let status = server.process.wait().unwrap();
    let log: Vec<String> = server.later_log.iter().collect();
    assert_eq!(status.code(), Some(70), "{log:#?}");
    let named = format!("quern: error: {}", folder.path().join("model").display());
    let said = |line: &String| line.contains(&named) && line.contains(".safetensors was cut off");
    assert!(log.iter().any(said), "{log:#?}");
}

#[test]
fn files_without_an_end_are_refused_wherever_a_model_has_files() {
    let folder = tempfile::tempdir().unwrap();
    a_copy_of_the_shipped_model(folder.path());
    let model = folder.path().display().to_string();
    let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    let read = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"];
    let read = |path: &std::path::Path| {
        let name = path.file_name().unwrap().to_str().unwrap();
        read.contains(&name)
            || name.ends_with(".safetensors")
            || name.ends_with(".jinja")
            || name.ends_with(".index.json")
    };
    let mut count = 0;
    let refused = || {
        let output = run(&["serve", "--port", "0", "--device", "cpu", "--model", &model]);
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    for path in names.iter().filter(|path| read(path)) {
        let aside = path.with_extension("aside");
        std::fs::rename(path, &aside).unwrap();
        assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
        let fifo = refused();
        std::fs::remove_file(path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", path).unwrap();
        let device = refused();
        std::fs::remove_file(path).unwrap();
        std::fs::rename(&aside, path).unwrap();
        for error in [fifo, device] {
            assert!(
                error.contains(path.file_name().unwrap().to_str().unwrap()) && error.contains("regular file"),
                "{error}"
            );
        }
        count += 1;
    }
    assert!(count >= 5, "{names:?}");
}

/// Names of the files that keep repacked weights in `cache`.
fn panel_files(cache: &str) -> Vec<String> {
    let names = std::fs::read_dir(cache).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".panels")).collect()
}

/// Until `count` of them are whole.
fn wait_for_panel_files(cache: &str, count: usize) {
    let begin = std::time::Instant::now();
    while panel_files(cache).len() < count {
        let all = || std::fs::read_dir(cache).unwrap().collect::<Vec<_>>();
        assert!(begin.elapsed().as_secs() < 60, "{count} of {:?}", all());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn each_rank_keeps_its_own_repacked_weights() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (model, cache) = (path("demo.gguf"), path("cache"));
    assert!(run(&["convert", "--outtype", "q8_0", "--outfile", &model]).status.success());
    let flags = ["--model", &model, "--weight-cache", &cache, "--dtype", "float32"];
    let start = |files: usize, ranks: &[&str]| {
        let server = serve(&[&flags, ranks].concat());
        wait_for_panel_files(&cache, files);
        let body = r#"{"text":"def add(a, b):","sampling_params":{"temperature":0,"max_new_tokens":24}}"#;
        let answer = server.post("/generate", body);
        let text = answer.split_once("\"text\"").unwrap().1.split_once("\"meta_info\"").unwrap().0.to_owned();
        (server.log.join("\n"), text)
    };
    let (_, alone) = start(1, &[]);
    let (log, first) = start(3, &["--tp", "2"]);
    assert_eq!((log.matches("kept in").count(), &first), (2, &alone), "{log}");
    let (log, second) = start(3, &["--tp", "2"]);
    assert_eq!((log.matches("are mapped from").count(), &second), (2, &alone), "{log}");
    // Other groups are other parts.
    let (log, other) = start(5, &["--tp", "2", "--ep", "2"]);
    assert_eq!((log.matches("kept in").count(), &other), (2, &alone), "{log}");
}

#[test]
fn a_second_start_maps_what_the_first_repacked() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (model, cache) = (path("demo.gguf"), path("cache"));
    assert!(run(&["convert", "--outfile", &model]).status.success());
    let flags = ["--model", &model, "--weight-cache", &cache];
    // The server lives until then: one that is killed earlier keeps nothing.
    let start = |count: usize| {
        let server = serve(&flags);
        wait_for_panel_files(&cache, count);
        let answer = server
            .post("/generate", r#"{"text":"def add(a, b):","sampling_params":{"temperature":0,"max_new_tokens":24}}"#);
        (
            server.log.join("\n"),
            answer.split_once("\"text\"").unwrap().1.split_once("\"meta_info\"").unwrap().0.to_owned(),
        )
    };
    let (log, first) = start(1);
    assert!(log.contains("kept in"), "{log}");
    // Nobody reads the weights that were kept: these are blocks of NaN now, which a check would refuse.
    let whole = std::fs::read(&model).unwrap();
    let modified = std::fs::metadata(&model).unwrap().modified().unwrap();
    let mut spoilt = whole.clone();
    let end = spoilt.len();
    spoilt[end - 4096..].fill(0xff);
    let write = |bytes: &[u8], modified| {
        std::fs::write(&model, bytes).unwrap();
        std::fs::File::options().append(true).open(&model).unwrap().set_modified(modified).unwrap();
    };
    write(&spoilt, modified);
    failure(&["serve", "--port", "0", "--model", &model]);
    let (log, second) = start(1);
    assert!(log.contains("are mapped from"), "{log}");
    assert_eq!(first, second);

    // A file that changed is another model.
    write(&whole, modified + std::time::Duration::from_secs(5));
    let (log, third) = start(2);
    assert!(log.contains("kept in"), "{log}");
    assert_eq!(first, third);

    let error =
        failure(&["serve", "--port", "0", "--model", &model, "--quantization", "q4_0", "--weight-cache", &cache]);
    assert!(error.contains(&format!("--weight-cache {cache}")) && error.contains("quern convert"), "{error}");
    let error = failure(&["serve", "--port", "0", "--weight-cache", &cache]);
    assert!(error.contains(&format!("--weight-cache {cache}")) && error.contains("GGUF"), "{error}");
    let error = failure(&["serve", "--port", "0", "--model", &model, "--weight-cache", &model]);
    assert!(error.contains(&format!("--weight-cache {model}")), "{error}");
}

#[test]
fn damaged_panels_are_repacked_and_said_to_be() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (model, cache) = (path("demo.gguf"), path("cache"));
    assert!(run(&["convert", "--outtype", "q8_0", "--outfile", &model]).status.success());
    let flags = ["--model", &model, "--weight-cache", &cache, "--enable-metrics"];
    // The server lives until the file is whole: one that is killed earlier keeps nothing.
    let start = |is_whole: &dyn Fn() -> bool| {
        let server = serve(&flags);
        let begin = std::time::Instant::now();
        while !is_whole() {
            assert!(begin.elapsed().as_secs() < 60, "it is written");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let answer = server
            .post("/generate", r#"{"text":"def add(a, b):","sampling_params":{"temperature":0,"max_new_tokens":24}}"#);
        let text = answer.split_once("\"text\"").unwrap().1.split_once("\"meta_info\"").unwrap().0.to_owned();
        let failures = |line: &&str| line.starts_with("sglang:weight_cache_failures_total");
        let metrics = server.get("/metrics");
        let failures = metrics.lines().find(failures).unwrap_or_else(|| panic!("{metrics}")).to_owned();
        (server.log.join("\n"), text, failures)
    };
    let (log, first, failures) = start(&|| std::fs::exists(&cache).unwrap() && !panel_files(&cache).is_empty());
    assert!(log.contains("kept in") && failures.ends_with(" 0"), "{log}\n{failures}");
    let panels = std::path::Path::new(&cache).join(&panel_files(&cache)[0]);
    let whole = std::fs::read(&panels).unwrap();
    let mut spoilt = whole.clone();
    let middle = whole.len() / 2 / (2 << 20) * (2 << 20) + 77;
    spoilt[middle] ^= 4;
    std::fs::write(&panels, &spoilt).unwrap();
    let (log, second, failures) = start(&|| std::fs::read(&panels).unwrap() == whole);
    assert!(log.contains("is damaged: bytes ") && log.contains("repacked") && failures.ends_with(" 1"), "{log}");
    assert_eq!(first, second);
}
