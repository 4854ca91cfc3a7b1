// The playground: conversations, or filling in the middle.
import { useEffect, useState } from "preact/hooks";

import { onKeyGiven, request } from "../api/client";
import { chatBody } from "./body";
import { CodeDialog } from "./CodeDialog";
import { ConversationView } from "./Conversation";
import { FillView } from "./FillView";
import { History } from "./History";
import { ServerStatus } from "./ServerStatus";
import { SettingsPanel } from "./SettingsPanel";
import { useChat } from "./useChat";

type Tab = "chat" | "fill";

/** The model's name; asking for it early also finds out whether a key is wanted. */
function useModelName(): string {
  const [name, setName] = useState("");
  useEffect(() => {
    const load = () => {
      request("v1/models").then(async (response) => {
        const { data } = (await response.json()) as { data: { id: string }[] };
        setName(data[0]?.id ?? "");
      }, () => undefined);
    };
    load();
    return onKeyGiven(load);
  }, []);
  return name;
}

export function ChatPage() {
  const chat = useChat();
  const model = useModelName();
  const [tab, setTab] = useState<Tab>("chat");
  const [showsCode, setShowsCode] = useState(false);
  const tabButton = (to: Tab, title: string) => (
    <button type="button" aria-pressed={tab === to} onClick={() => setTab(to)}>{title}</button>
  );
  return (
    <div class="playground">
      <History conversations={chat.conversations} current={chat.current.id}
        onOpen={(id) => { setTab("chat"); chat.open(id); }} onNew={() => { setTab("chat"); chat.startNew(); }} onRemove={chat.remove} />
      <div class="stage">
        <h1 class="aside">Playground</h1>
        <div class="row spread toolbar">
          <div class="row tabs" role="group" aria-label="Kind of request">
            {tabButton("chat", "Chat")}
            {tabButton("fill", "Fill in the middle")}
          </div>
          <span class="row">
            <span class="quiet model">{model}</span>
            {tab === "chat" && <button type="button" onClick={() => setShowsCode(true)}>As code</button>}
          </span>
        </div>
        <ServerStatus />
        {tab === "chat" ? <ConversationView chat={chat} /> : <FillView settings={chat.current.settings} />}
      </div>
      <details class="drawer" open={matchMedia("(min-width: 70rem)").matches}>
        <summary>Settings</summary>
        <SettingsPanel settings={chat.current.settings} onlySampling={tab === "fill"} onChange={chat.configure} />
      </details>
      {showsCode && (
        <CodeDialog path="chat/completions" method="chat.completions" body={chatBody(chat.current)} onClose={() => setShowsCode(false)} />
      )}
    </div>
  );
}
