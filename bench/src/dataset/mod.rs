//! [`DatasetArgs`]: what is asked, from a published set, a file of the user's or out of thin air.

mod agent;
mod lengths;
mod openai;
mod random;
mod shared_prefix;
mod sharegpt;

use clap::{Args, ValueEnum};

use crate::{
    backend::{Backend, Protocol},
    error::BenchError,
    random::{NumpyRandom, PythonRandom},
    request::Session,
    tokens::Tokens,
};

/// Where requests come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DatasetName {
    /// Conversations of people with ChatGPT, at their own lengths
    Sharegpt,
    /// Lines of `{"conversations":[{"content":…},{"content":…}]}` from --dataset-path
    Custom,
    /// Lines of chat requests (`messages`, `tools`, …) from --dataset-path
    Openai,
    /// Texts of ShareGPT, repeated or cut to random lengths
    Random,
    /// Random tokens at random lengths; needs no file
    RandomIds,
    /// Groups of questions after one long prompt each
    GeneratedSharedPrefix,
    /// Coding agents: conversations with tools that grow turn by turn
    Agent,
}

/// Flags that shape the requests.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Requests")]
pub struct DatasetArgs {
    /// Where requests come from
    #[arg(long, value_enum, default_value = "sharegpt")]
    pub dataset_name: DatasetName,
    /// Its file [default: a copy of the published one, fetched once]
    #[arg(long, default_value = "", value_name = "FILE", hide_default_value = true)]
    pub dataset_path: String,
    /// Most tokens of a prompt, of `random` and `random-ids`
    #[arg(long, default_value_t = 1024, value_name = "TOKENS")]
    pub random_input_len: usize,
    /// Most tokens to generate, of `random` and `random-ids`
    #[arg(long, default_value_t = 1024, value_name = "TOKENS")]
    pub random_output_len: usize,
    /// Shortest length as a fraction of the longest
    #[arg(long, default_value_t = 0.0, value_name = "FRACTION", allow_negative_numbers = true)]
    pub random_range_ratio: f64,
    /// Tokens to generate, of `sharegpt`, `custom` and `openai` [default: as many as the original answer]
    #[arg(long, value_name = "TOKENS")]
    pub sharegpt_output_len: Option<usize>,
    /// Leave out what is longer, prompt and answer together
    #[arg(long, value_name = "TOKENS")]
    pub sharegpt_context_len: Option<usize>,
    /// Put after each prompt of `sharegpt` and `custom`
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
    pub prompt_suffix: String,
    /// Send token ids instead of text (`random` and `random-ids` by --backend sglang)
    #[arg(long)]
    pub tokenize_prompt: bool,
    /// Groups of `generated-shared-prefix`
    #[arg(long, default_value_t = 64, value_name = "COUNT")]
    pub gsp_num_groups: usize,
    /// Prompts in each group
    #[arg(long, default_value_t = 16, value_name = "COUNT")]
    pub gsp_prompts_per_group: usize,
    /// Tokens that a group shares
    #[arg(long, default_value_t = 2048, value_name = "TOKENS")]
    pub gsp_system_prompt_len: usize,
    /// Tokens of each question
    #[arg(long, default_value_t = 128, value_name = "TOKENS")]
    pub gsp_question_len: usize,
    /// Tokens to generate after each
    #[arg(long, default_value_t = 256, value_name = "TOKENS")]
    pub gsp_output_len: usize,
    /// Shortest length as a fraction of the longest
    #[arg(long, default_value_t = 1.0, value_name = "FRACTION", allow_negative_numbers = true)]
    pub gsp_range_ratio: f64,
    /// Questions one after the other in a conversation (chat backends)
    #[arg(long, default_value_t = 1, value_name = "COUNT")]
    pub gsp_num_turns: usize,
    /// Keep the groups together
    #[arg(long)]
    pub gsp_ordered: bool,
    /// Tell routers which group a request belongs to
    #[arg(long)]
    pub gsp_send_routing_key: bool,
    /// Requests of each session of `agent`
    #[arg(long, default_value_t = 8, value_name = "COUNT")]
    pub agent_turns: usize,
    /// Words of the instructions that all sessions share
    #[arg(long, default_value_t = 1500, value_name = "WORDS")]
    pub agent_system_len: usize,
    /// Words of each tool's result, at the mean
    #[arg(long, default_value_t = 300, value_name = "WORDS")]
    pub agent_result_len: usize,
    /// Tokens to generate in each turn
    #[arg(long, default_value_t = 128, value_name = "TOKENS")]
    pub agent_output_len: usize,
}

/// The generators of a run, in the state that earlier draws left them in.
pub struct Generators {
    /// Of lengths, offsets and gaps.
    pub numpy: NumpyRandom,
    /// Of order and texts.
    pub python: PythonRandom,
}

