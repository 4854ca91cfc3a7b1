//! Kernels and whole steps as fractions of what the machine allows: the tables of `quern bench kernels` and of
//! `quern bench offline` for four layers of Qwen3-Coder-30B-A3B.
//!
//! `cargo bench -p quern --bench roofline`. The commands take flags; this takes none.

use quern::{
    bench,
    cli::{Cli, Job},
};

fn main() {
    let shape = "bench offline --shape 30b --layers 4 --max-total-tokens 16k";
    let wide = "--batch-sizes 1,8,32 --depths 32 --prompt-lens 512,2048";
    let deep = "--batch-sizes 1 --depths 4096 --prompt-lens 4096 --repeats 2";
    // Encoding four layers in blocks takes minutes; a GGUF file measures those (--model).
    let forms = ["--dtype auto", "--quantization fp8"];
    let steps = forms.iter().flat_map(|form| [wide, deep].map(|work| format!("{shape} {form} {work}")));
    for words in ["bench kernels".to_owned()].into_iter().chain(steps) {
        println!("\nquern {words}");
        let typed = ["quern"].into_iter().chain(words.split_whitespace()).map(Into::into);
        let Ok(Cli { command: Job::Bench(job) }) = Cli::from_arguments(typed) else { panic!("not a command: {words}") };
        bench::run(&job).unwrap_or_else(|error| panic!("{error}"));
    }
}
