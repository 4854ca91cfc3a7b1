// The playground: conversations, or filling in the middle.
import { useState } from "preact/hooks";

import { Sheet } from "../shell/Sheet";
import { useMedia } from "../shell/useMedia";
import { currentBody } from "./body";
import { CodeDialog } from "./CodeDialog";
import { ConversationView } from "./Conversation";
import { FillView } from "./FillView";
import { History } from "./History";
import type { SamplePrompt } from "./prompts";
import { ServerStatus } from "./ServerStatus";
import { SettingsPanel } from "./SettingsPanel";
import type { UserMessage } from "./types";
import { useChat } from "./useChat";
import { useServer } from "./useServer";

type Tab = "chat" | "fill";
type Beside = "history" | "settings";

const EMPTY: UserMessage = { role: "user", content: "" };

export function ChatPage() {
  const chat = useChat();
  const model = useServer();
  const [tab, setTab] = useState<Tab>("chat");
  const [draft, setDraft] = useState<UserMessage>(EMPTY);
  const [showsCode, setShowsCode] = useState(false);
  const [sheet, setSheet] = useState<Beside>();
  const roomFor = { history: useMedia("(min-width: 56rem)"), settings: useMedia("(min-width: 72rem)") };
  const send = () => {
    chat.send(draft);
    setDraft(EMPTY);
  };
  const onTry = ({ prompt, settings }: SamplePrompt) => {
    if (settings) chat.configure({ ...chat.current.settings, ...settings });
    setDraft({ ...EMPTY, content: prompt });
    document.querySelector<HTMLTextAreaElement>(".composer textarea")?.focus();
  };
  const toChat = (then: () => void) => {
    setTab("chat");
    setSheet(undefined);
    then();
  };
  const tabButton = (to: Tab, title: string) => (
    <button type="button" aria-pressed={tab === to} onClick={() => setTab(to)}>{title}</button>
  );
  const history = (
    <History conversations={chat.conversations} current={chat.current.id} onOpen={(id) => toChat(() => chat.open(id))}
      onNew={() => toChat(chat.startNew)} onRename={chat.rename} onRemove={chat.remove}
      onAdd={(more) => toChat(() => chat.add(more))} />
  );
  const settings = (
    <SettingsPanel settings={chat.current.settings} defaults={model?.defaults ?? {}} onlySampling={tab === "fill"} onChange={chat.configure} />
  );
  return (
    <div class="playground">
      {roomFor.history && history}
      <div class="stage">
        <h1 class="aside">Playground</h1>
        <div class="row spread toolbar">
          <div class="row tabs" role="group" aria-label="Kind of request">
            {!roomFor.history && (
              <button type="button" class="icon" aria-label="Conversations" title="Conversations" onClick={() => setSheet("history")}>☰</button>
            )}
            {tabButton("chat", "Chat")}
            {tabButton("fill", "Fill in the middle")}
          </div>
          <span class="row">
            <span class="quiet model">{model?.name}</span>
            {tab === "chat" && <button type="button" onClick={() => setShowsCode(true)}>As code</button>}
            {!roomFor.settings && (
              <button type="button" class="icon" aria-label="Settings" title="Settings" onClick={() => setSheet("settings")}>⚙</button>
            )}
          </span>
        </div>
        <ServerStatus />
        {tab === "chat"
          ? <ConversationView chat={chat} model={model} draft={draft} onDraft={setDraft} onSend={send} onTry={onTry} />
          : <FillView settings={chat.current.settings} />}
      </div>
      {roomFor.settings && <aside class="drawer" aria-label="Settings"><h2>Settings</h2>{settings}</aside>}
      {sheet === "history" && !roomFor.history && (
        <Sheet label="Conversations" side="left" onClose={() => setSheet(undefined)}>{history}</Sheet>
      )}
      {sheet === "settings" && !roomFor.settings && (
        <Sheet label="Settings" side="right" onClose={() => setSheet(undefined)}>{settings}</Sheet>
      )}
      {showsCode && (
        <CodeDialog endpoint="chat/completions" body={currentBody(chat.current, draft)} onClose={() => setShowsCode(false)} />
      )}
    </div>
  );
}
