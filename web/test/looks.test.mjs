// Every part in light and dark, wide and at phone width: axe finds nothing, nothing runs over the edge, and a
// picture is kept in web/artifacts. UPDATE_PICTURES=1 renews those of the README.
import assert from "node:assert/strict";
import { copyFileSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { ARTIFACTS, launch, open, serve, stream } from "./support.mjs";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];
const WIDE = { width: 1280, height: 800 };
const PHONE = { width: 390, height: 844 };

let server, browser;
before(async () => {
  [server, browser] = await Promise.all([serve(), launch()]);
});
after(async () => {
  await browser?.close();
  await server?.stop();
});

const ask = async (page) => {
  await page.getByRole("textbox", { name: "Message", exact: true }).fill("Write a Python function that implements binary search.");
  await page.keyboard.press("Enter");
  await page.locator(".stats").waitFor();
};

async function call(page) {
  await page.route("**/v1/chat/completions", (route) => route.fulfill(stream({ content: "I shall look it up." },
    { tool_calls: [{ index: 0, id: "c", function: { name: "execute_code", arguments: JSON.stringify({ language: "python", code: "from math import prod\n\nprint(prod(range(1, 8)))\n" }) } }] })));
  await page.getByRole("textbox", { name: "Message", exact: true }).fill("What is the factorial of 7?");
  await page.keyboard.press("Enter");
  await page.getByRole("region", { name: "Call of execute_code" }).waitFor();
  await page.locator(".stats").waitFor();
}

/** Some seconds of uneven load, most of it with a prompt that others have had. */
async function work(page) {
  await page.locator(".figures").waitFor();
  const shared = "Here is the style of this project, which every answer follows. ".repeat(8);
  const ask = (round) => fetch(`${server.url}/generate`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({
      text: `${shared} Question ${round}: write a function.`, sampling_params: { max_new_tokens: 250, ignore_eos: true },
    }),
  }).then((answer) => answer.text());
  const asked = [];
  for (const number of [1, 3, 6, 4, 2, 5, 3, 1]) {
    for (let i = 0; i < number; i++) asked.push(ask(asked.length));
    await page.waitForTimeout(900);
  }
  await Promise.all(asked);
}

const fill = async (page) => {
  await page.getByRole("button", { name: "Fill in the middle" }).click();
  await page.getByRole("button", { name: "Fill in", exact: true }).click();
  await page.locator(".stats").waitFor();
};

/** What stands beside the conversation where there is room, and over it on a phone; the answer above has variants and files. */
const beside = (name) => async (page) => {
  await page.locator(".composer input[type=file]").setInputFiles({ name: "code.py", mimeType: "text/x-python", buffer: Buffer.from("a = 1\n") });
  await ask(page);
  await page.getByRole("button", { name: "Regenerate" }).click();
  await page.getByText("2 of 2").waitFor();
  const opener = page.getByRole("button", { name, exact: true });
  if (await opener.count() > 0) await opener.click();
};

const answered = (page) => page.locator("pre.command").waitFor();

/** The parts: name, address, and what is done there first. */
const PARTS = [
  ["welcome", "/", (page) => page.locator(".samples").waitFor()],
  ["playground", "/", ask],
  ["settings", "/", beside("Settings")],
  ["conversations", "/", beside("Conversations")],
  ["tool-call", "/", call],
  ["fill", "/", fill],
  ["request", "/", (page) => page.getByRole("button", { name: "As code" }).click()],
  ["key", "/dashboard", (page) => page.getByRole("dialog").waitFor()],
  ["dashboard", "/dashboard", work],
  ["configure", "/configure?hardware=cpu-64gb", answered],
  ["configure-refused", "/configure?hardware=mi300x&model-size=480b&tp=8", answered],
  ["configure-sglang", "/configure?form=sglang&quantization=fp8&tools=enabled", answered],
];

for (const [name, path, act] of PARTS) {
  for (const colorScheme of ["light", "dark"]) {
    for (const [width, viewport] of [["wide", WIDE], ["phone", PHONE]]) {
      test(`${name}, ${colorScheme}, ${width}`, async () => {
        // Axe comes in from outside, which the page's own policy forbids; that policy is tested elsewhere.
        const { page, context } = await open(browser, server.url + path, { colorScheme, viewport, bypassCSP: true });
        if (name === "key") {
          await page.route("**/dashboard/events", (route) => route.fulfill({ status: 401, json: { error: "Unauthorized" } }));
          await page.reload();
        }
        await page.locator("main").waitFor();
        await act(page);
        await page.screenshot({ path: join(ARTIFACTS, `${name}-${colorScheme}-${width}.png`), fullPage: viewport === WIDE });
        await page.evaluate(AXE);
        const { violations } = await page.evaluate((values) => window.axe.run({ runOnly: { type: "tag", values } }), RULES);
        const found = violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => `${node.html} (${node.failureSummary})`).join("; ")}`);
        assert.deepEqual(found, []);
        const [content, window_] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
        assert.ok(content <= window_, `${content} pixels of page in ${window_} of window`);
        if (path === "/") {
          const [height, seen] = await page.evaluate(() => [document.documentElement.scrollHeight, innerHeight]);
          assert.ok(height <= seen, "where one writes stays in sight");
        }
        await context.close();
      });
    }
  }
}

test("the README's pictures are renewed on request", { skip: !process.env.UPDATE_PICTURES && "UPDATE_PICTURES=1 renews them" }, () => {
  for (const name of ["playground-light-wide", "dashboard-dark-wide", "configure-light-wide"]) {
    copyFileSync(join(ARTIFACTS, `${name}.png`), join(ARTIFACTS, "../../docs", `page-${name.split("-")[0]}.png`));
  }
});
