// The playground, with the model inside the program, and with answers made up where it can't be made to give them.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { launch, open, serve, stream } from "./support.mjs";

let server, browser;
before(async () => {
  [server, browser] = await Promise.all([serve(), launch()]);
});
after(async () => {
  await browser?.close();
  await server?.stop();
});

const message = (page) => page.getByRole("textbox", { name: "Message", exact: true });
const answers = (page) => page.getByRole("article", { name: "Model" });

async function send(page, text) {
  await message(page).fill(text);
  await page.keyboard.press("Enter");
}

async function settle(page) {
  await page.getByRole("button", { name: "Send", exact: true }).waitFor();
}

test("an answer streams, with its figures, and stays in this browser", async () => {
  const { page, check } = await open(browser, server.url);
  await send(page, "Write a Python function that implements binary search.");
  await settle(page);
  const code = answers(page).locator(".code code");
  assert.match(await code.innerText(), /def binary_search\(/);
  assert.ok(await code.locator(".hljs-keyword").count() > 0, "coloured");
  assert.match(await page.locator(".stats").innerText(), /\d+ tokens · [\d.]+ tok\/s · first after \d+ ms · prompt \d+/);
  await page.reload();
  await page.getByRole("button", { name: "Write a Python function", exact: false }).first().click();
  assert.match(await code.innerText(), /def binary_search\(/);
  check();
});

test("it is drawn while it arrives, and stop stops the server too", async () => {
  const { page, check } = await open(browser, server.url);
  await page.route("**/v1/chat/completions", (route) => {
    const body = { ...route.request().postDataJSON(), ignore_eos: true, max_tokens: 3000 };
    return route.continue({ postData: JSON.stringify(body) });
  });
  await send(page, "Write a function");
  await page.locator(".markdown").waitFor();
  await page.getByRole("button", { name: "Stop" }).click();
  await settle(page);
  assert.match(await answers(page).last().innerText(), /stopped/);
  const load = async () => (await (await fetch(`${server.url}/get_load`)).json())[0].num_reqs;
  // The whole answer would take three seconds or more.
  for (let tries = 0; (await load()) > 0; tries++) {
    assert.ok(tries < 10, "the server still computes what nobody waits for");
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  check();
});

test("a message can be edited and sent again", async () => {
  const { page, check } = await open(browser, server.url);
  const asked = [];
  await page.route("**/v1/chat/completions", (route) => {
    asked.push(route.request().postDataJSON().messages.map((each) => each.content));
    return route.fulfill(stream({ role: "assistant", content: `answer ${asked.length}` }));
  });
  await send(page, "first");
  await settle(page);
  await send(page, "second");
  await settle(page);
  await page.getByRole("button", { name: "Edit" }).first().click();
  await page.getByRole("textbox", { name: "Your message" }).fill("changed");
  await page.getByRole("button", { name: "Send again" }).click();
  await answers(page).getByText("answer 3").waitFor();
  assert.deepEqual(asked, [["first"], ["first", "answer 1", "second"], ["changed"]]);
  assert.equal(await answers(page).count(), 1);
  check();
});

test("a tool call becomes a card; the example answers it; the model hears the result", async () => {
  const { page, check } = await open(browser, server.url);
  const bodies = [];
  const call = (index, id, name) => ({ tool_calls: [{ index, id, type: "function", function: { name, arguments: "" } }] });
  const more = (index, text) => ({ tool_calls: [{ index, function: { arguments: text } }] });
  await page.route("**/v1/chat/completions", (route) => {
    bodies.push(route.request().postDataJSON());
    return route.fulfill(bodies.length === 1
      ? stream({ content: "Let me see." }, call(0, "c1", "calculate"), more(0, '{"expression": "2*'), more(0, '(3+4)^2"}'),
        call(1, "c2", "weather"), more(1, '{"city": "Kiel"}'))
      : stream({ content: "Done." }));
  });
  await page.getByRole("button", { name: "Use the examples" }).click();
  await page.getByText("3 tools.").waitFor();
  await send(page, "What is 2*(3+4)^2, and how is the weather?");
  await page.getByRole("region", { name: "Call of calculate" }).getByRole("button", { name: "Let the example answer" }).click();
  await page.getByText('{"result":98}').waitFor();
  const weather = page.getByRole("region", { name: "Call of weather" });
  assert.equal(await weather.getByRole("button", { name: "Let the example answer" }).count(), 0);
  await weather.getByRole("textbox").fill("rain");
  await weather.getByRole("button", { name: "Use this result" }).click();
  await answers(page).getByText("Done.").waitFor();
  assert.equal(bodies[0].tools[0].function.name, "calculate");
  const [, assistant, first, second] = bodies[1].messages;
  assert.deepEqual(assistant.tool_calls.map((each) => each.function.arguments), ['{"expression": "2*(3+4)^2"}', '{"city": "Kiel"}']);
  assert.deepEqual([first.tool_call_id, first.content], ["c1", '{"result":98}']);
  assert.deepEqual([second.tool_call_id, second.content], ["c2", "rain"]);
  check();
});

test("what a model writes is shown, never obeyed", async () => {
  const { page, check } = await open(browser, server.url);
  const attack = [
    "<script>window.hurt = 1</script>", "<img src=x onerror='window.hurt = 2'>", "![x](https://example.com/a.png)",
    "[click](javascript:window.hurt=3)", "<svg onload='window.hurt=4'>", "<iframe srcdoc='<script>top.hurt=5</script>'></iframe>",
    '```"><img src=x onerror=window.hurt=6>\n</code></pre><script>window.hurt=7</script>\n```',
    "<style>body{display:none}</style>", "<form action=https://example.com><input></form>", "<a href='data:text/html,x'>y</a>",
  ].join("\n\n");
  await page.route("**/v1/chat/completions", (route) => route.fulfill(stream({ content: attack },
    { tool_calls: [{ index: 0, id: "c", function: { name: "<img src=x onerror=window.hurt=8>", arguments: "{\"a\": \"</code><img src=x onerror=window.hurt=9>\"}" } }] })));
  await send(page, "<img src=x onerror='window.hurt = 10'>");
  await settle(page);
  await page.waitForTimeout(300);
  assert.equal(await page.evaluate(() => window.hurt), undefined);
  const inside = page.locator(".turns");
  for (const tag of ["script", "img", "svg", "iframe", "style", "input", "form:not(.call-answer)"]) {
    assert.equal(await inside.locator(tag).count(), 0, tag);
  }
  const links = await inside.locator("a").evaluateAll((all) => all.map((each) => each.getAttribute("href")));
  assert.ok(links.every((href) => href === null || /^https?:/.test(href)), String(links));
  assert.match(await inside.innerText(), /<script>window.hurt = 1<\/script>/);
  check();
});

test("a draft is counted in the model's tokens, and an answer's code copied", async () => {
  const { page, context, check } = await open(browser, server.url);
  await context.grantPermissions(["clipboard-read", "clipboard-write"]);
  await message(page).fill("def main():");
  const { count } = await (await fetch(`${server.url}/tokenize`, {
    method: "POST", headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ prompt: "def main():", add_special_tokens: false }),
  })).json();
  await page.getByText(`${count} tokens`, { exact: true }).waitFor();
  await page.route("**/v1/chat/completions", (route) => route.fulfill(stream({ content: "```python\nif a < b:\n    pass\n```" })));
  await page.keyboard.press("Enter");
  await settle(page);
  await answers(page).getByRole("button", { name: "Copy" }).click();
  await answers(page).getByRole("button", { name: "Copied" }).waitFor();
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), "if a < b:\n    pass");
  check();
});

