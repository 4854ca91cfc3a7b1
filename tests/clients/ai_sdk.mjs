// Vercel's AI SDK by its OpenAI-compatible provider and OpenAI's own, and Ollama's SDK: node ai_sdk.mjs BASE_URL [scripted].
// What they ask is what scene.py says.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(process.cwd() + "/");
const load = async (name) => import(pathToFileURL(require.resolve(name)));
const { generateObject, generateText, stepCountIs, streamText, tool, Output } = await load("ai");
const { createOpenAICompatible } = await load("@ai-sdk/openai-compatible");
const { createOpenAI } = await load("@ai-sdk/openai");
const { Ollama } = await load("ollama");
const { z } = await load("zod");

const base = process.argv[2];
const hello = "Hello";
const weather = "What is the weather in Paris?";
const answer = "It is sunny in Paris, with 18 degrees.";
const lives = "Anna is 30 and lives in Kiel. Who is it?";
const person = z.object({ name: z.string(), age: z.number().int() });
const isPerson = (each) => {
  person.parse(each);
  if (process.argv[3] === "scripted") assert.deepEqual(each, { name: "Anna", age: 30 });
};
const tools = {
  get_weather: tool({
    description: "Get the weather in a city",
    inputSchema: z.object({ city: z.string().describe("Name of the city") }),
    execute: async ({ city }) => {
      assert.equal(city, "Paris");
      return { temperature: 18, condition: "sunny" };
    },
  }),
};

const compatible = createOpenAICompatible({ name: "quern", baseURL: base + "/v1", apiKey: "EMPTY", supportsStructuredOutputs: true });
const openai = createOpenAI({ baseURL: base + "/v1", apiKey: "EMPTY" });
const models = { compatible: compatible("m"), chat: openai.chat("m"), responses: openai.responses("m") };

for (const [name, model] of Object.entries(models)) {
  const ask = { model, maxRetries: 0 };
  assert.match((await generateText({ ...ask, prompt: hello })).text, /^Hello!/, name);
  assert.match(await streamText({ ...ask, prompt: hello }).text, /^Hello!/, name);
  const loop = { ...ask, prompt: weather, tools, stopWhen: stepCountIs(3) };
  assert.equal((await generateText(loop)).text.trim(), answer, name);
  assert.equal((await streamText(loop).text).trim(), answer, name);
  const required = await generateText({ ...ask, prompt: weather, tools, toolChoice: "required" });
  assert.equal(required.toolCalls[0].input.city, "Paris", name);
  isPerson((await generateObject({ ...ask, prompt: lives, schema: person })).object);
  // Tools and a schema together: a call, or an answer of the schema.
  const both = await generateText({ ...ask, prompt: lives, tools, output: Output.object({ schema: person }) });
  if (both.finishReason === "stop") isPerson(both.output);
  else assert.equal(both.finishReason, "tool-calls", name);
}

const ollama = new Ollama({ host: base });
const messages = [{ role: "user", content: hello }];
assert.match((await ollama.chat({ model: "m", messages })).message.content, /^Hello!/);
let said = "";
for await (const part of await ollama.chat({ model: "m", messages, stream: true })) said += part.message.content;
assert.match(said, /^Hello!/);
const format = z.toJSONSchema(person);
isPerson(JSON.parse((await ollama.chat({ model: "m", messages: [{ role: "user", content: lives }], format })).message.content));
assert.ok((await ollama.list()).models.length === 1 && (await ollama.ps()).models.length === 1);

console.log("passed: ai and ollama in JavaScript");
