// A request as one would type it: for a shell, and for the OpenAI SDK.
import type { RequestBody } from "./body";

/** The API's endpoints that the page uses, by their path below `/v1`. */
export type Endpoint = "chat/completions" | "completions";

/** Fields that the SDK does not know; they go into `extra_body`. */
const EXTRA = new Set(["top_k", "min_p", "repetition_penalty"]);

/** Where the API is, seen from outside. */
function apiBase(): string {
  return new URL("./v1", location.href).href;
}

export function asCurl(endpoint: Endpoint, body: RequestBody): string {
  const json = JSON.stringify(body, null, 2).replaceAll("'", "'\\''");
  return `curl -N ${apiBase()}/${endpoint} \\\n  -H 'Content-Type: application/json' \\\n` +
    `  -H "Authorization: Bearer $QUERN_API_KEY" \\\n  -d '${json}'`;
}

/** Prints the answer as it arrives, as the page does. */
export function asPython(endpoint: Endpoint, body: RequestBody): string {
  const chat = endpoint === "chat/completions";
  const fields = Object.entries(body).filter(([name]) => !EXTRA.has(name));
  const extra = Object.fromEntries(Object.entries(body).filter(([name]) => EXTRA.has(name)));
  const lines = fields.map(([name, value]) => `    ${name}=${python(value, 1)},\n`);
  if (Object.keys(extra).length > 0) lines.push(`    extra_body=${python(extra, 1)},\n`);
  const text = chat ? "choice.delta.content" : "choice.text";
  const calls = "        for call in choice.delta.tool_calls or []:\n" +
    "            print(call.function.name or \"\", call.function.arguments or \"\", end=\"\", flush=True)\n";
  return `import os\n\nfrom openai import OpenAI\n\n` +
    `client = OpenAI(base_url="${apiBase()}", api_key=os.environ.get("QUERN_API_KEY", "EMPTY"))\n` +
    `answer = client.${endpoint.replace("/", ".")}.create(\n${lines.join("")})\n` +
    `for chunk in answer:\n    for choice in chunk.choices:\n        print(${text} or "", end="", flush=True)\n` +
    `${chat && "tools" in body ? calls : ""}print()\n`;
}

/** Lists and objects longer than this are written over several lines. */
const WIDTH = 88;

/** A value of JSON as Python writes it, inside `depth` levels of four spaces. */
function python(value: unknown, depth: number): string {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const list = Array.isArray(value);
  const parts = list
    ? value.map((each) => python(each, depth + 1))
    : Object.entries(value).map(([key, each]) => `${JSON.stringify(key)}: ${python(each, depth + 1)}`);
  const [open, close] = list ? ["[", "]"] : ["{", "}"];
  const line = `${open}${parts.join(", ")}${close}`;
  if (line.length <= WIDTH && !line.includes("\n")) return line;
  const [outer, inner] = ["    ".repeat(depth), "    ".repeat(depth + 1)];
  return `${open}\n${parts.map((part) => `${inner}${part},\n`).join("")}${outer}${close}`;
}
