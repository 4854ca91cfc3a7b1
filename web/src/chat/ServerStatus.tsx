// Says when the server doesn't answer, and when it does again.
import { useEffect, useState } from "preact/hooks";

const EVERY_MS = 3000;

export function ServerStatus() {
  const [state, setState] = useState<"up" | "down" | "back">("up");
  useEffect(() => {
    const look = async () => {
      const up = await fetch("./health").then((response) => response.ok, () => false);
      setState((was) => (!up ? "down" : was === "up" ? "up" : "back"));
    };
    const timer = setInterval(() => void look(), EVERY_MS);
    return () => clearInterval(timer);
  }, []);
  useEffect(() => {
    if (state !== "back") return undefined;
    const timer = setTimeout(() => setState("up"), 2 * EVERY_MS);
    return () => clearTimeout(timer);
  }, [state]);
  return (
    <p class={`status ${state}`} role="status">
      {state === "down" && "The server does not answer. Trying again…"}
      {state === "back" && "The server is back."}
    </p>
  );
}
