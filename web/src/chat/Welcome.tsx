// An empty conversation: what model this is, and what to try first.
import { DEMO_PROMPTS, PROMPTS, type SamplePrompt } from "./prompts";
import type { ServedModel } from "./useServer";

interface Props {
  model: ServedModel | undefined;
  onTry: (sample: SamplePrompt) => void;
}

export function Welcome({ model, onTry }: Props) {
  const samples = model?.isDemo ? DEMO_PROMPTS : PROMPTS;
  return (
    <div class="welcome">
      <p class="question">What shall we write?</p>
      {model?.isDemo && (
        <p class="notice">
          This is the small model inside the program: a demonstration of the server, with 5 million parameters. It knows
          some thirty short functions, calls tools, and solves simple word problems; most other answers are wrong. Start
          the server with <code>--model</code> for a real one.
        </p>
      )}
      <p class="quiet">Answers come from this server and from nowhere else.</p>
      {model && (
        <ul class="samples" aria-label="Try">
          {samples.map((sample) => (
            <li key={sample.title}>
              <button type="button" onClick={() => onTry(sample)}>
                <b>{sample.title}</b>
                <span>{sample.prompt}</span>
              </button>
            </li>
          ))}
        </ul>
      )}
    </div>
  );
}
