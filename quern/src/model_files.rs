//! [`ModelFiles`]: where a model's files are, and what is read from them before its weights.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use quern_model::{
    Checkpoint, CheckpointOptions, GenerationConfig, LoadError, ModelConfig,
    config::ConfigError,
    gguf::{GgufModel, GgufValue},
    json_file::{JsonFileError, MAX_CONFIG_BYTES},
    regular_file,
};
use quern_text::{ChatTemplate, TemplateError, Tokenizer, TokenizerError, Vocabulary, chat_template::read_source};
use serde_json::{Map, Value};

use crate::{
    config::LoadFormat,
    hub::{AnnouncedGguf, Fetched, Hub, HubError, HubOptions, HubRef, Opened, Wanted},
    local_model, shipped,
};

/// Where a model's files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelFiles {
    /// Inside this program.
    Shipped,
    /// In a directory.
    Directory(PathBuf),
    /// One file in llama.cpp's format, or the first of several.
    Gguf(PathBuf),
}

/// Where files are looked for.
#[derive(Clone, Debug)]
pub struct Source<'a> {
    /// A directory or hub id; `None`: the shipped model.
    pub path: Option<&'a str>,
    /// Branch, tag or commit on the hub.
    pub revision: Option<&'a str>,
    /// Where downloads are kept, if not in the usual cache.
    pub download_dir: Option<&'a Path>,
    /// Which files are needed.
    pub wanted: Wanted,
}

/// A model whose weights are not here yet: its configuration, and the headers of GGUF files.
pub struct Unfetched {
    /// The small files of its repository.
    files: ModelFiles,
    is_gguf: bool,
    gguf: Option<AnnouncedGguf>,
}

impl Unfetched {
    /// Whether the weights are in llama.cpp's format.
    pub fn is_gguf(&self) -> bool {
        self.is_gguf
    }

    /// Whether it is known how large its weights are, and in what encodings.
    pub fn knows_weights(&self) -> bool {
        !self.is_gguf || self.gguf.is_some()
    }

    /// Whether anything tells what network it is.
    fn is_described(&self) -> bool {
        self.gguf.is_some() || (self.files.has_config() && (!self.is_gguf || self.files.has_whole_config()))
    }

    /// Read the network, with weights that cannot be loaded; `overrides` are merged over its configuration.
    ///
    /// # Errors
    /// If it cannot be served.
    pub fn checkpoint(self, overrides: &Map<String, Value>) -> Result<Checkpoint, LoadError> {
        if let Some(gguf) = self.gguf {
            return Checkpoint::gguf(gguf?, overrides);
        }
        let mut overrides = overrides.clone();
        if self.is_gguf {
            // That of the weights that the files were made from.
            overrides.insert("quantization_config".into(), Value::Null);
        }
        self.files.checkpoint(LoadFormat::Dummy, &overrides)
    }
}

/// What is known of a model without downloading its weights.
pub enum LookedUp {
    /// Its files: all of them, or those that say how large its weights are.
    Here(ModelFiles),
    /// Headers of GGUF files that are not here.
    Announced(Box<Unfetched>),
}

impl LookedUp {
    /// Look a model up, fetching small files and headers alone.
    ///
    /// # Errors
    /// If there is no such model, or the hub cannot be reached.
    pub async fn find(source: &Source<'_>) -> Result<Self, HubError> {
        let on_hub = source.path.filter(|path| !Path::new(path).exists()).and_then(HubRef::parse);
        let Some(HubRef { repo, pick }) = on_hub else { return ModelFiles::locate(source).await.map(Self::Here) };
        let hub = source.hub()?;
        let opened = hub.open(&repo, source.revision).await?;
        let small = ModelFiles::without_weights(&opened);
        let choice = match hub.choose(&opened, pick.as_ref()).await {
            Ok(choice) if choice.is_gguf() => choice,
            // The configuration says it.
            Ok(_) | Err(HubError::NoWeights { .. }) => return Ok(Self::Here(small)),
            Err(error) => return Err(error),
        };
        if choice.is_here() {
            return Ok(Self::Here(hub.fetch_chosen(&opened, &choice).await?.into()));
        }
        Ok(match hub.announced_gguf(&opened, &choice).await? {
            Some(gguf) => Self::Announced(Box::new(Unfetched { files: small, is_gguf: true, gguf: Some(gguf) })),
            None => Self::Here(small),
        })
    }
}

