// The playground, with the model inside the program, and with answers made up where it can't be made to give them.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
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
  await page.getByRole("button", { name: "Edit", exact: true }).first().click();
  await page.getByRole("textbox", { name: "Your message" }).fill("changed");
  await page.getByRole("button", { name: "Send again" }).click();
  await answers(page).getByText("answer 3").waitFor();
  assert.deepEqual(asked, [["first"], ["first", "answer 1", "second"], ["changed"]]);
  assert.equal(await answers(page).count(), 1);
  await page.getByRole("button", { name: "changed", exact: true }).waitFor();
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
  await answers(page).getByRole("button", { name: "Copy", exact: true }).click();
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
  assert.ok((await sent).postDataJSON().suffix.includes("return a"));
  await page.getByRole("button", { name: "Fill in", exact: true }).waitFor();
  // The example is one that the model inside the program can fill in.
  assert.match(await page.locator(".middle").innerText(), /a, b = b, a \+ b[^]*\d+ tokens/);
  check();
});

test("as code is the request that was sent", async () => {
  const { page, check } = await open(browser, server.url);
  await page.getByLabel("System prompt").fill("It's short.");
  await page.getByLabel("Top k").fill("20");
  const code = async () => {
    await page.getByRole("button", { name: "As code" }).click();
    const commands = page.getByRole("dialog").locator("pre");
    await commands.nth(1).waitFor();
    const [curl, python] = await commands.allInnerTexts();
    await page.getByRole("button", { name: "Close" }).click();
    return { curl, python, body: JSON.parse(/-d '([^]*)'$/.exec(curl.trimEnd())[1].replaceAll("'\\''", "'")) };
  };
  await message(page).fill("draft");
  assert.deepEqual((await code()).body.messages.at(-1), { role: "user", content: "draft" }, "before it is sent: what will be");
  const sent = page.waitForRequest("**/v1/chat/completions");
  await send(page, "Say 'hello'");
  const body = (await sent).postDataJSON();
  await settle(page);
  const shown = await code();
  assert.deepEqual(shown.body, body, "and not a continuation of the answer");
  assert.ok(shown.curl.startsWith(`curl -N ${server.url}/v1/chat/completions`), shown.curl);
  assert.match(shown.python, /extra_body=\{"top_k": 20\}/);
  assert.match(shown.python, /stream=True/);
  // It stays the answer's request whatever the settings are now.
  await page.getByLabel("Top k").fill("");
  assert.deepEqual((await code()).body, body);
  await page.getByRole("button", { name: "Its request" }).click();
  assert.ok((await page.getByRole("dialog").innerText()).includes('"top_k": 20'));
  check();
});

test("the shown commands print what the page shows", async () => {
  const { page } = await open(browser, server.url);
  await send(page, "Hello");
  await settle(page);
  const said = (await answers(page).locator(".markdown").innerText()).trim();
  await page.getByRole("button", { name: "As code" }).click();
  const commands = page.getByRole("dialog").locator("pre");
  await commands.nth(1).waitFor();
  const [curl, python] = await commands.allInnerTexts();
  const frames = execFileSync("sh", ["-c", curl], { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] });
  const texts = frames.split("\n").filter((line) => line.startsWith("data: {")).map((line) => JSON.parse(line.slice(6)).choices[0]?.delta.content ?? "");
  assert.equal(texts.join("").trim(), said);
  const compiles = "import ast, sys; ast.parse(sys.stdin.read())";
  execFileSync("python3", ["-c", compiles], { input: python });
});

