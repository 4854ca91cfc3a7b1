// The page: which of its parts the address asks for.
import { render } from "preact";

import { ChatPage } from "./chat/ChatPage";
import { ConfigurePage } from "./configure/ConfigurePage";
import { embeddedTable } from "./configure/table";
import { DashboardPage } from "./dashboard/DashboardPage";
import { Shell, type Place } from "./shell/Shell";
import "./style/base.css";
import "./style/configure.css";
import "./style/chat.css";
import "./style/markdown.css";
import "./style/dashboard.css";

function placeOf(path: string): Place {
  if (path.endsWith("/configure")) return "configure";
  return path.endsWith("/dashboard") ? "dashboard" : "chat";
}

function App() {
  // A static file has only the generator: there is no server behind it.
  if (embeddedTable()) return <Shell place="configure" alone><ConfigurePage /></Shell>;
  const place = placeOf(location.pathname);
  return (
    <Shell place={place}>
      {place === "configure" ? <ConfigurePage /> : place === "dashboard" ? <DashboardPage /> : <ChatPage />}
    </Shell>
  );
}

const root = document.getElementById("app");
if (root) render(<App />, root);
