// Choices live in the address, so that a link reproduces them. Only those that were made are written.
import type { Form, Table } from "./table";

export interface Chosen {
  form: Form;
  /** The choice of each option, where one was made. */
  made: (number | undefined)[];
}

/** What the address says; unknown names choose nothing. */
export function read(table: Table, search: string): Chosen | undefined {
  const params = new URLSearchParams(search);
  const form = table.forms.find((form) => form.id === params.get("form")) ?? table.forms[0];
  return form && { form, made: madeOf(form, params) };
}

function madeOf(form: Form, params: URLSearchParams): (number | undefined)[] {
  return form.axes.map((axis) => {
    const found = axis.choices.findIndex((choice) => choice.id === params.get(axis.id));
    return found < 0 ? undefined : found;
  });
}

/** The address's query for these choices. */
export function write(table: Table, { form, made }: Chosen): string {
  const params = new URLSearchParams();
  if (form !== table.forms[0]) params.set("form", form.id);
  form.axes.forEach((axis, i) => {
    const choice = axis.choices[made[i] ?? -1];
    if (choice) params.set(axis.id, choice.id);
  });
  const query = params.toString();
  return query && `?${query}`;
}
