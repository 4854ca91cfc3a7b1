// What a conversation is made of. All of it stays in this browser.

export interface ToolCall {
  id: string;
  name: string;
  /** JSON as the model wrote it. */
  arguments: string;
}

export interface Stats {
  promptTokens: number;
  cachedTokens: number;
  outputTokens: number;
  /** Milliseconds from sending to the first piece of the answer. */
  firstTokenMs: number;
  /** Tokens a second after the first; absent for answers of one token. */
  rate?: number | undefined;
}

/** A text file that goes with a message. */
export interface TextFile {
  name: string;
  text: string;
}

export interface UserMessage {
  role: "user";
  content: string;
  files?: TextFile[] | undefined;
}

export interface AssistantMessage {
  role: "assistant";
  content: string;
  calls: ToolCall[];
  stats?: Stats | undefined;
  /** Why the answer ended, in the server's word or `stopped`. */
  end?: string | undefined;
  /** What went wrong. */
  error?: string | undefined;
  /** What it was asked with. */
  settings?: Settings | undefined;
  /** All answers to the same request, this one among them, if there are several. */
  variants?: AssistantMessage[] | undefined;
  /** Which of `variants` this is. */
  variant?: number | undefined;
}

export interface ToolMessage {
  role: "tool";
  callId: string;
  content: string;
}

export type Message = UserMessage | AssistantMessage | ToolMessage;

/** As typed; an empty text leaves the field to the model's defaults. */
export interface Settings {
  system: string;
  temperature: string;
  topP: string;
  topK: string;
  minP: string;
  repetitionPenalty: string;
  presencePenalty: string;
  frequencyPenalty: string;
  maxTokens: string;
  seed: string;
  /** Texts that end an answer, one a line. */
  stop: string;
  /** A JSON array of tools, or empty. */
  tools: string;
  /** A JSON Schema that answers obey, or empty. */
  schema: string;
}

export interface Conversation {
  id: string;
  title: string;
  /** Whether its title was given by hand. */
  named?: boolean | undefined;
  settings: Settings;
  messages: Message[];
}