impl Source<'_> {
    fn hub(&self) -> Result<Hub, HubError> {
        Hub::new(HubOptions::from_env(self.download_dir, |name| std::env::var(name).ok()))
    }
}

impl From<Fetched> for ModelFiles {
    fn from(model: Fetched) -> Self {
        match model {
            Fetched::Directory(dir) => Self::Directory(dir),
            Fetched::Gguf(file) => Self::Gguf(file),
        }
    }
}

impl ModelFiles {
    /// Find the files, downloading what is missing.
    ///
    /// # Errors
    /// If they are not there and cannot be downloaded.
    pub async fn locate(source: &Source<'_>) -> Result<Self, HubError> {
        Self::locate_judged(source, |_| Ok(())).await
    }

    /// The files of the tokenizer: those at `path`, or these. `source` is where these come from.
    ///
    /// # Errors
    /// If they are not there and cannot be downloaded.
    pub async fn with_tokenizer_at(&self, path: Option<&str>, source: &Source<'_>) -> Result<Self, HubError> {
        match path {
            None => Ok(self.clone()),
            path => Self::locate(&Source { path, wanted: Wanted::NoWeights, ..*source }).await,
        }
    }

    /// The same as [`locate`](Self::locate), but let `judge` see what is known of the weights before they are downloaded:
    /// what it refuses costs no download.
    ///
    /// # Errors
    /// As for [`locate`](Self::locate), or what `judge` refuses.
    pub async fn locate_judged<E: From<HubError>>(
        source: &Source<'_>,
        judge: impl FnOnce(Unfetched) -> Result<(), E>,
    ) -> Result<Self, E> {
        let Some(path) = source.path else { return Ok(Self::Shipped) };
        if Path::new(path).exists() {
            return Ok(local_model::find(Path::new(path))?.into());
        }
        let wanted = HubRef::parse(path).ok_or_else(|| HubError::NotAnId(path.to_owned()))?;
        Self::fetch_judged(&wanted, source, judge).await
    }

    /// The same for a model on the hub, whatever `source` says of its path.
    ///
    /// # Errors
    /// Those of the hub, and what `judge` refuses.
    pub async fn fetch_judged<E: From<HubError>>(
        HubRef { repo, pick }: &HubRef,
        source: &Source<'_>,
        judge: impl FnOnce(Unfetched) -> Result<(), E>,
    ) -> Result<Self, E> {
        let hub = source.hub()?;
        let opened = hub.open(repo, source.revision).await?;
        if source.wanted == Wanted::NoWeights {
            return Ok(Self::without_weights(&opened));
        }
        let small = Self::Directory(opened.dir().to_owned());
        let choice = hub.choose(&opened, pick.as_ref()).await?;
        if !choice.is_here() {
            let gguf = if choice.is_gguf() { hub.announced_gguf(&opened, &choice).await? } else { None };
            let unfetched = Unfetched { files: small, is_gguf: choice.is_gguf(), gguf };
            if unfetched.is_described() {
                judge(unfetched)?;
            }
        }
        Ok(hub.fetch_chosen(&opened, &choice).await?.into())
    }

    /// A tokenizer or a config may be in a GGUF file alone, which is taken if it is here.
    fn without_weights(opened: &Opened) -> Self {
        let small = Self::Directory(opened.dir().to_owned());
        if small.has_config() { small } else { local_model::find(opened.dir()).map_or(small, Self::from) }
    }

    fn has_config(&self) -> bool {
        self.dir().is_some_and(|dir| dir.join("config.json").exists())
    }

    /// Whether `config.json` describes a network: beside GGUF files it may say little more than a name.
    fn has_whole_config(&self) -> bool {
        let text = self.dir().and_then(|dir| regular_file::read(&dir.join("config.json"), MAX_CONFIG_BYTES).ok());
        let config: Option<Map<String, Value>> = text.and_then(|text| serde_json::from_slice(&text).ok());
        config.is_some_and(|config| ["architectures", "hidden_size"].iter().all(|field| config.contains_key(*field)))
    }

