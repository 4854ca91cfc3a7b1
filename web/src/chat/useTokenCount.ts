// How many tokens a text is, in the served model's own: asked for when one pauses typing.
import { useEffect, useState } from "preact/hooks";

import { post } from "../api/client";

const PAUSE_MS = 350;

/** The count, or nothing while it is not known. */
export function useTokenCount(text: string): number | undefined {
  const [count, setCount] = useState<number>();
  useEffect(() => {
    setCount(undefined);
    if (text === "") return undefined;
    const control = new AbortController();
    const timer = setTimeout(() => {
      post("tokenize", { model: "default", prompt: text, add_special_tokens: false }, control.signal)
        .then(async (response) => setCount(((await response.json()) as { count: number }).count))
        .catch(() => undefined);
    }, PAUSE_MS);
    return () => {
      clearTimeout(timer);
      control.abort();
    };
  }, [text]);
  return count;
}
