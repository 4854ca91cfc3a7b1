// Choices live in the address, so that a link reproduces them. Only what differs from the default is written.
import type { Form, Table } from "./table";

export interface Chosen {
  form: Form;
  picks: number[];
}

/** What the address says; unknown names fall back to the defaults. */
export function read(table: Table, search: string): Chosen | undefined {
  const params = new URLSearchParams(search);
  const form = table.forms.find((form) => form.id === params.get("form")) ?? table.forms[0];
  return form && { form, picks: picksOf(form, params) };
}

function picksOf(form: Form, params: URLSearchParams): number[] {
  return form.axes.map((axis) => {
    const found = axis.choices.findIndex((choice) => choice.id === params.get(axis.id));
    return found < 0 ? axis.default : found;
  });
}

/** The address's query for these choices. */
export function write(table: Table, { form, picks }: Chosen): string {
  const params = new URLSearchParams();
  if (form !== table.forms[0]) params.set("form", form.id);
  form.axes.forEach((axis, i) => {
    const choice = axis.choices[picks[i] ?? axis.default];
    if (choice && picks[i] !== axis.default) params.set(axis.id, choice.id);
  });
  const query = params.toString();
  return query && `?${query}`;
}
