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
  rate?: number;
}

export interface UserMessage {
  role: "user";
  content: string;
}

export interface AssistantMessage {
  role: "assistant";
  content: string;
  calls: ToolCall[];
  stats?: Stats;
  /** Why the answer ended, in the server's word or `stopped`. */
  end?: string;
  /** What went wrong. */
  error?: string;
}

export interface ToolMessage {
  role: "tool";
  callId: string;
  content: string;
}

export type Message = UserMessage | AssistantMessage | ToolMessage;

export interface Settings {
  system: string;
  temperature: string;
  topP: string;
  topK: string;
  repetitionPenalty: string;
  maxTokens: string;
  seed: string;
  /** A JSON array of tools, or empty. */
  tools: string;
}

export interface Conversation {
  id: string;
  title: string;
  settings: Settings;
  messages: Message[];
}
