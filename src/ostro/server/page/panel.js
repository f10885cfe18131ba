// The settings beside the conversation: sampling, tools, format. Every change is kept and told to `changed`.

import { byId, growing, h, makeTabs } from "./dom.js";
import { FIELDS, readField, readStops } from "./fields.js";
import { FORMATS, parseJson, readFormat } from "./formats.js";
import { keep, settings } from "./settings.js";
import { EXAMPLE, readTools } from "./tools.js";

const WIDE = matchMedia("(min-width: 64rem)");
const PANES = { tools: "tab-tools", tool_choice: "tab-tools", response_format: "tab-format" };

export function makePanel(changed) {
  const panel = byId("panel");
  const toggle = byId("panel-toggle");
  const choose = makeTabs(panel.querySelector('[role="tablist"]'), (tab, tabs) => {
    for (const other of tabs) byId(other.getAttribute("aria-controls")).hidden = other !== tab;
  });

  function open(wanted, focus = false) {
    panel.hidden = !wanted;
    toggle.setAttribute("aria-expanded", String(wanted));
    document.body.classList.toggle("with-panel", wanted);
    if (focus && wanted) panel.querySelector('[aria-selected="true"]').focus();
    else if (focus) toggle.focus();
  }
  const flip = () => {
    open(panel.hidden, true);
    keep({ panel: !panel.hidden });
  };
  toggle.addEventListener("click", flip);
  byId("panel-close").addEventListener("click", flip);
  panel.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !WIDE.matches && !panel.hidden) flip();
  });
  // On a narrow window the panel covers the conversation: it opens there only when asked for.
  open(WIDE.matches && (settings.panel ?? true));
  WIDE.addEventListener("change", () => open(WIDE.matches && (settings.panel ?? true)));

  const sampling = samplingPane(changed);
  toolsPane(changed);
  formatPane(changed);

  /** Show a field of a request and mark what is wrong with it; false where the panel does not have it. */
  function show(param, words) {
    const name = /^[a-z_]+/.exec(param)?.[0] ?? "";
    const tab = PANES[name] ?? (sampling.has(name) ? "tab-sampling" : null);
    if (!tab) return false;
    open(true);
    choose(tab);
    const target = name === "tools" ? byId("tools-text") : name === "tool_choice" ? byId("tool-choice") : name === "response_format" ? (byId("format-field").hidden ? byId("format") : byId("format-text")) : sampling.input(name);
    if (words && sampling.has(name)) sampling.mark(name, words);
    target.focus();
    return true;
  }

  return { flip, show, showTab: (tab) => (open(true), choose(tab), byId(tab).focus()) };
}

function samplingPane(changed) {
  const system = byId("system");
  system.value = settings.system;
  growing(system);
  system.addEventListener("input", () => (keep({ system: system.value }), changed()));

  const parts = {};
  const set = (name, text) => {
    const sampling = { ...settings.sampling, [name]: text };
    if (!text.trim()) delete sampling[name];
    keep({ sampling });
    mark(name, name === "stop" ? readStops(text).problem : readField(FIELDS.find((field) => field.name === name), text).problem);
    changed();
  };
  function mark(name, words) {
    const { input, said, row } = parts[name];
    said.textContent = words ?? "";
    input.setAttribute("aria-invalid", String(Boolean(words)));
    row.classList.toggle("set", Boolean(input.value.trim()));
  }

  const list = byId("fields");
  for (const field of FIELDS) {
    const id = `field-${field.name}`;
    const said = h("p", { class: "said", id: `${id}-said`, "aria-live": "polite" });
    const input = h("input", {
      id, type: "text", inputmode: field.min < 0 ? "text" : field.kind === "a number" ? "decimal" : "numeric", autocomplete: "off",
      placeholder: String(field.empty), "aria-describedby": `${id}-hint ${id}-said`, value: settings.sampling[field.name] ?? "",
    });
    const slider = field.slide && h("input", {
      type: "range", min: field.slide[0], max: field.slide[1], step: field.slide[2], tabindex: "-1", "aria-hidden": "true",
    });
    const follow = () => {
      if (!slider) return;
      slider.value = input.value.trim() && Number.isFinite(Number(input.value)) ? input.value : field.empty;
      // The bar runs from zero, which is in the middle where a value may be negative.
      const [low, high] = field.slide;
      const place = (value) => ((Math.max(low, value) - low) / (high - low)) * 100;
      const ends = [place(0), place(Number(slider.value))];
      slider.style.setProperty("--from", `${Math.min(...ends)}%`);
      slider.style.setProperty("--to", `${Math.max(...ends)}%`);
    };
    input.addEventListener("input", () => (follow(), set(field.name, input.value)));
    input.addEventListener("keydown", (event) => nudge(event, field, input));
    slider?.addEventListener("input", () => ((input.value = String(Number(slider.value))), follow(), set(field.name, input.value)));
    const row = h("div", { class: slider ? "field slid" : "field half" }, h("label", { for: id }, field.label), input, slider,
      h("small", { id: `${id}-hint`, class: "about" }, field.hint), said);
    parts[field.name] = { input, said, row, follow };
    list.append(row);
    follow();
    mark(field.name, readField(field, input.value).problem);
  }

  const stops = h("textarea", { id: "field-stop", rows: "1", spellcheck: "false", placeholder: "none", "aria-describedby": "stop-hint stop-said", value: settings.sampling.stop ?? "", oninput: () => set("stop", stops.value) });
  const said = h("p", { class: "said", id: "stop-said", "aria-live": "polite" });
  const row = h("div", { class: "field" }, h("label", { for: "field-stop" }, "Stop"), stops, h("small", { id: "stop-hint", class: "about" }, "Texts that end an answer, one a line; \\n is a line break."), said);
  list.append(row);
  parts.stop = { input: stops, said, row, follow: growing(stops) };
  mark("stop", readStops(stops.value).problem);

  byId("reset").addEventListener("click", () => {
    keep({ sampling: {} });
    for (const [name, part] of Object.entries(parts)) {
      part.input.value = "";
      part.follow();
      mark(name);
    }
    changed();
  });
  const logprobs = byId("logprobs");
  logprobs.checked = settings.logprobs;
  logprobs.addEventListener("change", () => (keep({ logprobs: logprobs.checked }), changed()));
  return { has: (name) => name in parts, input: (name) => parts[name].input, mark };
}