test("an answer that failed is not sent along", async () => {
  const { page } = await open(browser, server.url);
  const asked = [];
  await page.route("**/v1/chat/completions", (route) => {
    asked.push(route.request().postDataJSON().messages.map((each) => each.content));
    return asked.length === 1
      ? route.fulfill({ status: 503, json: { object: "error", message: "The queue is full.", code: 503 } })
      : route.fulfill(stream({ content: "fine" }));
  });
  await send(page, "first");
  await page.locator(".turn .failure").getByText("The queue is full.").waitFor();
  await send(page, "second");
  await answers(page).getByText("fine").waitFor();
  assert.deepEqual(asked[1], ["first", "second"]);
});

test("fill in the middle", async () => {
  const { page, check } = await open(browser, server.url);
  await page.getByRole("button", { name: "Fill in the middle" }).click();
  const sent = page.waitForRequest("**/v1/completions");
  await page.getByRole("button", { name: "Fill in", exact: true }).click();
  assert.ok((await sent).postDataJSON().suffix.includes("fibonacci"));
  await page.getByRole("button", { name: "Fill in", exact: true }).waitFor();
  assert.match(await page.locator(".middle").innerText(), /\d+ tokens/);
  check();
});

test("the same request as curl and Python", async () => {
  const { page, check } = await open(browser, server.url);
  await page.getByLabel("System prompt").fill("It's short.");
  await page.getByLabel("Top k").fill("20");
  await page.getByRole("button", { name: "As code" }).click();
  const text = await page.getByRole("dialog").innerText();
  assert.ok(text.includes(`curl -N ${server.url}/v1/chat/completions`) && text.includes("It'\\''s short."), text);
  assert.match(text, /extra_body=\{"top_k": 20\}/);
  check();
});

test("a server that dies and comes back", async () => {
  let mortal = await serve();
  const { page } = await open(browser, mortal.url);
  await page.route("**/v1/chat/completions", (route) => {
    return route.continue({ postData: JSON.stringify({ ...route.request().postDataJSON(), ignore_eos: true, max_tokens: 3000 }) });
  });
  await send(page, "Write a function");
  await page.locator(".markdown").waitFor();
  await mortal.stop("SIGKILL");
  await page.locator(".turn .failure").waitFor();
  assert.ok((await page.locator(".markdown").innerText()).length > 0, "what had arrived stays");
  await page.getByText("The server does not answer. Trying again").waitFor({ timeout: 10_000 });
  await page.getByRole("button", { name: "Try again" }).click();
  await page.locator(".turn .failure").getByText("The server does not answer.").waitFor();
  mortal = await serve([], mortal.port);
  await page.getByText("The server is back.").waitFor({ timeout: 10_000 });
  await page.unroute("**/v1/chat/completions");
  await page.getByRole("button", { name: "Try again" }).click();
  await page.locator(".stats").waitFor();
  assert.equal(await page.locator(".turn .failure").count(), 0);
  await mortal.stop();
});

test("with a key the page asks for it", async () => {
  const closed = await serve(["--api-key", "s3cret"]);
  const { page, check } = await open(browser, closed.url);
  const dialog = page.getByRole("dialog");
  await dialog.getByLabel("API key").fill("s3cret");
  await dialog.getByRole("button", { name: "Use it" }).click();
  await page.locator(".model").getByText("quern-demo").waitFor();
  await send(page, "Write a Python function that implements binary search.");
  await page.locator(".stats").waitFor();
  await page.getByRole("link", { name: "Live" }).click();
  await page.locator(".figures").waitFor();
  check();
  await closed.stop();
});
