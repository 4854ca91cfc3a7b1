// The arguments of a call as one reads them: texts of several lines as what they are, the rest as JSON.
import { languageOf } from "./markdown";

export interface Block {
  name: string;
  text: string;
  /** For colouring; empty if it is not known. */
  language: string;
}

export interface Arguments {
  /** What is short, as JSON; empty if there is nothing. */
  json: string;
  /** What is best read line by line. */
  blocks: Block[];
}

/** A single line longer than this is a block too. */
const LONG = 60;

/** Names of arguments that say what language they are in. */
const NAMES: Record<string, string> = { command: "bash", cmd: "bash", sql: "sql", query: "sql", diff: "diff", patch: "diff" };

export function readArguments(text: string): Arguments {
  const parsed = parse(text);
  // Not an object, or not JSON yet: as it is.
  if (!parsed) return { json: text, blocks: [] };
  const entries = Object.entries(parsed);
  const isBlock = ([, value]: [string, unknown]) => typeof value === "string" && (value.includes("\n") || value.length > LONG);
  const short = entries.filter((entry) => !isBlock(entry));
  const blocks = entries.filter(isBlock).map(([name, value]) => ({ name, text: String(value), language: languageFor(name, parsed) }));
  return { json: short.length > 0 || blocks.length === 0 ? JSON.stringify(Object.fromEntries(short), null, 2) : "", blocks };
}

function parse(text: string): Record<string, unknown> | undefined {
  try {
    const parsed: unknown = JSON.parse(text);
    return parsed && typeof parsed === "object" && !Array.isArray(parsed) ? (parsed as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}

/** From an argument beside it (a language, a path with an ending), else from its own name. */
function languageFor(name: string, all: Record<string, unknown>): string {
  const beside = Object.entries(all).filter((entry): entry is [string, string] => typeof entry[1] === "string");
  for (const [key, value] of beside) if (/lang/i.test(key) && languageOf(value)) return languageOf(value);
  for (const [key, value] of beside) {
    const ending = /\.(\w+)$/.exec(value)?.[1] ?? "";
    if (/path|file/i.test(key) && key !== name && languageOf(ending)) return languageOf(ending);
  }
  return NAMES[name.toLowerCase()] ?? (/code|source|program|script/i.test(name) ? "python" : "");
}
