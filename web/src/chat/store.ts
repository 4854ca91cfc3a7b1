// Conversations in this browser's storage: at most so many, the latest first.
import type { Conversation, Settings } from "./types";

const KEY = "quern.conversations";
const MOST = 50;

export const DEFAULTS: Settings = {
  system: "", temperature: "", topP: "", topK: "", repetitionPenalty: "", maxTokens: "", seed: "", tools: "",
};

export function newConversation(settings: Settings = DEFAULTS): Conversation {
  const id = Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  return { id, title: "New conversation", settings, messages: [] };
}

export function load(): Conversation[] {
  try {
    const kept: unknown = JSON.parse(localStorage.getItem(KEY) ?? "[]");
    return Array.isArray(kept) ? (kept as Conversation[]).filter((each) => Array.isArray(each.messages)) : [];
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
