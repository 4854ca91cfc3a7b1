//! What the shipped model makes of forms: prompts and schemas of a seeded generator of its own, none of them
//! seen in training. Constrained answers should be complete and valid, and a required call should come.
//!
//! Mostly ignored: a measurement of the model, which now and then fills a string until its limit. At the last sitting
//! (512 tokens) 39 of 40 answers under a schema, 38 of 40 objects and 39 of 40 calls were complete where it chose
//! the likeliest token; 37, 39 and 40 at random.

use crate::process::{Server, quern};
use quern_backend::conformance::Rng;
use serde_json::{Map, Value, json};

/// Prompts of each kind.
const PROMPTS: u64 = 40;

/// Complete and valid answers wanted among them.
const LEAST_VALID: usize = 38;

/// The shipped model on a free port, and who asks it.
struct Asked {
    server: Server,
    client: reqwest::Client,
}

impl Asked {
    fn start() -> Self {
        let server = Server::start(quern(&["serve", "--port", "0", "--max-total-tokens", "16384"]));
        Self { server, client: reqwest::Client::builder().no_proxy().build().unwrap() }
    }

    async fn chat(&self, body: &Value) -> Value {
        let url = format!("http://{}/v1/chat/completions", self.server.address);
        let answer = self.client.post(url).json(body).send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert_eq!(status, 200, "{body}: {text}");
        serde_json::from_str(&text).unwrap()
    }
}

/// Prompts and schemas that depend on a seed alone.
struct Dice(Rng);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0.below(sides)
    }

    fn one_of<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.roll(words.len())]
    }

    /// A schema of a value, at most `depth` levels of objects deep.
    fn value(&mut self, depth: usize) -> Value {
        match self.roll(if depth > 0 { 9 } else { 7 }) {
            0 => json!({"type": "string"}),
            1 => json!({"type": "integer"}),
            2 => json!({"type": "number"}),
            3 => json!({"type": "boolean"}),
            4 => json!({"enum": [self.one_of(&["low", "red", "draft"]), self.one_of(&["high", "blue", "final"])]}),
            5 => json!({"type": ["integer", "null"], "minimum": 0}),
            6 => {
                json!({"type": "array", "items": {"type": self.one_of(&["string", "integer", "boolean"])}, "maxItems": 3})
            }
            7 => json!({"type": "array", "items": self.object(2, depth - 1), "minItems": 1, "maxItems": 2}),
            _ => self.object(3, depth - 1),
        }
    }

    /// A schema of an object of at most `most` properties, some of them optional.
    fn object(&mut self, most: usize, depth: usize) -> Value {
        const NAMES: [&str; 12] =
            ["title", "count", "owner", "price", "tags", "active", "level", "note", "size", "items", "city", "score"];
        let mut properties = Map::new();
        for _ in 0..=self.roll(most) {
            let name = self.one_of(&NAMES);
            let value = self.value(depth);
            properties.insert(name.into(), value);
        }
        let required: Vec<&String> = properties.keys().filter(|_| self.roll(4) > 0).collect();
        json!({"type": "object", "required": required, "additionalProperties": false, "properties": properties})
    }

    fn prompt(&mut self) -> String {
        let thing =
            self.one_of(&["a book", "the sky", "a train from Lyon", "our garden", "a cup of tea", "this invoice"]);
        match self.roll(5) {
            0 => format!("Describe {thing} as JSON."),
            1 => format!("Give me the facts about {thing}."),
            2 => format!("Fill in the record for {thing}, please."),
            3 => "hi".into(),
            _ => format!("What do you know of {thing}? Answer in the given form."),
        }
    }
}

/// Ways to choose tokens: the likeliest one, the model's own defaults, and at random.
fn ways() -> [Value; 3] {
    [json!({"temperature": 0}), json!({}), json!({"temperature": 0.7, "top_k": 20, "seed": 5})]
}

