// The command generator: options on one side, the table's answer on the other.
import { useEffect, useState } from "preact/hooks";

import { read, write, type Chosen } from "./address";
import { CommandBox } from "./CommandBox";
import { OptionField } from "./OptionField";
import { answer, completed, loadTable, type Form, type Table } from "./table";

export function ConfigurePage() {
  const [table, setTable] = useState<Table>();
  const [chosen, setChosen] = useState<Chosen>();
  const [failure, setFailure] = useState("");
  useEffect(() => {
    loadTable().then((table) => {
      setTable(table);
      setChosen(read(table, location.search));
    }, (error: unknown) => setFailure(String(error)));
  }, []);
  useEffect(() => {
    const follow = () => table && setChosen(read(table, location.search));
    addEventListener("popstate", follow);
    return () => removeEventListener("popstate", follow);
  }, [table]);

  if (failure) return <p class="failure" role="alert">The options could not be loaded: {failure}</p>;
  if (!table || !chosen) return <p class="quiet">Loading…</p>;
  const { form, made } = chosen;
  const picks = completed(form, made);
  const choose = (next: Chosen) => {
    setChosen(next);
    history.replaceState(null, "", location.pathname + write(table, next));
  };
  const switchTo = (next: Form) => choose({ form: next, made: [] });
  const pick = (axis: number, index: number) => choose({ form, made: form.axes.map((_, i) => (i === axis ? index : made[i])) });
  return (
    <>
      <div class="intro">
        <h1>Find your command</h1>
        <p>What a machine can hold is arithmetic: weights, and keys and values for every token of context.</p>
      </div>
      <div class="generator">
        <form class="options" onSubmit={(event) => event.preventDefault()}>
          <fieldset class="option forms">
            <legend>Server</legend>
            <div class="choices">
              {table.forms.map((each) => (
                <label key={each.id} class="choice">
                  <input type="radio" name="form" value={each.id} checked={each === form} onChange={() => switchTo(each)} />
                  <span>{each.title}</span>
                </label>
              ))}
            </div>
          </fieldset>
          {form.axes.map((axis, i) => (
            <OptionField key={`${form.id}.${axis.id}`} axis={axis} picked={picks[i] ?? axis.default}
              onPick={(index) => pick(i, index)} />
          ))}
        </form>
        <CommandBox answer={answer(form, picks)} link={location.href.split("?")[0] + write(table, chosen)} />
      </div>
    </>
  );
}