impl Generators {
    /// Both seeded by `seed`.
    pub fn new(seed: u32) -> Self {
        Self { numpy: NumpyRandom::new(seed), python: PythonRandom::new(u64::from(seed)) }
    }
}

/// What is asked in a run.
#[derive(Debug)]
pub struct Dataset {
    /// In the order of sending.
    pub sessions: Vec<Session>,
    /// What differs from what the dataset's name promises.
    pub differs: Option<String>,
}

impl Dataset {
    /// Tokens of all prompts, as far as the dataset counts them.
    pub fn input_tokens(&self) -> usize {
        self.turns().filter_map(|turn| turn.prompt_len).sum()
    }

    /// Tokens that all answers together have when none ends early.
    pub fn output_tokens(&self) -> usize {
        self.turns().map(|turn| turn.output_len).sum()
    }

    fn turns(&self) -> impl Iterator<Item = &crate::request::Request> {
        self.sessions.iter().flat_map(|session| &session.turns)
    }
}

impl DatasetArgs {
    /// The name on the command line and in results.
    pub fn name(&self) -> String {
        self.dataset_name.to_possible_value().expect("no dataset is skipped").get_name().to_owned()
    }

    /// Whether lengths are those of `random`, which results carry in their file's name.
    pub fn is_random(&self) -> bool {
        matches!(self.dataset_name, DatasetName::Random | DatasetName::RandomIds)
    }

    /// Refuse what cannot go together.
    ///
    /// # Errors
    /// With what could be done instead.
    pub fn check(&self, backend: Backend) -> Result<(), BenchError> {
        let refuse = |text: &str| Err(BenchError::Arguments(text.into()));
        let chats = backend.protocol() == Protocol::Chat;
        if self.tokenize_prompt && (backend != Backend::Sglang || !self.is_random()) {
            return refuse("--tokenize-prompt needs --backend sglang and --dataset-name random or random-ids");
        }
        if matches!(self.dataset_name, DatasetName::Openai | DatasetName::Agent) && !chats {
            return refuse("this dataset is made of conversations; choose a chat backend, such as sglang-oai-chat");
        }
        if matches!(self.dataset_name, DatasetName::Custom | DatasetName::Openai) && self.dataset_path.is_empty() {
            return refuse(&format!(
                "--dataset-name {} reads a file of yours; name it with --dataset-path",
                self.name()
            ));
        }
        if self.gsp_num_turns > 1 && self.dataset_name == DatasetName::GeneratedSharedPrefix && !chats {
            return refuse("--gsp-num-turns needs a chat backend, such as sglang-oai-chat");
        }
        if self.sharegpt_output_len.is_some_and(|length| length < 4) {
            return refuse("--sharegpt-output-len is at least 4");
        }
        for (flag, ratio) in
            [("--random-range-ratio", self.random_range_ratio), ("--gsp-range-ratio", self.gsp_range_ratio)]
        {
            if !(0.0..=1.0).contains(&ratio) {
                return refuse(&format!("{flag} {ratio}: a fraction from 0 to 1"));
            }
        }
        Ok(())
    }

    /// `count` sessions of the dataset (fewer where its file has fewer).
    ///
    /// # Errors
    /// If its file cannot be had or read, or if the tokenizer does not answer.
    pub async fn load(
        &self,
        count: usize,
        tokens: &Tokens,
        generators: &mut Generators,
    ) -> Result<Dataset, BenchError> {
        match self.dataset_name {
            DatasetName::Random => random::from_texts(self, count, tokens, generators).await,
            DatasetName::RandomIds => random::from_ids(self, count, tokens, generators).await,
            DatasetName::Sharegpt => sharegpt::load(self, count, tokens, generators).await,
            DatasetName::Custom => sharegpt::load_custom(self, count, tokens, generators).await,
            DatasetName::Openai => openai::load(self, count),
            DatasetName::GeneratedSharedPrefix => shared_prefix::load(self, tokens, generators).await,
            DatasetName::Agent => Ok(agent::load(self, count, generators)),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::serving::tests_args;

    #[test]
    fn what_cannot_go_together_is_refused_with_what_can() {
        let refusal = |words: &[&str]| {
            let args = tests_args(words);
            args.dataset.check(args.backend).map_err(|error| error.to_string())
        };
        let custom = refusal(&["--dataset-name", "custom"]).expect_err("refused");
        assert_eq!(custom, "--dataset-name custom reads a file of yours; name it with --dataset-path");
        assert!(refusal(&["--dataset-name", "agent"]).expect_err("refused").contains("sglang-oai-chat"));
        assert!(refusal(&["--tokenize-prompt"]).expect_err("refused").contains("random-ids"));
        let ratio = refusal(&["--random-range-ratio", "-0.5"]).expect_err("refused");
        assert_eq!(ratio, "--random-range-ratio -0.5: a fraction from 0 to 1");
        assert_eq!(refusal(&["--backend", "sglang-oai-chat", "--dataset-name", "agent"]), Ok(()));
    }
}
