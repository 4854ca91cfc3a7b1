// Something that stands beside the page where there is room, and over it where there is none.
import type { ComponentChildren } from "preact";
import { useEffect, useRef } from "preact/hooks";

interface Props {
  label: string;
  /** The side of the window that it is at. */
  side: "left" | "right";
  onClose: () => void;
  children: ComponentChildren;
}

export function Sheet({ label, side, onClose, children }: Props) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => dialog.current?.showModal(), []);
  const onClick = (event: MouseEvent) => {
    // The backdrop is the dialog's own.
    if (event.target === dialog.current) dialog.current?.close();
  };
  return (
    <dialog ref={dialog} class={`sheet ${side}`} aria-label={label} onClose={onClose} onClick={onClick}>
      <div class="sheet-body">
        <div class="row spread">
          <h2>{label}</h2>
          <button type="button" onClick={() => dialog.current?.close()}>Close</button>
        </div>
        {children}
      </div>
    </dialog>
  );
}