    /// The directory or file, unless they are inside this program.
    pub fn dir(&self) -> Option<&Path> {
        match self {
            Self::Shipped => None,
            Self::Directory(path) | Self::Gguf(path) => Some(path),
        }
    }

    /// Whether they are in llama.cpp's format.
    pub fn is_gguf(&self) -> bool {
        matches!(self, Self::Gguf(_))
    }

    /// Where they are, for messages.
    pub fn place(&self) -> String {
        self.dir().map_or_else(|| shipped::NAME.to_owned(), |dir| dir.display().to_string())
    }

    /// Read configuration and headers; `overrides` are merged over `config.json`.
    ///
    /// # Errors
    /// If a config or header is malformed or not supported.
    pub fn checkpoint(&self, load_format: LoadFormat, overrides: &Map<String, Value>) -> Result<Checkpoint, LoadError> {
        match self {
            Self::Shipped => {
                let config = embedded_object("config.json", shipped::CONFIG)?;
                let generation = embedded_object("generation_config.json", shipped::GENERATION_CONFIG)?;
                let (config, generation) =
                    (ModelConfig::overridden(config, overrides)?, GenerationConfig::from_json(&generation)?);
                match load_format {
                    LoadFormat::Safetensors | LoadFormat::Gguf => {
                        Checkpoint::embedded(shipped::NAME, config, generation, &shipped::weights())
                    }
                    LoadFormat::Dummy => Ok(Checkpoint::dummy(config, generation)),
                }
            }
            Self::Directory(dir) => {
                let weight_origin = match load_format {
                    LoadFormat::Safetensors | LoadFormat::Gguf => quern_model::WeightOrigin::Safetensors,
                    LoadFormat::Dummy => quern_model::WeightOrigin::Dummy,
                };
                let config_overrides = (!overrides.is_empty()).then(|| overrides.clone());
                Checkpoint::open(dir, &CheckpointOptions { weight_origin, config_overrides })
            }
            Self::Gguf(path) => {
                let model = GgufModel::open(path)?;
                if load_format == LoadFormat::Dummy {
                    let config = ModelConfig::overridden(model.config().clone(), overrides)?;
                    return Ok(Checkpoint::dummy(config, GenerationConfig::default()));
                }
                Checkpoint::gguf(model, overrides)
            }
        }
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// If there is none, or it is not supported.
    pub fn tokenizer(&self) -> Result<Tokenizer, TokenizerError> {
        match self {
            Self::Shipped => Tokenizer::from_bytes(shipped::TOKENIZER, Some(shipped::TOKENIZER_CONFIG)),
            Self::Directory(dir) => Tokenizer::from_dir(dir),
            Self::Gguf(path) => {
                let malformed =
                    |cause: LoadError| TokenizerError::Malformed { file: "header", cause: cause.to_string() };
                vocabulary(GgufModel::open(path).map_err(malformed)?.metadata()).tokenizer()
            }
        }
    }

    /// The chat template: that of `file`, or the one called `name`, or the tokenizer's usual one; `None` if
    /// there is none.
    ///
    /// # Errors
    /// If it cannot be read or compiled, or there is none of that name.
    pub fn chat_template(
        &self,
        tokenizer: &Tokenizer,
        file: Option<&Path>,
        name: Option<&str>,
    ) -> Result<Option<ChatTemplate>, TemplateError> {
        let from_source = |source: &str| {
            ChatTemplate::from_source(source, tokenizer.control_tokens(), &tokenizer.config().named_tokens).map(Some)
        };
        match (file, self) {
            (Some(file), _) => from_source(&read_source(file)?),
            (None, Self::Shipped) if name.is_none() => from_source(shipped::CHAT_TEMPLATE),
            (None, Self::Shipped) => Ok(None),
            (None, Self::Gguf(_)) => {
                let config = tokenizer.config();
                ChatTemplate::choose(&config.chat_templates, name, tokenizer.control_tokens(), &config.named_tokens)
            }
            (None, Self::Directory(dir)) => {
                ChatTemplate::from_dir(dir, name, tokenizer.config(), tokenizer.control_tokens())
            }
        }
    }
}

/// The tokenizer's lists out of a file's metadata.
fn vocabulary(metadata: &BTreeMap<String, GgufValue>) -> Vocabulary<'_> {
    let get = |name: &str| metadata.get(&format!("tokenizer.ggml.{name}"));
    let list = |name: &str| get(name).and_then(GgufValue::as_array).unwrap_or_default();
    let texts = |name: &str| list(name).iter().filter_map(GgufValue::as_str).collect();
    let text = |name: &str| get(name).and_then(GgufValue::as_str).unwrap_or_default();
    let id = |name: &str| get(name).and_then(GgufValue::as_u64);
    // `tokenizer.chat_template`, and `tokenizer.chat_template.NAME` of those that have one.
    let templates = metadata.iter().filter_map(|(key, value)| {
        let name = key.strip_prefix("tokenizer.chat_template")?;
        Some((if name.is_empty() { "default" } else { name.strip_prefix('.')? }, value))
    });
    Vocabulary {
        model: text("model"),
        pre: text("pre"),
        tokens: texts("tokens"),
        kinds: list("token_type").iter().filter_map(GgufValue::as_u64).collect(),
        merges: texts("merges"),
        eos: id("eos_token_id"),
        padding: id("padding_token_id"),
        chat_templates: templates.filter_map(|(name, value)| Some((name, value.as_str()?))).collect(),
    }
}

