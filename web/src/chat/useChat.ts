// The conversation that is open: sending, stopping, editing, answering calls.
import { useCallback, useEffect, useRef, useState } from "preact/hooks";

import { chatBody } from "./body";
import * as change from "./conversation";
import { load, newConversation, save } from "./store";
import { ask } from "./stream";
import type { AssistantMessage, Conversation, Message, Settings, UserMessage } from "./types";

export interface Chat {
  conversations: readonly Conversation[];
  current: Conversation;
  /** The answer that is arriving. */
  arriving: AssistantMessage | undefined;
  send: (message: UserMessage) => void;
  /** Replace the message at `index`, forget what followed, and ask again. */
  edit: (index: number, message: UserMessage) => void;
  /** Replace the words of the answer at `index`. */
  reword: (index: number, content: string) => void;
  /** Ask again for the answer at `index`; the old one is kept beside the new one. */
  regenerate: (index: number) => void;
  /** Show another answer to the same request. */
  showVariant: (index: number, variant: number) => void;
  stop: () => void;
  giveResult: (callId: string, result: string) => void;
  configure: (settings: Settings) => void;
  open: (id: string) => void;
  startNew: () => void;
  rename: (id: string, title: string) => void;
  remove: (id: string) => void;
  /** Add conversations of a file; those that are here already, by their id, are replaced. */
  add: (conversations: readonly Conversation[]) => void;
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

  const update = useCallback((id: string, change: (old: Conversation) => Conversation) => {
    setConversations((all) => all.map((each) => (each.id === id ? change(each) : each)));
  }, []);
  const put = (next: Conversation) => update(next.id, () => next);

  const run = async (conversation: Conversation, others: AssistantMessage[] = []) => {
    put(conversation);
    const control = new AbortController();
    running.current?.abort();
    running.current = control;
    const { settings } = conversation;
    let frame = 0;
    let latest: AssistantMessage = { role: "assistant", content: "", calls: [] };
    const show = () => {
      frame = 0;
      if (running.current === control) setArriving(latest);
    };
    show();
    // Pieces may come faster than the screen: draw once a frame.
    const body = chatBody(settings, conversation.messages);
    const answer = await ask("chat/completions", body, control.signal, (next) => {
      latest = next;
      frame ||= requestAnimationFrame(show);
    });
    cancelAnimationFrame(frame);
    // Settings and title may have changed meanwhile.
    const { messages } = change.answered(conversation, { ...answer, settings }, others);
    update(conversation.id, (old) => ({ ...old, messages }));
    if (running.current === control) {
      running.current = undefined;
      setArriving(undefined);
    }
  };

  const stop = () => running.current?.abort();
  const giveResult = (callId: string, result: string) => {
    const messages: Message[] = [...current.messages, { role: "tool", callId, content: result }];
    const next = { ...current, messages };
    if (change.isWaiting(messages)) put(next);
    else void run(next);
  };
  const regenerate = (index: number) => {
    const old = current.messages[index];
    if (old?.role === "assistant") void run(change.before(current, index), change.variantsOf(old));
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
  const add = (more: readonly Conversation[]) => {
    const ids = new Set(more.map((each) => each.id));
    stop();
    setConversations((all) => [...more, ...all.filter((each) => !ids.has(each.id))]);
    if (more[0]) setId(more[0].id);
  };
  return {
    conversations, current, arriving, stop, giveResult, regenerate, open, startNew, remove, add,
    send: (message) => void run(change.asked(current, message)),
    edit: (index, message) => void run(change.askedAnew(current, index, message)),
    reword: (index, content) => put(change.reworded(current, index, content)),
    showVariant: (index, variant) => put(change.showing(current, index, variant)),
    configure: (settings) => put({ ...current, settings }),
    rename: (id, title) => update(id, (old) => ({ ...old, title, named: true })),
  };
}
