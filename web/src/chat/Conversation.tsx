// The turns of a conversation and where one writes the next.
import { useRef, useState } from "preact/hooks";

import { bodyOfAnswer } from "./body";
import { CodeDialog } from "./CodeDialog";
import { Composer } from "./Composer";
import { AssistantTurn, UserTurn, type AnswerActions } from "./MessageView";
import type { SamplePrompt } from "./prompts";
import type { Message, UserMessage } from "./types";
import type { Chat } from "./useChat";
import { useFollow } from "./useFollow";
import type { ServedModel } from "./useServer";
import { Welcome } from "./Welcome";

interface Props {
  chat: Chat;
  model: ServedModel | undefined;
  draft: UserMessage;
  onDraft: (draft: UserMessage) => void;
  onSend: () => void;
  onTry: (sample: SamplePrompt) => void;
}

function resultsOf(messages: readonly Message[]): Map<string, string> {
  return new Map(messages.flatMap((each) => (each.role === "tool" ? [[each.callId, each.content] as const] : [])));
}

/** Tokens of the conversation, as the last answer that was counted says. */
function usedTokens(messages: readonly Message[]): number {
  const counted = messages.findLast((each) => each.role === "assistant" && each.stats);
  return counted?.role === "assistant" && counted.stats ? counted.stats.promptTokens + counted.stats.outputTokens : 0;
}

export function ConversationView({ chat, model, draft, onDraft, onSend, onTry }: Props) {
  const { current: { id, messages }, arriving } = chat;
  const [shown, setShown] = useState<number>();
  const box = useRef<HTMLDivElement>(null);
  const content = useRef<HTMLDivElement>(null);
  const requests = messages.filter((message) => message.role !== "assistant").length;
  // What one has just sent is wanted in view, and so is the answer to it.
  useFollow(box, content, `${id} ${requests}`, requests > 0);
  const results = resultsOf(messages);
  const busy = arriving !== undefined;
  const actionsOf = (index: number): AnswerActions => ({
    busy,
    onResult: chat.giveResult,
    onRegenerate: () => chat.regenerate(index),
    onVariant: (variant) => chat.showVariant(index, variant),
    onReword: (text) => chat.reword(index, text),
    onCode: () => setShown(index),
  });
  return (
    <section class="conversation" aria-label="Conversation">
      <div class="turns" ref={box} tabIndex={0} role="log" aria-label="Messages">
        <div ref={content}>
          {messages.length === 0 && !busy && <Welcome model={model} onTry={onTry} />}
          {messages.map((message, index) => {
            if (message.role === "user") {
              return <UserTurn key={`${id} ${index}`} message={message} busy={busy} onEdit={(next) => chat.edit(index, next)} />;
            }
            if (message.role === "tool") return null;
            const last = !busy && !messages.slice(index + 1).some((each) => each.role !== "tool");
            return (
              <AssistantTurn key={`${id} ${index}`} message={message} results={results} last={last} streaming={false} actions={actionsOf(index)} />
            );
          })}
          {arriving && <AssistantTurn message={arriving} results={results} last={false} streaming />}
        </div>
      </div>
      <Composer draft={draft} busy={busy} used={usedTokens(messages)} contextLength={model?.contextLength} conversation={id}
        onDraft={onDraft} onSend={onSend} onStop={chat.stop} />
      {shown !== undefined && (
        <CodeDialog endpoint="chat/completions" body={bodyOfAnswer(chat.current, shown)} onClose={() => setShown(undefined)} />
      )}
    </section>
  );
}
