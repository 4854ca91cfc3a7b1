// A worker that answers the example tools. Its policy lets it reach nothing, and it is ended after a second.
// Arithmetic is parsed here; nothing a model writes is ever run as code.

type Answer = { result: unknown } | { error: string };

/** `2 * (3 + 4) ^ 2`, by recursive descent. */
class Arithmetic {
  private at = 0;
  private depth = 0;

  constructor(private readonly text: string) {}

  value(): number {
    const value = this.sum();
    if (this.peek() !== "") throw new Error(`unexpected \`${this.peek()}\` at ${this.at + 1}`);
    return value;
  }

  private peek(): string {
    while (this.text[this.at] === " ") this.at++;
    return this.text[this.at] ?? "";
  }

  private take(...wanted: string[]): string | undefined {
    const next = this.peek();
    if (!wanted.includes(next)) return undefined;
    this.at++;
    return next;
  }

  private sum(): number {
    let value = this.product();
    for (let sign = this.take("+", "-"); sign; sign = this.take("+", "-")) {
      value += (sign === "+" ? 1 : -1) * this.product();
    }
    return value;
  }

  private product(): number {
    let value = this.power();
    for (let sign = this.take("*", "/", "%"); sign; sign = this.take("*", "/", "%")) {
      const right = this.power();
      value = sign === "*" ? value * right : sign === "/" ? value / right : value % right;
    }
    return value;
  }

  private power(): number {
    const base = this.atom();
    return this.take("^") ? base ** this.power() : base;
  }

  private atom(): number {
    if (++this.depth > 1000) throw new Error("the expression is too long");
    if (this.take("-")) return -this.power();
    if (this.take("(")) {
      const value = this.sum();
      if (!this.take(")")) throw new Error("a bracket is not closed");
      return value;
    }
    this.peek();
    const number = /^\d+(\.\d+)?([eE][+-]?\d+)?/.exec(this.text.slice(this.at))?.[0];
    if (!number) throw new Error(`a number is wanted at ${this.at + 1}`);
    this.at += number.length;
    return Number(number);
  }
}

const TOOLS: Record<string, (args: Record<string, unknown>) => unknown> = {
  calculate: ({ expression }) => new Arithmetic(String(expression).replaceAll("**", "^")).value(),
  current_time: ({ timezone }) =>
    new Date().toLocaleString("sv-SE", { timeZone: timezone ? String(timezone) : "UTC", timeZoneName: "short" }),
  roll_dice: ({ sides, count }) => {
    const [faces, rolls] = [Math.trunc(Number(sides ?? 6)), Math.trunc(Number(count ?? 1))];
    if (!(faces >= 2 && faces <= 1000 && rolls >= 1 && rolls <= 100)) throw new Error("2 to 1000 sides, 1 to 100 dice");
    return Array.from({ length: rolls }, () => 1 + Math.floor(Math.random() * faces));
  },
};

function answer(name: string, args: string): Answer {
  try {
    const tool = TOOLS[name];
    if (!tool) return { error: `there is no example named ${name}` };
    return { result: tool(JSON.parse(args || "{}") as Record<string, unknown>) };
  } catch (error) {
    return { error: error instanceof Error ? error.message : String(error) };
  }
}

addEventListener("message", (event: MessageEvent<{ name: string; args: string }>) => {
  postMessage(answer(event.data.name, event.data.args));
});
