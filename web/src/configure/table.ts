// The table of all combinations, made by the server's own rules. There is no rule on this side: an answer is
// looked up, section by section.
import { request } from "../api/client";

export type Tone = "plain" | "good" | "warn" | "bad";

export interface Note {
  tone: Tone;
  text: string;
}

export interface Choice {
  id: string;
  title: string;
  unsupported: string | null;
}

export interface Axis {
  id: string;
  title: string;
  default: number;
  choices: Choice[];
}

interface Section {
  kind: "line" | "output" | "note";
  axes: number[];
  texts: Note[];
  cells: number[];
}

/** Choices that stand where none is made, by those of other options. */
interface Proposals {
  axes: number[];
  of: number[];
  cells: number[][];
}

export interface Form {
  id: string;
  title: string;
  axes: Axis[];
  proposals: Proposals | null;
  sections: Section[];
}

export interface Table {
  forms: Form[];
}

export interface Answer {
  command: string;
  notes: Note[];
}

/** Where the picks stand in a row-major table over `axes`. */
function cellOf(form: Form, axes: readonly number[], picks: readonly number[]): number {
  return axes.reduce((cell, axis) => cell * (form.axes[axis]?.choices.length ?? 0) + (picks[axis] ?? 0), 0);
}

function textOf(form: Form, section: Section, picks: readonly number[]): Note | undefined {
  return section.texts[section.cells[cellOf(form, section.axes, picks)] ?? -1];
}

/** A choice of every option: the one that was made, else what is proposed beside those, else the default. */
export function completed(form: Form, made: readonly (number | undefined)[]): number[] {
  const picks = form.axes.map((axis, i) => made[i] ?? axis.default);
  if (!form.proposals) return picks;
  const { axes, of, cells } = form.proposals;
  const proposed = cells[cellOf(form, axes, picks)] ?? [];
  of.forEach((axis, i) => (picks[axis] = made[axis] ?? proposed[i] ?? picks[axis] ?? 0));
  return picks;
}

/** What the table says to these choices. */
export function answer(form: Form, picks: readonly number[]): Answer {
  const lines: string[] = [];
  const notes: Note[] = [];
  for (const section of form.sections) {
    const note = textOf(form, section, picks);
    if (!note?.text) continue;
    if (section.kind === "note") notes.push(note);
    else lines.push(note.text);
  }
  return { command: lines.join(" \\\n  "), notes };
}

/** The table inside a static page. */
export function embeddedTable(): Table | undefined {
  const element = document.getElementById("configure-table");
  return element ? (JSON.parse(element.textContent ?? "") as Table) : undefined;
}

/** The table, from the page itself or from the server. */
export async function loadTable(): Promise<Table> {
  return embeddedTable() ?? ((await (await request("configure/table")).json()) as Table);
}
