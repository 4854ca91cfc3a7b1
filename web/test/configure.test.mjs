// The generator on the page says what the rules say in the terminal.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { after, before, test } from "node:test";

import { QUERN, launch, open, serve } from "./support.mjs";

let server, browser;
before(async () => {
  [server, browser] = await Promise.all([serve(), launch()]);
});
after(async () => {
  await browser?.close();
  await server?.stop();
});

/** The terminal's answer, whatever its status. */
function terminal(form, choices) {
  const flags = Object.entries(choices).flatMap(([name, value]) => [`--${name}`, value]);
  return new Promise((resolve) => {
    execFile(QUERN, ["configure", form, ...flags], (_, command, notes) => {
      resolve({ command: command.trimEnd(), notes: notes.trimEnd().split("\n").filter(Boolean).map((note) => note.slice(2)) });
    });
  });
}

async function shown(page) {
  return {
    command: await page.locator("pre.command").innerText(),
    notes: await page.locator(".notes li > span:last-child").evaluateAll((all) => all.map((each) => each.lastChild.textContent)),
  };
}

async function choose(page, choices) {
  for (const [name, value] of Object.entries(choices)) await page.locator(`input[name="${name}"][value="${value}"]`).check();
}

function* combinations(axes) {
  const [first, ...rest] = axes;
  if (!first) return yield {};
  for (const choice of first.choices) for (const others of combinations(rest)) yield { [first.id]: choice.id, ...others };
}

const forms = async () => (await (await fetch(`${server.url}/configure/table`)).json()).forms;

test("all 60 combinations of the cookbook, by clicking", async () => {
  const { page, check } = await open(browser, `${server.url}/configure`);
  await choose(page, { form: "sglang" });
  const form = (await forms()).find((each) => each.id === "sglang");
  let number = 0;
  for (const choices of combinations(form.axes)) {
    await choose(page, choices);
    assert.deepEqual(await shown(page), await terminal("sglang", choices), JSON.stringify(choices));
    number++;
  }
  assert.equal(number, 60);
  check();
});

test("Quern's form, commands and remarks, through the address", async () => {
  const form = (await forms()).find((each) => each.id === "quern");
  const { page, check } = await open(browser, `${server.url}/configure`);
  // What is free on this machine changes from one moment to the next.
  const axes = form.axes.map((axis) => ({ ...axis, choices: axis.choices.filter((choice) => choice.id !== "this") }));
  let seed = 1;
  const random = (below) => (seed = (seed * 48271) % 2147483647) % below;
  for (let round = 0; round < 60; round++) {
    const choices = Object.fromEntries(axes.map(({ id, choices }) => [id, choices[random(choices.length)].id]));
    await page.goto(`${server.url}/configure?${new URLSearchParams(choices)}`);
    await page.locator("pre.command").waitFor();
    assert.deepEqual(await shown(page), await terminal("quern", choices), JSON.stringify(choices));
  }
  check();
});

test("it opens on what fits this machine, and is never green for what is not supported", async () => {
  const form = (await forms()).find((each) => each.id === "quern");
  const { page, check } = await open(browser, `${server.url}/configure`);
  await page.locator("pre.command").waitFor();
  const opened = await shown(page);
  assert.equal(opened.command, (await terminal("quern", {})).command, "as in the terminal");
  const room = Number(/room for ([\d,]+) tokens/.exec(opened.notes.join(" "))?.[1].replaceAll(",", "") ?? 0);
  if (room >= 8192) assert.match(opened.notes[0], /^It fits/);
  // What does not fit says what does.
  await page.goto(`${server.url}/configure?hardware=cpu-64gb&quantization=bf16`);
  await page.locator("pre.command").waitFor();
  assert.match((await shown(page)).notes[0], /^It does not fit; FP8 weights do, with room for [\d,]+ tokens/);
  for (const { id, unsupported } of form.axes[0].choices) {
    if (!unsupported) continue;
    await page.goto(`${server.url}/configure?hardware=${id}`);
    await page.locator("pre.command").waitFor();
    assert.equal(await page.locator(".notes .good").count(), 0, id);
    assert.match(await page.locator("pre.command").innerText(), /--device (cuda|hip)/, id);
  }
  check();
});

test("a choice is in the address, and the address is the choice", async () => {
  const { page, check } = await open(browser, `${server.url}/configure`);
  await choose(page, { hardware: "mi300x", "model-size": "480b", tp: "8" });
  assert.match(await page.locator(".notes").innerText(), /2560\/8 = 320 is no multiple of 128.*--ep 2 divides whole blocks/);
  assert.match(page.url(), /\?hardware=mi300x&model-size=480b&tp=8$/);
  const before = await shown(page);
  await page.reload();
  await page.locator("pre.command").waitFor();
  assert.deepEqual(await shown(page), before);
  assert.equal(await page.locator('label.unsupported input[value="mi300x"]').count(), 1, "what is not supported is marked");
  check();
});

test("the keyboard is enough", async () => {
  const { page, check } = await open(browser, `${server.url}/configure?hardware=cpu-64gb`);
  await page.locator('input[name="context-length"]:checked').focus();
  await page.keyboard.press("ArrowRight");
  assert.match(await page.locator("pre.command").innerText(), /--context-length 65536/);
  await page.keyboard.press("Tab");
  await page.keyboard.press("ArrowRight");
  assert.match(await page.locator("pre.command").innerText(), /--page-size 64/);
  check();
});
