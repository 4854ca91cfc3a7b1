// What the page knows of the server behind it: the model, its context, and how it samples when nothing is said.
import { useEffect, useState } from "preact/hooks";

import { onKeyGiven, request } from "../api/client";

export interface ServedModel {
  name: string;
  /** Whether it is the small model inside the program. */
  isDemo: boolean;
  /** Tokens of a prompt and its answer. */
  contextLength: number;
  /** Sampling of a request that leaves it open, by llama.cpp's names. */
  defaults: Record<string, unknown>;
}

interface Props {
  model_alias: string;
  model_path: string;
  default_generation_settings: { n_ctx: number; params: Record<string, unknown> };
}

/** The name under which the program knows the model inside it. */
const DEMO = "quern-demo";

/** Nothing until the server has said; asking early also finds out whether a key is wanted. */
export function useServer(): ServedModel | undefined {
  const [model, setModel] = useState<ServedModel>();
  useEffect(() => {
    const load = () => {
      request("props").then(async (response) => {
        const { model_alias, model_path, default_generation_settings: { n_ctx, params } } = (await response.json()) as Props;
        setModel({ name: model_alias, isDemo: model_path === DEMO, contextLength: n_ctx, defaults: params });
      }, () => undefined);
    };
    load();
    return onKeyGiven(load);
  }, []);
  return model;
}
