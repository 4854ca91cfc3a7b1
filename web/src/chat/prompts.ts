// What to try first. `web/test` holds the model inside the program to them.
import { EXAMPLES } from "./examples";
import type { Settings } from "./types";

export interface SamplePrompt {
  title: string;
  prompt: string;
  /** Settings that go with it. */
  settings?: Partial<Settings>;
}

const tools = JSON.stringify(EXAMPLES, null, 2);

/** The model inside the program knows these. */
export const DEMO_PROMPTS: readonly SamplePrompt[] = [
  { title: "Write a function", prompt: "Write a Python function that implements binary search." },
  { title: "In another language", prompt: "Write a Rust function that reverses a string." },
  { title: "Solve a word problem", prompt: "Julia writes 12 letters every day. How many letters is that in 7 days?" },
  { title: "Call a tool", prompt: "What is the weather in Paris?", settings: { tools } },
];

/** A model of full size is asked for more. */
export const PROMPTS: readonly SamplePrompt[] = [
  { title: "Write a function", prompt: "Write a Rust function that merges overlapping intervals, with unit tests." },
  { title: "Explain an error", prompt: "What does `ValueError: too many values to unpack (expected 2)` mean in Python, and how do I find its cause?" },
  { title: "Review code", prompt: "Review this Go code:\n\nfunc read(path string) string {\n\tb, _ := os.ReadFile(path)\n\treturn string(b)\n}" },
  { title: "Call a tool", prompt: "What is (1234 + 5678) * 9, and what is the weather in Berlin?", settings: { tools } },
];