/** Arrow keys in a field move it by its step, as a slider would. */
function nudge(event, field, input) {
  const sign = { ArrowUp: 1, ArrowDown: -1 }[event.key];
  if (!sign || event.altKey || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  const step = field.slide?.[2] ?? 1;
  const now = readField(field, input.value).value ?? (typeof field.empty === "number" ? field.empty : field.name === "max_tokens" ? 255 : 0);
  const next = Math.min(field.max, Math.max(field.above ? step : field.min, now + sign * step * (event.shiftKey ? 10 : 1)));
  input.value = String(Number(next.toFixed(6)));
  input.dispatchEvent(new Event("input"));
}

function toolsPane(changed) {
  const [on, text, choice, parallel, said] = ["tools-on", "tools-text", "tool-choice", "tools-parallel", "tools-said"].map(byId);
  on.checked = settings.toolsOn;
  text.value = settings.tools;
  parallel.checked = settings.parallel;
  const read = () => {
    const { names = [], problem } = readTools(text.value);
    const wanted = [["auto", "Auto: the model decides"], ["none", "None: only text"], ["required", "Required: at least one call"], ...names.map((name) => [`only ${name}`, `Only ${name}`])];
    choice.replaceChildren(...wanted.map(([value, label]) => h("option", { value }, label)));
    choice.value = wanted.some(([value]) => value === settings.toolChoice) ? settings.toolChoice : "auto";
    said.textContent = text.value.trim() ? (problem ?? `${names.length} ${names.length === 1 ? "function" : "functions"}: ${names.join(", ")}`) : "";
    said.classList.toggle("fine", !problem);
    text.setAttribute("aria-invalid", String(Boolean(problem && text.value.trim())));
  };
  const set = (value) => {
    text.value = value;
    keep({ tools: value });
    read();
    changed();
  };
  text.addEventListener("input", () => set(text.value));
  on.addEventListener("change", () => {
    keep({ toolsOn: on.checked });
    if (on.checked && !text.value.trim()) set(EXAMPLE);
    changed();
  });
  choice.addEventListener("change", () => (keep({ toolChoice: choice.value }), changed()));
  parallel.addEventListener("change", () => (keep({ parallel: parallel.checked }), changed()));
  byId("tools-example").addEventListener("click", () => set(EXAMPLE));
  byId("tools-tidy").addEventListener("click", () => set(tidied(text.value)));
  read();
}

function formatPane(changed) {
  const [kind, text, said] = ["format", "format-text", "format-said"].map(byId);
  kind.append(...Object.entries(FORMATS).map(([value, { label }]) => h("option", { value }, label)));
  kind.value = settings.format in FORMATS ? settings.format : "text";
  const read = () => {
    const format = FORMATS[kind.value];
    byId("format-field").hidden = !format.field;
    byId("format-label").textContent = format.field ?? "";
    byId("format-tidy").hidden = !format.json;
    byId("format-about").textContent = format.about;
    const { problem } = readFormat(kind.value, text.value);
    said.textContent = format.field && text.value.trim() ? (problem ?? (format.json ? "Valid JSON" : "")) : "";
    said.classList.toggle("fine", !problem);
    text.setAttribute("aria-invalid", String(Boolean(problem && text.value.trim())));
  };
  const set = (value) => {
    text.value = value;
    keep({ formats: { ...settings.formats, [kind.value]: value } });
    read();
    changed();
  };
  const pick = () => {
    keep({ format: kind.value });
    text.value = settings.formats[kind.value] ?? FORMATS[kind.value].example ?? "";
    set(text.value);
  };
  kind.addEventListener("change", pick);
  text.addEventListener("input", () => set(text.value));
  byId("format-example").addEventListener("click", () => set(FORMATS[kind.value].example));
  byId("format-tidy").addEventListener("click", () => set(tidied(text.value)));
  text.value = settings.formats[kind.value] ?? "";
  read();
}

function tidied(text) {
  const { value, problem } = parseJson(text);
  return problem ? text : JSON.stringify(value, null, 2);
}
