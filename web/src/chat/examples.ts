// The example tools: their schemas, and the worker that answers them.

const text = (description: string) => ({ type: "string", description });

export const EXAMPLES = [
  {
    type: "function",
    function: {
      name: "calculate",
      description: "Evaluate an arithmetic expression",
      parameters: { type: "object", properties: { expression: text("The expression") }, required: ["expression"] },
    },
  },
  {
    type: "function",
    function: {
      name: "get_weather",
      description: "Get the weather in a city",
      parameters: {
        type: "object",
        properties: { city: text("Name of the city"), unit: { type: "string", enum: ["celsius", "fahrenheit"] } },
        required: ["city"],
      },
    },
  },
  {
    type: "function",
    function: {
      name: "convert_currency",
      description: "Convert money from one currency to another",
      parameters: {
        type: "object",
        properties: { amount: { type: "number", description: "Amount of money" }, from: text("Currency code"), to: text("Currency code") },
        required: ["amount", "from", "to"],
      },
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
