// What becomes of a conversation: every function gives a new one.
import { wordsOf } from "./body";
import type { AssistantMessage, Conversation, Message, UserMessage } from "./types";

const TITLE_LENGTH = 48;

/** With `messages`, named after the first of them unless it was named by hand. */
function withMessages(conversation: Conversation, messages: Message[]): Conversation {
  const first = messages[0];
  if (conversation.named || first?.role !== "user") return { ...conversation, messages };
  const words = first.content.trim() || first.files?.[0]?.name || conversation.title;
  return { ...conversation, title: words.slice(0, TITLE_LENGTH), messages };
}

export function asked(conversation: Conversation, message: UserMessage): Conversation {
  return withMessages(conversation, [...conversation.messages, message]);
}

/** The message of the user at `index` replaced, and what followed forgotten. */
export function askedAnew(conversation: Conversation, index: number, message: UserMessage): Conversation {
  return withMessages(conversation, [...conversation.messages.slice(0, index), message]);
}

/** Without the answer at `index` and what followed. */
export function before(conversation: Conversation, index: number): Conversation {
  return { ...conversation, messages: conversation.messages.slice(0, index) };
}

/** With `answer` at its end; `others` are earlier answers to the same request. */
export function answered(conversation: Conversation, answer: AssistantMessage, others: AssistantMessage[]): Conversation {
  const variants = others.length > 0 ? { variants: [...others, answer], variant: others.length } : {};
  return { ...conversation, messages: [...conversation.messages, { ...answer, ...variants }] };
}

/** All answers to the request that `answer` answers. */
export function variantsOf(answer: AssistantMessage): AssistantMessage[] {
  const { variants, variant, ...plain } = answer;
  return variants ? variants.map((each, index) => (index === variant ? plain : each)) : [plain];
}

/** With the answer at `index` changed for another one to the same request. */
export function showing(conversation: Conversation, index: number, variant: number): Conversation {
  return changed(conversation, index, (answer) => {
    const variants = variantsOf(answer);
    const chosen = variants[variant];
    return chosen ? { ...chosen, variants, variant } : answer;
  });
}

/** With the words of the answer at `index` replaced; what followed stays. */
export function reworded(conversation: Conversation, index: number, content: string): Conversation {
  return changed(conversation, index, (answer) => ({ ...answer, content }));
}

function changed(
  conversation: Conversation, index: number, change: (answer: AssistantMessage) => AssistantMessage,
): Conversation {
  const messages = conversation.messages.map((message, i) =>
    i === index && message.role === "assistant" ? change(message) : message);
  return { ...conversation, messages };
}

/** Whether a call of the last answer has no result yet. */
export function isWaiting(messages: readonly Message[]): boolean {
  const results = new Set(messages.map((message) => (message.role === "tool" ? message.callId : "")));
  const last = messages.findLast((message) => message.role === "assistant");
  return last !== undefined && last.calls.some((call) => !results.has(call.id));
}

/** Whether `words` occur in its title or its messages, in any case of letters. */
export function mentions({ title, messages }: Conversation, words: string): boolean {
  const wanted = words.trim().toLowerCase();
  const texts = messages.map((message) => (message.role === "user" ? wordsOf(message) : message.content));
  return [title, ...texts].some((text) => text.toLowerCase().includes(wanted));
}
