// The JavaScript SDKs of OpenAI and Anthropic: node sdks.mjs BASE_URL, where they are installed.
//
// The server answers everything with one call of `read_file` after "Let me look."

import assert from "node:assert/strict";
import { createRequire } from "node:module";

const require = createRequire(process.cwd() + "/");
const { default: OpenAI } = require("openai");
const { default: Anthropic } = require("@anthropic-ai/sdk");

const base = process.argv[2];
const parameters = {
  type: "object",
  properties: { path: { type: "string" }, lines: { type: "integer" } },
};
const wanted = { path: '/tmp/a "b".txt', lines: 12 };
const messages = [{ role: "user", content: "Read it" }];

const openai = new OpenAI({ baseURL: base + "/v1", apiKey: "EMPTY", maxRetries: 0 });
const functions = [{ type: "function", function: { name: "read_file", parameters } }];
const chat = await openai.chat.completions.stream({ model: "m", messages, tools: functions }).finalChatCompletion();
assert.deepEqual(JSON.parse(chat.choices[0].message.tool_calls[0].function.arguments), wanted);
const tools = [{ type: "function", name: "read_file", parameters, strict: false }];
const response = await openai.responses.stream({ model: "m", input: "Read it", tools }).finalResponse();
assert.equal(response.status, "completed");
assert.deepEqual(JSON.parse(response.output[1].arguments), wanted);

const anthropic = new Anthropic({ baseURL: base, apiKey: "EMPTY", maxRetries: 0 });
const ask = { model: "m", max_tokens: 500, messages, tools: [{ name: "read_file", input_schema: parameters }] };
const message = await anthropic.messages.stream(ask).finalMessage();
assert.equal(message.stop_reason, "tool_use");
assert.deepEqual(message.content[1].input, wanted);
assert.ok((await anthropic.messages.countTokens({ model: "m", messages })).input_tokens > 0);

console.log("passed: openai and @anthropic-ai/sdk in JavaScript");
