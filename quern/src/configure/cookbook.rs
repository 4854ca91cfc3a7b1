//! [`Recipe`]: the choices of the cookbook's page for Qwen3-Coder, and the command it answers with.
//!
//! The rules are those of the cookbook's component of 2026-03-02. On AMD hardware they give, letter for
//! letter, what the component of 2026-01-30 gave (24 combinations, 8 commands); NVIDIA hardware and NVFP4
//! came later. Its oddities are kept: the environment variable on AMD only, and `NVFP` without its 4.

use clap::ValueEnum;

/// Where the model is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "names of devices")]
pub enum Platform {
    Mi300x,
    Mi325x,
    Mi355x,
    B200,
    Gb200,
}

/// Which of the two models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Size {
    /// Qwen3-Coder-480B-A35B.
    #[value(name = "480b")]
    B480,
    /// Qwen3-Coder-30B-A3B.
    #[value(name = "30b")]
    B30,
}

/// How the weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "names of formats")]
pub enum Quantization {
    Bf16,
    Fp8,
    Nvfp4,
}

/// Whether tool calls are parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "the words say it")]
pub enum Tools {
    Disabled,
    Enabled,
}

/// One combination of choices. The first of each option is its default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// Where it runs.
    pub platform: Platform,
    /// Which model.
    pub size: Size,
    /// How its weights are stored.
    pub quantization: Quantization,
    /// Whether tool calls are parsed.
    pub tools: Tools,
}

impl Platform {
    /// Its name as the page shows it.
    pub fn title(self) -> &'static str {
        match self {
            Platform::Mi300x => "MI300X",
            Platform::Mi325x => "MI325X",
            Platform::Mi355x => "MI355X",
            Platform::B200 => "B200",
            Platform::Gb200 => "GB200",
        }
    }

    fn is_nvidia(self) -> bool {
        matches!(self, Platform::B200 | Platform::Gb200)
    }
}

impl Size {
    /// The model's name on the hub, without its owner.
    pub fn model(self) -> &'static str {
        match self {
            Size::B480 => "Qwen3-Coder-480B-A35B-Instruct",
            Size::B30 => "Qwen3-Coder-30B-A3B-Instruct",
        }
    }
}

impl Recipe {
    /// What the page's box shows: a command, or a comment that says why there is none.
    pub fn output(self) -> String {
        self.refusal().unwrap_or_else(|| {
            let lines = if self.platform.is_nvidia() { self.nvidia() } else { self.amd() };
            lines.join(" \\\n  ")
        })
    }

    /// The first rule that is broken.
    fn refusal(self) -> Option<String> {
        let name = self.platform.title();
        let nvidia = self.platform.is_nvidia();
        match (self.size, self.quantization) {
            (Size::B30, _) if nvidia => {
                Some(format!("# Configuration not available: 30B model has not been verified on {name}."))
            }
            (_, Quantization::Nvfp4) if !nvidia => {
                Some("# NVFP4 quantization is only available on NVIDIA B200/GB200 hardware.".into())
            }
            (_, Quantization::Bf16) if nvidia => {
                Some(format!("# BF16 deployment on {name} has not been verified yet. Please use FP8 or NVFP4."))
            }
            _ => None,
        }
    }

    fn amd(self) -> Vec<String> {
        let fp8 = self.quantization == Quantization::Fp8;
        let mut lines = vec!["SGLANG_USE_AITER=0 python -m sglang.launch_server".into()];
        lines.push(format!("--model Qwen/{}{}", self.size.model(), if fp8 { "-FP8" } else { "" }));
        match self.size {
            Size::B480 => lines.push("--tp 8".into()),
            Size::B30 => lines.push("--tp 1".into()),
        }
        if fp8 && self.size == Size::B480 {
            lines.push("--ep 2".into());
        }
        lines.extend(self.parser());
        lines.extend(["--context-length 8192", "--page-size 32"].map(String::from));
        if fp8 {
            lines.push("--trust-remote-code".into());
        }
        lines
    }

    fn nvidia(self) -> Vec<String> {
        let model = self.size.model();
        let mut lines = vec!["python -m sglang.launch_server".to_owned()];
        if self.quantization == Quantization::Nvfp4 {
            lines.push(format!("--model nvidia/{model}-NVFP"));
            let flags = [
                "--tp 8",
                "--ep 1",
                "--enable-dp-attention",
                "--moe-runner-backend flashinfer_cutlass",
                "--quantization modelopt_fp4",
            ];
            lines.extend(flags.map(String::from));
        } else {
            lines.push(format!("--model Qwen/{model}-FP8"));
            lines.extend(["--tp 8", "--ep 2", "--moe-runner-backend triton"].map(String::from));
        }
        lines.extend(self.parser());
        lines
    }

    fn parser(self) -> Option<String> {
        (self.tools == Tools::Enabled).then(|| "--tool-call-parser qwen3_coder".into())
    }
}
