// The request of a conversation, as sent and as one would type it.
import type { Conversation, Message, Settings } from "./types";

export interface ChatBody {
  model: string;
  messages: unknown[];
  [field: string]: unknown;
}

const NUMBERS: readonly [keyof Settings, string][] = [
  ["temperature", "temperature"],
  ["topP", "top_p"],
  ["topK", "top_k"],
  ["repetitionPenalty", "repetition_penalty"],
  ["maxTokens", "max_tokens"],
  ["seed", "seed"],
];

/** Only what was filled in; the rest is left to the model's own defaults. */
export function sampling(settings: Settings): Record<string, number> {
  const out: Record<string, number> = {};
  for (const [field, name] of NUMBERS) {
    const text = settings[field].trim();
    if (text !== "" && !Number.isNaN(Number(text))) out[name] = Number(text);
  }
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

function wire(message: Message): unknown {
  switch (message.role) {
    case "user":
      return { role: "user", content: message.content };
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

export function chatBody({ settings, messages }: Conversation): ChatBody {
  const system = settings.system.trim() ? [{ role: "system", content: settings.system }] : [];
  const { tools } = parseTools(settings.tools);
  return {
    model: "default",
    messages: [...system, ...messages.filter(isSaid).map(wire)],
    ...sampling(settings),
    ...(tools.length > 0 && { tools }),
  };
}

/** Where the API is, seen from outside. */
export function apiBase(): string {
  return new URL("./v1", location.href).href;
}

export function asCurl(path: string, body: unknown): string {
  const json = JSON.stringify(body, null, 2).replaceAll("'", "'\\''");
  return `curl -N ${apiBase()}/${path} \\\n  -H 'Content-Type: application/json' \\\n` +
    `  -H "Authorization: Bearer $QUERN_API_KEY" \\\n  -d '${json}'`;
}

/** With the OpenAI SDK; fields that it does not know go into `extra_body`. */
export function asPython(method: string, body: Record<string, unknown>): string {
  const { top_k, repetition_penalty, ...known } = body;
  const extra = { ...(top_k !== undefined && { top_k }), ...(repetition_penalty !== undefined && { repetition_penalty }) };
  const fields = Object.entries(known).map(([name, value]) => `    ${name}=${python(value)},\n`);
  if (Object.keys(extra).length > 0) fields.push(`    extra_body=${python(extra)},\n`);
  return `import os\n\nfrom openai import OpenAI\n\n` +
    `client = OpenAI(base_url="${apiBase()}", api_key=os.environ.get("QUERN_API_KEY", "EMPTY"))\n` +
    `answer = client.${method}.create(\n${fields.join("")})\nprint(answer.choices[0])\n`;
}

/** A value of JSON as Python writes it. */
function python(value: unknown): string {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (typeof value === "object") {
    return `{${Object.entries(value).map(([key, each]) => `${JSON.stringify(key)}: ${python(each)}`).join(", ")}}`;
  }
  return JSON.stringify(value);
}
