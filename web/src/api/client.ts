// Requests to the server this page came from: relative addresses, the key if there is one, errors in words.

const KEY = "quern.key";
const listeners = new Set<(refused: boolean) => void>();
const given = new Set<() => void>();

/** Call `listener` when a request was refused for want of a key, or with the key it had. Returns how to stop. */
export function onKeyWanted(listener: (refused: boolean) => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** Call `listener` when a key was given. Returns how to stop. */
export function onKeyGiven(listener: () => void): () => void {
  given.add(listener);
  return () => given.delete(listener);
}

/** Use `key` from now on, until the tab is closed. */
export function giveKey(key: string): void {
  sessionStorage.setItem(KEY, key);
  for (const listener of given) listener();
}

/** What the server said instead of an answer. */
export class ApiError extends Error {
  constructor(readonly status: number, message: string) {
    super(message);
  }
}

/** Ask for `path`; an answer other than 2xx is thrown as an `ApiError`. */
export async function request(path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers);
  const key = sessionStorage.getItem(KEY);
  if (key) headers.set("Authorization", `Bearer ${key}`);
  const response = await fetch(`./${path}`, { ...init, headers });
  if (response.ok) return response;
  // A request that was on its way when another key was given says nothing about that one.
  if (response.status === 401 && key === sessionStorage.getItem(KEY)) for (const listener of listeners) listener(key !== null);
  throw new ApiError(response.status, await reason(response));
}

/** Send `body` as JSON. */
export function post(path: string, body: unknown, signal?: AbortSignal): Promise<Response> {
  const init: RequestInit = {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  };
  return request(path, signal ? { ...init, signal } : init);
}

async function reason(response: Response): Promise<string> {
  const text = await response.text();
  try {
    const { message, error, detail } = JSON.parse(text) as Record<string, unknown>;
    for (const words of [message, error, detail]) if (typeof words === "string") return words;
    if (error && typeof error === "object" && "message" in error) return String(error.message);
  } catch {
    // Not JSON: a proxy's words.
  }
  return text.slice(0, 300) || `${response.status} ${response.statusText}`;
}
