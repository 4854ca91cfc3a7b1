// One option as a row of choices: radio buttons underneath, so that the keyboard works as everywhere.
import type { Axis } from "./table";

interface Props {
  axis: Axis;
  picked: number;
  onPick: (index: number) => void;
}

export function OptionField({ axis, picked, onPick }: Props) {
  return (
    <fieldset class="option">
      <legend>{axis.title}</legend>
      <div class="choices">
        {axis.choices.map((choice, index) => (
          <label key={choice.id} class={choice.unsupported ? "choice unsupported" : "choice"} title={choice.unsupported ?? undefined}>
            <input type="radio" name={axis.id} value={choice.id} checked={index === picked}
              onChange={() => onPick(index)} />
            <span>
              {choice.title}
              {choice.unsupported && <><span aria-hidden="true" class="mark">·</span><span class="aside">not supported yet</span></>}
            </span>
          </label>
        ))}
      </div>
    </fieldset>
  );
}