fn embedded_object(file: &str, bytes: &[u8]) -> Result<Map<String, Value>, ConfigError> {
    serde_json::from_slice(bytes).map_err(|cause| {
        let file = format!("{}/{file}", shipped::NAME);
        ConfigError::File(JsonFileError::Json { file, cause: cause.to_string() })
    })
}

#[cfg(test)]
mod tests {
    use quern_text::{ChatPrompt, Specials};

    use super::*;

    #[test]
    fn the_shipped_model_is_whole() {
        let files = ModelFiles::Shipped;
        let checkpoint = files.checkpoint(LoadFormat::Safetensors, &Map::new()).unwrap();
        let tokenizer = files.tokenizer().unwrap();
        assert!(!checkpoint.is_dummy());
        checkpoint.scan(1, &mut |_| {}).unwrap();
        assert_eq!(checkpoint.config().vocab_size, tokenizer.vocab_size());
        assert!(checkpoint.eos_token_ids().contains(&tokenizer.eos_id().unwrap()));
        let text = "fn main() {} // ½ 日本";
        assert_eq!(tokenizer.decode(&tokenizer.encode(text, Specials::Parse), false), text);
        let template = files.chat_template(&tokenizer, None, None).unwrap().unwrap();
        let prompt = ChatPrompt {
            messages: vec![serde_json::json!({"role": "user", "content": "Hello"})],
            tools: None,
            add_generation_prompt: true,
            kwargs: Map::new(),
        };
        let ids = tokenizer.encode_rendered(&template.render(&prompt).unwrap());
        assert_eq!(tokenizer.decode(&ids, false), "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n");
    }

    #[test]
    fn overrides_reach_the_shipped_model() {
        let overrides = serde_json::from_str(r#"{"max_position_embeddings": 77}"#).unwrap();
        let checkpoint = ModelFiles::Shipped.checkpoint(LoadFormat::Safetensors, &overrides).unwrap();
        assert_eq!(checkpoint.config().max_position_embeddings, 77);
    }

    #[test]
    fn the_shipped_model_has_random_weights_where_these_are_asked_for() {
        assert!(ModelFiles::Shipped.checkpoint(LoadFormat::Dummy, &Map::new()).unwrap().is_dummy());
    }

    #[tokio::test]
    async fn what_is_no_directory_and_no_id_is_refused() {
        let locate = async |path: &str| {
            let source = Source { path: Some(path), revision: None, download_dir: None, wanted: Wanted::Everything };
            ModelFiles::locate(&source).await
        };
        assert!(matches!(locate("./no/such/model").await, Err(HubError::NotAnId(_))));
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(locate(file.path().to_str().unwrap()).await, Err(HubError::IsAFile(_))));
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(locate(dir.path().to_str().unwrap()).await.unwrap(), ModelFiles::Directory(dir.path().to_owned()));
    }
}
