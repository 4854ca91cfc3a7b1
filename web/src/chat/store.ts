// Conversations in this browser's storage, at most so many, the latest first; and in files.
import * as v from "valibot";

import type { Conversation, Settings } from "./types";

const KEY = "quern.conversations";
const MOST = 50;
/** What a file of conversations says of itself. */
const FORMAT = "quern.conversations";

export const DEFAULTS: Settings = {
  system: "", temperature: "", topP: "", topK: "", minP: "", repetitionPenalty: "", presencePenalty: "",
  frequencyPenalty: "", maxTokens: "", seed: "", stop: "", tools: "", schema: "",
};

/** Fields that an older page did not know, or that a file leaves out, are empty. */
const settings = v.object(v.entriesFromList(Object.keys(DEFAULTS) as (keyof Settings)[], v.optional(v.string(), "")));
const answerEntries = {
  role: v.literal("assistant"),
  content: v.string(),
  calls: v.array(v.object({ id: v.string(), name: v.string(), arguments: v.string() })),
  stats: v.optional(v.object({
    promptTokens: v.number(), cachedTokens: v.number(), outputTokens: v.number(), firstTokenMs: v.number(),
    rate: v.optional(v.number()),
  })),
  end: v.optional(v.string()),
  error: v.optional(v.string()),
  settings: v.optional(settings),
};
const message = v.variant("role", [
  v.object({
    role: v.literal("user"), content: v.string(),
    files: v.optional(v.array(v.object({ name: v.string(), text: v.string() }))),
  }),
  v.object({ ...answerEntries, variants: v.optional(v.array(v.object(answerEntries))), variant: v.optional(v.number()) }),
  v.object({ role: v.literal("tool"), callId: v.string(), content: v.string() }),
]);
const conversation = v.object({
  id: v.pipe(v.string(), v.minLength(1)), title: v.string(), named: v.optional(v.boolean()), settings, messages: v.array(message),
});

export function newConversation(settings: Settings = DEFAULTS): Conversation {
  const id = Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  return { id, title: "New conversation", settings, messages: [] };
}

/** Those that are kept; one that cannot be read does not take the others with it. */
export function load(): Conversation[] {
  try {
    const kept: unknown = JSON.parse(localStorage.getItem(KEY) ?? "[]");
    const read = (each: unknown) => v.safeParse(conversation, each);
    return Array.isArray(kept) ? kept.map(read).flatMap((each) => (each.success ? [each.output] : [])) : [];
  } catch {
    return [];
  }
}

/** Keep them; those without a message are not worth it. When the storage is full the oldest go. */
export function save(conversations: readonly Conversation[]): void {
  let kept = conversations.filter((each) => each.messages.length > 0).slice(0, MOST);
  for (;;) {
    try {
      localStorage.setItem(KEY, JSON.stringify(kept));
      return;
    } catch {
      if (kept.length === 0) return;
      kept = kept.slice(0, -1);
    }
  }
}

/** A file of them. */
export function toFile(conversations: readonly Conversation[]): string {
  const kept = conversations.filter((each) => each.messages.length > 0);
  return `${JSON.stringify({ format: FORMAT, version: 1, conversations: kept }, null, 2)}\n`;
}

/** Those of a file; throws an `Error` that says what is wrong with it. */
export function fromFile(text: string): Conversation[] {
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch {
    throw new Error("it is not JSON");
  }
  const file = v.object({ format: v.literal(FORMAT), version: v.literal(1), conversations: v.array(conversation) });
  const read = v.safeParse(file, parsed);
  if (read.success) return read.output.conversations;
  const [issue] = read.issues;
  const at = v.getDotPath(issue);
  throw new Error(at ? `${at}: ${issue.message}` : issue.message);
}
