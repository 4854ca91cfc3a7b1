// The turns of a conversation and where one writes the next.
import { useEffect, useRef } from "preact/hooks";

import { Composer } from "./Composer";
import { AssistantTurn, UserTurn } from "./MessageView";
import type { Message } from "./types";
import type { Chat } from "./useChat";

/** Follow the answer only while its end is no further away than this, in pixels. */
const NEAR = 320;

function resultsOf(messages: readonly Message[]): Map<string, string> {
  return new Map(messages.flatMap((each) => (each.role === "tool" ? [[each.callId, each.content] as const] : [])));
}

export function ConversationView({ chat }: { chat: Chat }) {
  const { current: { messages }, arriving } = chat;
  const turns = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const box = turns.current;
    if (box && box.scrollHeight - box.scrollTop - box.clientHeight < NEAR) box.scrollTop = box.scrollHeight;
  }, [messages, arriving]);
  const results = resultsOf(messages);
  const lastAnswer = messages.findLastIndex((message) => message.role === "assistant");
  return (
    <section class="conversation" aria-label="Conversation">
      <div class="turns" ref={turns} tabIndex={0} role="log" aria-label="Messages">
        {messages.length === 0 && !arriving && <Welcome />}
        {messages.map((message, index) => {
          if (message.role === "user") {
            return <UserTurn key={index} message={message} busy={arriving !== undefined} onEdit={(text) => chat.edit(index, text)} />;
          }
          if (message.role === "tool") return null;
          return (
            <AssistantTurn key={index} message={message} results={results} last={index === lastAnswer && !arriving}
              streaming={false} onResult={chat.giveResult} onRetry={chat.retry} />
          );
        })}
        {arriving && (
          <AssistantTurn message={arriving} results={results} last={false} streaming onResult={chat.giveResult} onRetry={chat.retry} />
        )}
      </div>
      <Composer busy={arriving !== undefined} onSend={chat.send} onStop={chat.stop} />
    </section>
  );
}

function Welcome() {
  return (
    <div class="welcome">
      <p class="question">What shall we write?</p>
      <p class="quiet">Answers come from this server and from nowhere else.</p>
    </div>
  );
}
