// The frame around every part: name, navigation, and the question for the key.
import type { ComponentChildren } from "preact";
import { useEffect } from "preact/hooks";

import { KeyDialog } from "./KeyDialog";

export type Place = "chat" | "dashboard" | "configure";

const PLACES: readonly { place: Place; title: string; href: string }[] = [
  { place: "chat", title: "Playground", href: "./" },
  { place: "dashboard", title: "Live", href: "./dashboard" },
  { place: "configure", title: "Configure", href: "./configure" },
];

interface Props {
  place: Place;
  /** No server behind the page: nothing to navigate to. */
  alone?: boolean;
  children: ComponentChildren;
}

export function Shell({ place, alone = false, children }: Props) {
  const here = PLACES.find((each) => each.place === place);
  useEffect(() => {
    document.title = `${here?.title ?? ""} · Quern`;
  }, [here]);
  return (
    <>
      <a class="skip" href="#main">Skip to content</a>
      <header class="masthead">
        <span class="wordmark">Quern</span>
        {!alone && (
          <nav aria-label="Parts of this page">
            {PLACES.map(({ place: to, title, href }) => (
              <a key={to} href={href} aria-current={to === place ? "page" : undefined}>{title}</a>
            ))}
          </nav>
        )}
      </header>
      <main id="main" class={place} tabIndex={-1}>{children}</main>
      {!alone && <KeyDialog />}
    </>
  );
}