test("an empty conversation says what the model is, and its prompts work", async () => {
  const { page, check } = await open(browser, server.url);
  await page.getByText("small model inside the program").waitFor();
  assert.equal(await page.evaluate(() => document.activeElement.getAttribute("aria-label")), "Message", "one can write at once");
  const wanted = {
    "Write a function": /def binary_search\(/, "In another language": /chars\(\)\.rev\(\)/,
    "Solve a word problem": /#### 84|\b84\b/, "Call a tool": /get_weather/,
  };
  for (const [title, words] of Object.entries(wanted)) {
    await page.getByRole("button", { name: "New conversation" }).click();
    await page.getByRole("list", { name: "Try" }).getByRole("button", { name: title }).click();
    await page.keyboard.press("Enter");
    await settle(page);
    assert.match(await answers(page).innerText(), words, title);
  }
  await page.getByRole("button", { name: "Let the example answer" }).click();
  await answers(page).getByText(/It is \w+ in Paris, with \d+ degrees/).waitFor();
  check();
});

test("every example tool answers", async () => {
  const { page, check } = await open(browser, server.url);
  let name, args;
  await page.route("**/v1/chat/completions", (route) => route.fulfill(route.request().postDataJSON().messages.at(-1).role === "tool"
    ? stream({ content: "Done." }) : stream({ tool_calls: [{ index: 0, id: "c", function: { name, arguments: args } }] })));
  const calls = [
    ["calculate", '{"expression": "(12 + 30) * 7"}', '{"result":294}'],
    ["calculate", '{"expression": "fetch(1)"}', '{"error":"a number is wanted at 1"}'],
    ["get_weather", '{"city": "Paris"}', /"temperature":\d+,"condition":"/],
    ["convert_currency", '{"amount": 100, "from": "EUR", "to": "USD"}', '{"result":125}'],
    ["convert_currency", '{"amount": 1, "from": "EUR", "to": "XYZ"}', /"error":"the example knows USD/],
  ];
  for ([name, args] of calls) {
    await page.getByRole("button", { name: "New conversation" }).click();
    await send(page, name);
    await page.getByRole("button", { name: "Let the example answer" }).click();
    await settle(page);
    const wanted = calls.find((each) => each[1] === args)[2];
    const result = await page.locator(".call-result code").innerText();
    assert.ok(typeof wanted === "string" ? result === wanted : wanted.test(result), `${name} ${args}: ${result}`);
  }
  check();
});

test("code in a call's arguments is shown as code", async () => {
  const { page, check } = await open(browser, server.url);
  const args = { path: "src/main.rs", content: "fn main() {\n    println!(\"a\\tb\");\n}\n", mode: 420 };
  await page.route("**/v1/chat/completions", (route) => route.fulfill(stream(
    { tool_calls: [{ index: 0, id: "c", function: { name: "write_file", arguments: JSON.stringify(args) } }] })));
  await send(page, "Write it");
  const card = page.getByRole("region", { name: "Call of write_file" });
  const code = card.locator(".code");
  assert.equal(await code.locator("code").evaluate((each) => each.textContent), args.content);
  assert.ok(await code.locator(".hljs-keyword").count() > 0, "coloured by the ending of the path beside it");
  assert.equal(await card.locator("> pre").evaluate((each) => each.textContent), JSON.stringify({ path: args.path, mode: 420 }, null, 2));
  check();
});

test("the end of an answer stays in view, until one scrolls away from it", async () => {
  for (const viewport of [{ width: 1280, height: 800 }, { width: 640, height: 400 }, { width: 390, height: 844 }]) {
    const { page, context } = await open(browser, server.url, { viewport });
    let lines = 400;
    await page.route("**/v1/chat/completions", (route) => route.fulfill(stream(
      ...Array.from({ length: lines }, (_, i) => ({ content: `line ${i}\n\n` })))));
    await send(page, "Many lines");
    await settle(page);
    await page.locator(".stats").last().waitFor();
    const turns = page.locator(".turns");
    const away = () => turns.evaluate((box) => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(() =>
      resolve(box.scrollHeight - box.scrollTop - box.clientHeight)))));
    assert.ok(await away() <= 1, `${viewport.width}: ${await away()}`);
    // Above the end nothing pulls one down.
    await turns.evaluate((box) => { box.scrollTop -= 300; });
    await away();
    await page.setViewportSize({ ...viewport, height: viewport.height - 20 });
    assert.ok(await away() > 100);
    // What one sends is in view again.
    lines = 3;
    await send(page, "More");
    await settle(page);
    assert.ok(await away() <= 1);
    await context.close();
  }
});

test("phones and zoomed windows keep room for the conversation", async () => {
  for (const [viewport, least] of [[{ width: 390, height: 844 }, 0.65], [{ width: 640, height: 400 }, 0.55], [{ width: 844, height: 390 }, 0.5]]) {
    const { page, context } = await open(browser, server.url, { viewport });
    await page.locator(".samples").waitFor();
    assert.equal(await page.locator(".turns").evaluate((box) => box.scrollTop), 0, "it begins at the beginning");
    const share = await page.locator(".turns").evaluate((box) => box.clientHeight / innerHeight);
    assert.ok(share >= least, `${viewport.width} × ${viewport.height}: ${share}`);
    await page.getByRole("button", { name: "Settings" }).click();
    await page.getByRole("dialog", { name: "Settings" }).getByLabel("Min p").fill("0.1");
    await page.keyboard.press("Escape");
    const sent = page.waitForRequest("**/v1/chat/completions");
    await send(page, "Hello");
    assert.equal((await sent).postDataJSON().min_p, 0.1);
    await settle(page);
    await page.getByRole("button", { name: "Conversations" }).click();
    await page.getByRole("dialog", { name: "Conversations" }).getByRole("button", { name: "New conversation" }).click();
    assert.equal(await page.getByRole("dialog").count(), 0);
    assert.equal(await answers(page).count(), 0);
    await context.close();
  }
});

test("all samplers, stops and a schema are sent", async () => {
  const { page, check } = await open(browser, server.url);
  const fields = { Temperature: "temperature", "Top p": "top_p", "Top k": "top_k", "Min p": "min_p", Repetition: "repetition_penalty",
    Presence: "presence_penalty", Frequency: "frequency_penalty", "Max tokens": "max_tokens", Seed: "seed" };
  for (const label of Object.keys(fields)) await page.getByLabel(label, { exact: true }).fill("1");
  await page.getByLabel("Top k").fill("-1");
  await page.getByLabel("Stop at").fill("END\n\nSTOP");
  await page.getByRole("button", { name: "Use an example schema" }).click();
  await page.getByText("Answers obey this schema.").waitFor();
  await page.getByLabel("Max tokens").fill("200");
  const sent = page.waitForRequest("**/v1/chat/completions");
  await send(page, "Anna lives in Kiel. Say who lives where.");
  const body = (await sent).postDataJSON();
  for (const name of Object.values(fields)) assert.ok(name in body, name);
  assert.deepEqual(body.stop, ["END", "STOP"]);
  assert.equal(body.response_format.type, "json_schema");
  await settle(page);
  assert.match(await answers(page).locator(".markdown").innerText(), /^\s*\{\s*"name"/);
  await page.getByLabel("JSON schema of answers").fill("[1");
  await page.getByText("Not JSON").waitFor();
  check();
});

test("an empty sampler shows what the server takes", async () => {
  const { page } = await open(browser, server.url);
  const { params } = (await (await fetch(`${server.url}/props`)).json()).default_generation_settings;
  await page.getByPlaceholder(`default ${params.top_k}`, { exact: true }).first().waitFor();
  assert.equal(params.top_k, 1);
  await page.getByText("it takes the likeliest token whatever the temperature").waitFor();
});

test("an answer can be asked for again, compared, and changed", async () => {
  const { page, check } = await open(browser, server.url);
  const asked = [];
  await page.route("**/v1/chat/completions", (route) => {
    asked.push(route.request().postDataJSON().messages.map((each) => each.content));
    return route.fulfill(stream({ content: `answer ${asked.length}` }));
  });
  await send(page, "first");
  await settle(page);
  for (const number of [2, 3]) {
    await page.getByRole("button", { name: "Regenerate" }).click();
    await answers(page).getByText(`answer ${number}`).waitFor();
    await settle(page);
  }
  await page.getByText("3 of 3").waitFor();
  await page.getByRole("button", { name: "Answer before" }).click();
  await answers(page).getByText("answer 2").waitFor();
  await page.getByRole("button", { name: "Edit answer" }).click();
  await page.getByRole("textbox", { name: "The model's answer" }).fill("answer by hand");
  await page.getByRole("button", { name: "Keep" }).click();
  await page.getByRole("button", { name: "Next answer" }).click();
  await answers(page).getByText("answer 3").waitFor();
  await page.getByRole("button", { name: "Answer before" }).click();
  // What goes on is what is shown, today and after a reload.
  await page.reload();
  await page.getByRole("button", { name: "first", exact: true }).click();
  await send(page, "second");
  await answers(page).getByText("answer 4").waitFor();
  assert.deepEqual(asked, [["first"], ["first"], ["first"], ["first", "answer by hand", "second"]]);
  assert.equal(await page.getByRole("button", { name: "Answer before" }).count(), 0, "what follows belongs to the answer above it");
  check();
});

test("conversations are found, renamed, saved to a file and read from it", async () => {
  const { page, check } = await open(browser, server.url);
  await page.route("**/v1/chat/completions", (route) => route.fulfill(stream({ content: `About ${route.request().postDataJSON().messages.at(-1).content}` })));
  for (const topic of ["pears", "plums"]) {
    await page.getByRole("button", { name: "New conversation" }).click();
    await send(page, topic);
    await settle(page);
  }
  const history = page.getByRole("navigation", { name: "Conversations" });
  const titles = () => history.locator(".title").allInnerTexts();
  await history.getByRole("searchbox").fill("ABOUT PEAR");
  assert.deepEqual(await titles(), ["pears"]);
  await history.getByRole("searchbox").fill("nowhere");
  await page.getByText("Nothing found.").waitFor();
  await history.getByRole("searchbox").fill("");
  await history.getByRole("button", { name: "Rename pears" }).click();
  await history.getByRole("textbox", { name: "Title" }).fill("Autumn fruit");
  await page.keyboard.press("Enter");
  assert.deepEqual(await titles(), ["plums", "Autumn fruit"]);
  const saved = page.waitForEvent("download");
  await history.getByRole("button", { name: "Export" }).click();
  const file = await (await saved).path();
  for (const title of ["plums", "Autumn fruit"]) await history.getByRole("button", { name: `Delete ${title}` }).click();
  assert.deepEqual(await titles(), []);
  const picker = history.locator("input[type=file]");
  await picker.setInputFiles({ name: "wrong.json", mimeType: "application/json", buffer: Buffer.from('{"conversations": []}') });
  await history.getByRole("alert").getByText("wrong.json is no file of conversations: format").waitFor();
  await picker.setInputFiles(file);
  await history.getByRole("button", { name: "Autumn fruit", exact: true }).waitFor();
  assert.deepEqual(await titles(), ["plums", "Autumn fruit"]);
  await history.getByRole("button", { name: "Autumn fruit", exact: true }).click();
  await answers(page).getByText("About pears").waitFor();
  // A name given by hand stays when the first message changes.
  await page.getByRole("button", { name: "Edit", exact: true }).click();
  await page.getByRole("textbox", { name: "Your message" }).fill("cherries");
  await page.getByRole("button", { name: "Send again" }).click();
  await answers(page).getByText("About cherries").waitFor();
  assert.ok((await titles()).includes("Autumn fruit"));
  check();
});

test("text files go with a message, others are refused", async () => {
  const { page, check } = await open(browser, server.url);
  await page.route("**/v1/chat/completions", (route) => route.fulfill(stream({ content: "Read." })));
  const picker = page.locator(".composer input[type=file]");
  const code = "a = 1\n```\nb = 2\n";
  await picker.setInputFiles([
    { name: "code.py", mimeType: "text/x-python", buffer: Buffer.from(code) },
    { name: "picture.png", mimeType: "image/png", buffer: Buffer.from([0x89, 0x50, 0x4e, 0x47, 0]) },
    { name: "large.txt", mimeType: "text/plain", buffer: Buffer.alloc((2 << 20) + 1, "a") },
  ]);
  await page.getByRole("list", { name: "Attached files" }).getByText("code.py").waitFor();
  const failure = await page.locator(".composer .failure").innerText();
  assert.match(failure, /picture\.png is not text/);
  assert.match(failure, /large\.txt is larger than 2 MiB/);
  const sent = page.waitForRequest("**/v1/chat/completions");
  await send(page, "What is b?");
  const [{ content }] = (await sent).postDataJSON().messages;
  assert.equal(content, "code.py:\n````\n" + code.trimEnd() + "\n````\n\nWhat is b?");
  await settle(page);
  assert.equal(await page.getByRole("list", { name: "Attached files" }).count(), 0);
  await page.locator("details.file summary").getByText("code.py").waitFor();
  check();
});

test("how much of the context is used", async () => {
  const { page, check } = await open(browser, server.url);
  const limit = (await (await fetch(`${server.url}/v1/models`)).json()).data[0].max_model_len;
  await send(page, "Hello");
  await settle(page);
  const [, answer, prompt] = /(\d+) tokens .* prompt (\d+)/.exec(await page.locator(".stats").innerText());
  const meter = page.getByRole("meter", { name: "Context used" });
  assert.equal(Number(await meter.getAttribute("value")), Number(answer) + Number(prompt));
  assert.equal(Number(await meter.getAttribute("max")), limit);
  await page.getByText(`of ${limit.toLocaleString("en")} tokens of context`).waitFor();
  check();
});

test("what an older page has kept is read, and what cannot be read is left out", async () => {
  const { page, context, check } = await open(browser, server.url);
  const old = { id: "a", title: "Old", settings: { system: "Be brief.", temperature: "0.5" }, messages: [{ role: "user", content: "Hi" }] };
  await page.evaluate((kept) => localStorage.setItem("quern.conversations", JSON.stringify(kept)), [{ id: 5 }, old, null]);
  const again = await context.newPage();
  await again.goto(server.url);
  await again.getByRole("button", { name: "Old", exact: true }).click();
  assert.equal(await again.getByLabel("System prompt").inputValue(), "Be brief.");
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
  await dialog.getByLabel("API key").fill("wrong");
  await dialog.getByRole("button", { name: "Use it" }).click();
  await dialog.getByText("The server refused this key.").waitFor();
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
