// What the server is doing: its models, and whether it would answer now.

import { ApiError, checkReady, listModels, loadModel } from "./api.js";
import { byId, h } from "./dom.js";
import { keep, settings } from "./settings.js";

const OFTEN_MS = 1000;
const SELDOM_MS = 20000;

const WORDS = { ready: "ready", loading: "loading", unloaded: "not loaded", failed: "failed" };

/** wantsKey: called when the server refuses for want of a key. changed: called with the chosen model. */
export function watchServer({ wantsKey, changed }) {
  const select = byId("model");
  const load = byId("load-model");
  let models = [];
  let timer = null;
  let polling = null;

  const named = (id) => models.find((model) => model.id === id) ?? null;
  const chosen = () => named(select.value);
  const context = (model) => (model.max_context_length ? `${model.max_context_length.toLocaleString("en")} tokens` : "");

  function paint() {
    // The state and context of the chosen one stand beside the list.
    const listed = models.map(({ id, state }) => [id, state === "ready" ? id : `${id} (${WORDS[state] ?? state})`]);
    const shown = JSON.stringify(listed);
    if (select.dataset.shown !== shown) {
      select.dataset.shown = shown;
      const wanted = models.some((model) => model.id === settings.model) ? settings.model : models[0]?.id;
      select.replaceChildren(...listed.map(([id, label]) => h("option", { value: id }, label)));
      select.value = wanted ?? "";
      settings.model = select.value;
    }
    const model = chosen();
    byId("model-dot").dataset.state = model?.state ?? "loading";
    byId("model-note").textContent = model ? [WORDS[model.state] ?? model.state, context(model)].filter(Boolean).join(" · ") : "";
    load.hidden = model?.state !== "unloaded";
    changed(model);
  }

  function banner(words, tone) {
    const element = byId("banner");
    if (element.textContent !== words) element.textContent = words;
    element.dataset.tone = tone;
    element.hidden = !words;
  }

  async function look() {
    try {
      models = await listModels();
      paint();
    } catch (error) {
      if (error.status === 401) return refused();
      banner(error.message, "bad");
      return OFTEN_MS;
    }
    try {
      await checkReady();
      banner("", "");
      return SELDOM_MS;
    } catch (error) {
      if (error.status === 401) return refused();
      const waiting = error instanceof ApiError && error.status === 503;
      banner(waiting ? `Not ready yet: ${error.message}` : error.message, waiting ? "wait" : "bad");
      return OFTEN_MS;
    }
  }

  function refused() {
    banner("This server wants an API key before it tells anything.", "wait");
    wantsKey();
    return null;
  }

  /** Look now, then again after a while that depends on what was seen; never twice at a time. */
  function poll() {
    clearTimeout(timer);
    polling ??= look().then((pause) => {
      polling = null;
      clearTimeout(timer);
      if (pause !== null) timer = setTimeout(() => !document.hidden && poll(), pause);
    });
    return polling;
  }

  document.addEventListener("visibilitychange", () => !document.hidden && poll());
  addEventListener("online", poll);
  select.addEventListener("change", () => (keep({ model: select.value }), paint()));
  load.addEventListener("click", async () => {
    load.disabled = true;
    const following = setInterval(poll, OFTEN_MS);
    try {
      await loadModel(select.value);
    } catch (error) {
      banner(error.message, "bad");
    } finally {
      clearInterval(following);
      load.disabled = false;
      poll();
    }
  });
  poll();
  return { poll, chosen, named };
}
