// Keeps the end of a box in view while it grows, until one scrolls away from it.
import type { RefObject } from "preact";
import { useEffect } from "preact/hooks";

/** At the end means no further away than this, in pixels: scroll positions are rounded. */
const NEAR = 24;

/** `key` changes when the end is wanted again, wherever one was; or the beginning, of what does not `grow`. */
export function useFollow(box: RefObject<HTMLElement>, content: RefObject<HTMLElement>, key: unknown, grows: boolean): void {
  useEffect(() => {
    const [outer, inner] = [box.current, content.current];
    if (!outer || !inner) return undefined;
    if (!grows) {
      outer.scrollTop = 0;
      return undefined;
    }
    let follows = true;
    let last = 0;
    const toEnd = () => {
      if (follows) outer.scrollTop = outer.scrollHeight;
    };
    // Only scrolling back is a wish to read; that the end moves away because more arrives is none.
    const onScroll = () => {
      const { scrollTop, scrollHeight, clientHeight } = outer;
      if (scrollHeight - scrollTop - clientHeight <= NEAR) follows = true;
      else if (scrollTop < last) follows = false;
      last = scrollTop;
    };
    const watcher = new ResizeObserver(toEnd);
    watcher.observe(inner);
    watcher.observe(outer);
    outer.addEventListener("scroll", onScroll, { passive: true });
    toEnd();
    return () => {
      watcher.disconnect();
      outer.removeEventListener("scroll", onScroll);
    };
  }, [key, grows]);
}
