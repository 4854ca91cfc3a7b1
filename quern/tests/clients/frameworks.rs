//! Frameworks and SDKs that are driven by scripts of `tests/clients`, which ask what `scene.py` there says: of the shipped
//! model, and of one that answers as a large one would, so that calls and structured answers are the right ones.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{Demo, call, installed, roomy, run_script, support::Server};

/// What `scene.py` and `ai_sdk.mjs` ask, and what comes of it.
const HELLO: &str = "Hello! What can I do for you?";
const WEATHER: &str = "What is the weather in Paris?";
const SUNNY: &str = "It is sunny in Paris, with 18 degrees.";
const LIVES: &str = "Anna is 30 and lives in Kiel. Who is it?";

/// A model that knows the scene: it calls what is declared, and answers by what has come back.
fn answer(prompt: &str) -> String {
    let functions = functions(prompt);
    let has = |name: &str| functions.iter().any(|function| function["name"] == name);
    if let Some((_, since)) = prompt.rsplit_once(WEATHER) {
        return match since.contains("sunny") {
            // How smolagents' agents end.
            true if has("final_answer") => call("final_answer", &[("answer", SUNNY.into())]),
            true if prompt.contains("final_answer") => code(prompt, &format!("final_answer({SUNNY:?})")),
            true => SUNNY.into(),
            false if has("get_weather") => call("get_weather", &[("city", "Paris".into())]),
            false => code(prompt, "print(get_weather(city=\"Paris\"))"),
        };
    }
    if !prompt.contains(LIVES) {
        return HELLO.into();
    }
    // Frameworks make a function of a schema, under names of their own.
    let takes = |function: &&Value, name: &str| function["parameters"]["properties"].get(name).is_some();
    match functions.iter().find(|function| takes(function, "name") && takes(function, "age")) {
        Some(function) => {
            call(function["name"].as_str().expect("a name"), &[("name", "Anna".into()), ("age", "30".into())])
        }
        None => r#"{"name": "Anna", "age": 30}"#.into(),
    }
}

/// The functions that the model is told of, as its template declares them.
fn functions(prompt: &str) -> Vec<Value> {
    let (_, declared) = prompt.split_once("Functions that can be called:\n").unwrap_or_default();
    declared.lines().map_while(|line| serde_json::from_str(line).ok()).collect()
}

/// A step of an agent that acts by Python, in the form that its prompt asks for.
fn code(prompt: &str, code: &str) -> String {
    match prompt.contains("You will be generating a JSON object") {
        true => serde_json::json!({"thought": "I look.", "code": code}).to_string(),
        false => format!("Thought: I look.\n<code>\n{code}\n</code>"),
    }
}

/// A script against the shipped model.
async fn on_the_shipped_model(program: &Path, script: &str) {
    let demo = Demo::start().await;
    run_script(program, script, &[&demo.base]).await;
}

/// A script against the model that knows its scene.
async fn on_the_scripted_model(program: &Path, script: &str) {
    let server = Server::answering(answer, roomy(60_000)).await;
    run_script(program, script, &[&server.url(""), "scripted"]).await;
    server.is_clean().await;
}

/// The Python of a framework. Each has an environment of its own, `requirements/NAME.txt`: together their packages cannot
/// be installed.
fn python_with(name: &str) -> Option<PathBuf> {
    installed(&format!("venv-{name}/bin/python"))
}

/// A framework in Python against either model.
async fn framework(name: &str) {
    let Some(python) = python_with(name) else { return };
    let script = format!("{name}_client.py");
    on_the_shipped_model(&python, &script).await;
    on_the_scripted_model(&python, &script).await;
}

/// What measures a model or its server, against the shipped one.
async fn measurement(name: &str) {
    let Some(python) = python_with(name) else { return };
    on_the_shipped_model(&python, &format!("{name}_client.py")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn langchain() {
    framework("langchain").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn llama_index() {
    framework("llama_index").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pydantic_ai() {
    framework("pydantic_ai").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn instructor() {
    framework("instructor").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn litellm() {
    framework("litellm").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ollamas_sdk() {
    framework("ollama").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn smolagents() {
    framework("smolagents").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lm_eval() {
    measurement("lm_eval").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn guidellm() {
    measurement("guidellm").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vercels_and_ollamas_sdk_in_javascript() {
    let Some(_) = installed("node_modules/ai") else { return };
    on_the_shipped_model(Path::new("node"), "ai_sdk.mjs").await;
    on_the_scripted_model(Path::new("node"), "ai_sdk.mjs").await;
}
