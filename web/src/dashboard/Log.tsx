// The last lines of the server's log.
import { useEffect, useRef } from "preact/hooks";

/** Follow the end only while it is in sight, in pixels. */
const NEAR = 60;

export function Log({ lines }: { lines: readonly string[] }) {
  const box = useRef<HTMLPreElement>(null);
  const follows = useRef(true);
  useEffect(() => {
    if (box.current && follows.current) box.current.scrollTop = box.current.scrollHeight;
  }, [lines]);
  const onScroll = (event: Event) => {
    const { scrollHeight, scrollTop, clientHeight } = event.currentTarget as HTMLElement;
    follows.current = scrollHeight - scrollTop - clientHeight < NEAR;
  };
  return (
    <section class="log" aria-label="Log">
      <h2>Log</h2>
      <pre ref={box} tabIndex={0} onScroll={onScroll}>{lines.join("\n")}</pre>
    </section>
  );
}
