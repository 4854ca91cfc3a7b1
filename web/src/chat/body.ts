// The request of a conversation: what is posted, and what "As code" shows.
import type { Conversation, Message, Settings, UserMessage } from "./types";

/** A body as it is posted. */
export type RequestBody = Record<string, unknown>;

const NUMBERS: readonly [keyof Settings, string][] = [
  ["temperature", "temperature"],
  ["topP", "top_p"],
  ["topK", "top_k"],
  ["minP", "min_p"],
  ["repetitionPenalty", "repetition_penalty"],
  ["presencePenalty", "presence_penalty"],
  ["frequencyPenalty", "frequency_penalty"],
  ["maxTokens", "max_tokens"],
  ["seed", "seed"],
];

/** Every request of the page streams, and asks what it cost. */
const STREAMED = { stream: true, stream_options: { include_usage: true } };

/** Only what was filled in; the rest is left to the model's own defaults. */
function sampling(settings: Settings): RequestBody {
  const out: RequestBody = {};
  for (const [field, name] of NUMBERS) {
    const text = settings[field].trim();
    if (text !== "" && !Number.isNaN(Number(text))) out[name] = Number(text);
  }
  const stop = settings.stop.split("\n").filter((line) => line !== "");
  if (stop.length > 0) out["stop"] = stop;
  return out;
}

/** The tools of the settings, or why they are none. Bare function schemas are wrapped. */
export function parseTools(text: string): { tools: unknown[]; error?: string } {
  if (text.trim() === "") return { tools: [] };
  try {
    const parsed: unknown = JSON.parse(text);
    const list: unknown[] = Array.isArray(parsed) ? parsed : [parsed];
    const tools = list.map((tool) =>
      tool && typeof tool === "object" && "function" in tool ? tool : { type: "function", function: tool });
    return { tools };
  } catch (error) {
    return { tools: [], error: error instanceof Error ? error.message : String(error) };
  }
}

/** The schema of the settings, or why it is none. */
export function parseSchema(text: string): { schema?: object; error?: string } {
  if (text.trim() === "") return {};
  try {
    const schema: unknown = JSON.parse(text);
    if (schema && typeof schema === "object" && !Array.isArray(schema)) return { schema };
    return { error: "a schema is an object" };
  } catch (error) {
    return { error: error instanceof Error ? error.message : String(error) };
  }
}

/** A message's words with its files, each in a fence longer than any inside it. */
export function wordsOf({ content, files = [] }: UserMessage): string {
  const fenced = files.map(({ name, text }) => {
    const longest = Math.max(2, ...Array.from(text.matchAll(/`+/g), ([ticks]) => ticks.length));
    const fence = "`".repeat(longest + 1);
    return `${name}:\n${fence}\n${text.replace(/\n$/, "")}\n${fence}`;
  });
  return [...fenced, ...(content === "" ? [] : [content])].join("\n\n");
}

function wire(message: Message): unknown {
  switch (message.role) {
    case "user":
      return { role: "user", content: wordsOf(message) };
    case "tool":
      return { role: "tool", tool_call_id: message.callId, content: message.content };
    case "assistant": {
      const calls = message.calls.map((call) => ({
        id: call.id, type: "function", function: { name: call.name, arguments: call.arguments },
      }));
      return { role: "assistant", content: message.content, ...(calls.length > 0 && { tool_calls: calls }) };
    }
  }
}

/** An answer that failed before its first word is not part of the conversation. */
function isSaid(message: Message): boolean {
  return message.role !== "assistant" || message.content !== "" || message.calls.length > 0;
}

export function chatBody(settings: Settings, messages: readonly Message[]): RequestBody {
  const system = settings.system.trim() ? [{ role: "system", content: settings.system }] : [];
  const { tools } = parseTools(settings.tools);
  const { schema } = parseSchema(settings.schema);
  return {
    model: "default",
    messages: [...system, ...messages.filter(isSaid).map(wire)],
    ...sampling(settings),
    ...(tools.length > 0 && { tools }),
    ...(schema && { response_format: { type: "json_schema", json_schema: { name: "answer", schema } } }),
    ...STREAMED,
  };
}

/** The request that was answered by the message at `index`. */
export function bodyOfAnswer({ settings, messages }: Conversation, index: number): RequestBody {
  const answer = messages[index];
  return chatBody((answer?.role === "assistant" && answer.settings) || settings, messages.slice(0, index));
}

/**
 * The request that sending `draft` makes; without a draft the last one that was sent, so that a copy of it asks
 * the same and does not continue the answer.
 */
export function currentBody(conversation: Conversation, draft: UserMessage): RequestBody {
  const { settings, messages } = conversation;
  if (wordsOf(draft).trim() !== "") return chatBody(settings, [...messages, draft]);
  const last = messages.length - 1;
  return messages[last]?.role === "assistant" ? bodyOfAnswer(conversation, last) : chatBody(settings, messages);
}

/** Of `/v1/completions`: what comes between `prompt` and `suffix`. */
export function fillBody(settings: Settings, prompt: string, suffix: string, maxTokens: number): RequestBody {
  return { model: "default", prompt, suffix, max_tokens: maxTokens, ...sampling(settings), ...STREAMED };
}
