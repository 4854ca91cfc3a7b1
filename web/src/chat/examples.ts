// The example tools: their schemas, and the worker that answers them.

const text = (description: string) => ({ type: "string", description });

export const EXAMPLES = [
  {
    type: "function",
    function: {
      name: "calculate",
      description: "Compute an arithmetic expression.",
      parameters: { type: "object", properties: { expression: text("For instance 2 * (3 + 4)") }, required: ["expression"] },
    },
  },
  {
    type: "function",
    function: {
      name: "current_time",
      description: "The time now.",
      parameters: { type: "object", properties: { timezone: text("For instance Europe/Berlin") } },
    },
  },
  {
    type: "function",
    function: {
      name: "roll_dice",
      description: "Roll dice.",
      parameters: { type: "object", properties: { sides: { type: "integer" }, count: { type: "integer" } } },
    },
  },
];

export function isExample(name: string): boolean {
  return EXAMPLES.some((tool) => tool.function.name === name);
}

/** The example's answer as text; an error is an answer too. */
export function runExample(name: string, args: string): Promise<string> {
  return new Promise((resolve) => {
    const worker = new Worker("./ui/sandbox.js", { type: "module" });
    const end = (answer: unknown) => {
      clearTimeout(timer);
      worker.terminate();
      resolve(JSON.stringify(answer));
    };
    const timer = setTimeout(() => end({ error: "it took more than a second" }), 1000);
    worker.onmessage = (event: MessageEvent<unknown>) => end(event.data);
    worker.onerror = () => end({ error: "the example did not start" });
    worker.postMessage({ name, args });
  });
}