fn with(body: &Value, more: &Value) -> Value {
    let mut body = body.clone();
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures the shipped model, which runs away inside of strings"]
async fn answers_of_a_form_are_complete_and_valid() {
    let server = Asked::start();
    for way in ways() {
        let (mut valid, mut objects, mut wrong) = (0, 0, Vec::new());
        for seed in 0..PROMPTS {
            let mut dice = Dice(Rng(seed));
            let (prompt, schema) = (dice.prompt(), dice.object(6, 2));
            let ask = json!({"messages": [{"role": "user", "content": prompt}], "max_tokens": 512});
            let form =
                json!({"response_format": {"type": "json_schema", "json_schema": {"name": "form", "schema": schema}}});
            let answer = server.chat(&with(&with(&ask, &form), &way)).await;
            let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
            match serde_json::from_str::<Value>(text) {
                Ok(value) => {
                    assert!(jsonschema::is_valid(&schema, &value), "seed {seed}: {text} under {schema}");
                    valid += 1;
                }
                Err(_) => wrong.push(format!("seed {seed}: {schema}: {text:?}")),
            }
            let any = with(&ask, &json!({"response_format": {"type": "json_object"}}));
            let answer = server.chat(&with(&any, &way)).await;
            let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
            match serde_json::from_str::<Value>(text) {
                Ok(value) => objects += usize::from(value.is_object()),
                Err(_) => wrong.push(format!("seed {seed}: json_object: {text:?}")),
            }
        }
        println!("{way}: {valid} of {PROMPTS} under a schema, {objects} of {PROMPTS} objects");
        wrong.iter().for_each(|line| println!("  {line}"));
        assert!(valid >= LEAST_VALID && objects >= LEAST_VALID, "{way}: {wrong:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures the shipped model, which runs away inside of strings"]
async fn a_required_call_is_made() {
    let server = Asked::start();
    for way in ways() {
        let mut called = 0;
        for seed in 0..PROMPTS {
            let mut dice = Dice(Rng(1000 + seed));
            let prompt = dice.prompt();
            let tools: Vec<Value> = ["look_up", "store", "send_mail"][..=dice.roll(3)]
                .iter()
                .map(|name| {
                    let parameters = dice.object(3, 0);
                    json!({"type": "function", "function": {"name": name, "description": "A tool", "parameters": parameters}})
                })
                .collect();
            let ask = json!({"messages": [{"role": "user", "content": prompt}], "tools": tools, "max_tokens": 512,
                "tool_choice": "required", "parallel_tool_calls": seed % 2 == 0});
            let answer = server.chat(&with(&ask, &way)).await;
            let calls = answer["choices"][0]["message"]["tool_calls"].as_array();
            let complete = calls.is_some_and(|calls| {
                calls.iter().any(|call| {
                    let arguments = call["function"]["arguments"].as_str().unwrap_or_default();
                    serde_json::from_str::<Value>(arguments).is_ok_and(|value| value.is_object())
                })
            });
            if !complete {
                println!("  seed {seed}: {answer}");
            }
            called += usize::from(complete);
        }
        println!("{way}: a call on {called} of {PROMPTS}");
        assert_eq!(called as u64, PROMPTS, "{way}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_must_call_holds_nothing_else() {
    let server = Asked::start();
    let parameters = json!({"type": "object", "properties": {"count": {"type": "integer"}}, "required": ["count"]});
    let tool = json!({"type": "function", "function": {"name": "look_up", "parameters": parameters}});
    let mut ended = 0;
    for seed in 0..8 {
        let ask = json!({"messages": [{"role": "user", "content": "hi"}], "tools": [tool], "max_tokens": 256,
            "tool_choice": "required", "temperature": 1.0, "seed": seed});
        let choice = server.chat(&ask).await["choices"][0].clone();
        let text = choice["message"]["content"].as_str().unwrap_or_default();
        assert_eq!(text, "", "seed {seed}: {choice}");
        ended += usize::from(choice["finish_reason"] == "tool_calls");
    }
    assert!(ended > 0, "no answer came to its end");
}
