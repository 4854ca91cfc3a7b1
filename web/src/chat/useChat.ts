// The conversation that is open: sending, stopping, editing, answering calls.
import { useCallback, useEffect, useRef, useState } from "preact/hooks";

import { chatBody } from "./body";
import { load, newConversation, save } from "./store";
import { ask } from "./stream";
import type { AssistantMessage, Conversation, Message, Settings } from "./types";

const TITLE_LENGTH = 48;

export interface Chat {
  conversations: readonly Conversation[];
  current: Conversation;
  /** The answer that is arriving. */
  arriving: AssistantMessage | undefined;
  send: (text: string) => void;
  /** Replace the message at `index`, forget what followed, and ask again. */
  edit: (index: number, text: string) => void;
  retry: () => void;
  stop: () => void;
  giveResult: (callId: string, result: string) => void;
  configure: (settings: Settings) => void;
  open: (id: string) => void;
  startNew: () => void;
  remove: (id: string) => void;
}

/** Whether a call of the last answer has no result yet. */
function isWaiting(messages: readonly Message[]): boolean {
  const answered = new Set(messages.map((message) => (message.role === "tool" ? message.callId : "")));
  const last = messages.findLast((message) => message.role === "assistant");
  return last !== undefined && last.calls.some((call) => !answered.has(call.id));
}

/** Without the last answer and what belongs to it. */
function beforeLastAnswer(messages: readonly Message[]): Message[] {
  const at = messages.findLastIndex((message) => message.role === "assistant");
  return at < 0 ? [...messages] : messages.slice(0, at);
}

export function useChat(): Chat {
  const [conversations, setConversations] = useState<Conversation[]>(() => {
    const kept = load();
    return [newConversation(kept[0]?.settings), ...kept];
  });
  const [id, setId] = useState(conversations[0]?.id ?? "");
  const [arriving, setArriving] = useState<AssistantMessage>();
  const running = useRef<AbortController | undefined>(undefined);
  useEffect(() => save(conversations), [conversations]);
  useEffect(() => () => running.current?.abort(), []);
  const current = conversations.find((each) => each.id === id) ?? conversations[0] ?? newConversation();

  const put = useCallback((next: Conversation) => {
    setConversations((all) => all.map((each) => (each.id === next.id ? next : each)));
  }, []);

  const run = async (conversation: Conversation) => {
    put(conversation);
    const control = new AbortController();
    running.current?.abort();
    running.current = control;
    let frame = 0;
    let latest: AssistantMessage = { role: "assistant", content: "", calls: [] };
    const show = () => {
      frame = 0;
      if (running.current === control) setArriving(latest);
    };
    show();
    // Pieces may come faster than the screen: draw once a frame.
    const answer = await ask("v1/chat/completions", chatBody(conversation), control.signal, (next) => {
      latest = next;
      frame ||= requestAnimationFrame(show);
    });
    cancelAnimationFrame(frame);
    // Settings may have changed meanwhile.
    const messages = [...conversation.messages, answer];
    setConversations((all) => all.map((each) => (each.id === conversation.id ? { ...each, messages } : each)));
    if (running.current === control) {
      running.current = undefined;
      setArriving(undefined);
    }
  };

  const stop = () => running.current?.abort();
  const send = (text: string) => {
    const title = current.messages.length === 0 ? text.trim().slice(0, TITLE_LENGTH) : current.title;
    void run({ ...current, title, messages: [...current.messages, { role: "user", content: text }] });
  };
  const edit = (index: number, text: string) => {
    void run({ ...current, messages: [...current.messages.slice(0, index), { role: "user", content: text }] });
  };
  const retry = () => void run({ ...current, messages: beforeLastAnswer(current.messages) });
  const giveResult = (callId: string, result: string) => {
    const messages: Message[] = [...current.messages, { role: "tool", callId, content: result }];
    const next = { ...current, messages };
    if (isWaiting(messages)) put(next);
    else void run(next);
  };
  const open = (next: string) => {
    stop();
    setId(next);
  };
  const startNew = () => {
    stop();
    const fresh = newConversation(current.settings);
    setConversations((all) => [fresh, ...all.filter((each) => each.messages.length > 0)]);
    setId(fresh.id);
  };
  const remove = (gone: string) => {
    if (gone === current.id) stop();
    const rest = conversations.filter((each) => each.id !== gone);
    const left = rest.length > 0 ? rest : [newConversation()];
    setConversations(left);
    if (gone === current.id) setId(left[0]?.id ?? "");
  };
  const configure = (settings: Settings) => put({ ...current, settings });
  return { conversations, current, arriving, send, edit, retry, stop, giveResult, configure, open, startNew, remove };
}
