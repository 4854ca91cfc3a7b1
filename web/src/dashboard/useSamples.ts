// The server's samples, for as long as the page is open; asks again when the stream breaks.
import { useEffect, useState } from "preact/hooks";

import { ApiError, onKeyGiven, request } from "../api/client";
import { events } from "../api/events";
import { append, appendLines, type Sample, type Update } from "./sample";

const AGAIN_MS = 2000;

export interface Live {
  /** What the server last said of itself. */
  server: { model: string; uptime: number } | undefined;
  samples: readonly Sample[];
  log: readonly string[];
  /** Why nothing arrives, if so. */
  trouble: string;
}

export function useSamples(): Live {
  const [samples, setSamples] = useState<readonly Sample[]>([]);
  const [server, setServer] = useState<Live["server"]>();
  const [log, setLog] = useState<readonly string[]>([]);
  const [trouble, setTrouble] = useState("");
  useEffect(() => {
    const control = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const again = () => {
      clearTimeout(timer);
      if (!control.signal.aborted) timer = setTimeout(() => void follow(), AGAIN_MS);
    };
    const follow = async () => {
      try {
        const response = await request("dashboard/events", { signal: control.signal });
        // The server tells each stream all that it has kept.
        let isFirst = true;
        for await (const event of events(response)) {
          const { model, uptime, samples, log } = event as Update;
          const begins = isFirst;
          isFirst = false;
          setTrouble("");
          setServer({ model, uptime });
          setSamples((all) => append(begins ? [] : all, samples));
          setLog((lines) => appendLines(begins ? [] : lines, log));
        }
        setTrouble("The server has ended the stream. Trying again…");
      } catch (error) {
        if (error instanceof ApiError && error.status === 401) {
          setTrouble("This server asks for a key.");
          return;
        }
        setTrouble("The server does not answer. Trying again…");
      }
      again();
    };
    void follow();
    const stopListening = onKeyGiven(() => void follow());
    return () => {
      stopListening();
      control.abort();
      clearTimeout(timer);
    };
  }, []);
  return { server, samples, log, trouble };
}
