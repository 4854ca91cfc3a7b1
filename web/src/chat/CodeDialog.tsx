// A request as one would type it.
import { useEffect, useRef } from "preact/hooks";

import { CopyButton } from "../shell/CopyButton";
import type { RequestBody } from "./body";
import { asCurl, asPython, type Endpoint } from "./code";
import { coloured } from "./markdown";

interface Props {
  endpoint: Endpoint;
  body: RequestBody;
  onClose: () => void;
}

export function CodeDialog({ endpoint, body, onClose }: Props) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => dialog.current?.showModal(), []);
  const versions = [
    { title: "curl", language: "bash", text: asCurl(endpoint, body) },
    { title: "Python", language: "python", text: asPython(endpoint, body) },
  ];
  return (
    <dialog ref={dialog} class="request" aria-labelledby="request-title" onClose={onClose}>
      <div class="row spread">
        <h2 id="request-title">The same request</h2>
        <button type="button" onClick={() => dialog.current?.close()}>Close</button>
      </div>
      {versions.map(({ title, language, text }) => (
        <div key={title} class="code">
          <div class="code-head"><span>{title}</span><CopyButton text={text} /></div>
          <pre tabIndex={0}><code dangerouslySetInnerHTML={{ __html: coloured(text, language) }} /></pre>
        </div>
      ))}
    </dialog>
  );
}
