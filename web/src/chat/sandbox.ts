// A worker that answers the example tools. Its policy lets it reach nothing, and it is ended after a second.
// Arithmetic is parsed here; nothing a model writes is ever run as code.

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

/** An invented price of one unit of each currency, in dollars. */
const DOLLARS: Record<string, number> = { USD: 1, EUR: 1.25, GBP: 1.5, CHF: 1.2, JPY: 0.008, CNY: 0.15, INR: 0.0125 };

function dollars(code: unknown): number {
  const rate = DOLLARS[String(code).toUpperCase()];
  if (rate === undefined) throw new Error(`the example knows ${Object.keys(DOLLARS).join(", ")}`);
  return rate;
}

/** What they give to the model. Nothing of it is asked of anyone: weather and rates are invented. */
const TOOLS: Record<string, (args: Record<string, unknown>) => object> = {
  calculate: ({ expression }) => ({ result: new Arithmetic(String(expression).replaceAll("**", "^")).value() }),
  get_weather: ({ city, unit }) => {
    // The same city always has the same weather.
    const sum = Array.from(String(city), (letter) => letter.codePointAt(0) ?? 0).reduce((a, b) => a + b, 0);
    const celsius = 5 + (sum % 25);
    return {
      temperature: unit === "fahrenheit" ? Math.round(celsius * 1.8 + 32) : celsius,
      condition: ["sunny", "cloudy", "rainy", "windy"][sum % 4],
    };
  },
  convert_currency: ({ amount, from, to }) =>
    ({ result: Math.round((Number(amount) * dollars(from) / dollars(to)) * 100) / 100 }),
};

function answer(name: string, args: string): object {
  try {
    const tool = TOOLS[name];
    if (!tool) return { error: `there is no example named ${name}` };
    return tool(JSON.parse(args || "{}") as Record<string, unknown>);
  } catch (error) {
    return { error: error instanceof Error ? error.message : String(error) };
  }
}

addEventListener("message", (event: MessageEvent<{ name: string; args: string }>) => {
  postMessage(answer(event.data.name, event.data.args));
});
