// The playground: a conversation with one model, and everything that a request to it can carry.

import { Answer } from "./answer.js";
import { AnswerView } from "./answer-view.js";
import { ApiError, streamChat } from "./api.js";
import { makeAttachments } from "./attachments.js";
import { exportDialog, keyDialog, makeDialogs } from "./dialogs.js";
import { byId, growing, h, say, setIcon } from "./dom.js";
import { exported } from "./export.js";
import { FORMATS } from "./formats.js";
import { makeKeyboard } from "./keyboard.js";
import { makePanel } from "./panel.js";
import { makeRecorder } from "./recording.js";
import { bodyOf, readSettings } from "./request.js";
import { keep, settings } from "./settings.js";
import { watchServer } from "./status.js";
import { userView } from "./user-view.js";
import { paintWelcome } from "./welcome.js";

const ROUTING = "ostro"; // the architecture whose attention is routed by sense
const WAITING_MS = 1000;
const NEAR_PX = 80;

const conversation = []; // {item, view}: what was said, and how it is shown
let running = null; // {abort, answer}

const log = byId("log");
const prompt = byId("prompt");
const send = byId("send");
const scroll = byId("scroll");
const fit = growing(prompt);

// --- asking and answering

/** What the settings ask for; null where one of them is wrong, and is told. Ask before anything is taken away. */
function asked() {
  const { fields, problems } = readSettings(settings);
  const [problem] = Object.entries(problems);
  refuse(...(problem ?? [null]));
  return problem ? null : fields;
}

async function answer(fields) {
  const items = said();
  const question = items.findLast((item) => item.role === "user");
  const made = new Answer(settings.model, bodyOf(settings, fields, items));
  const view = new AnswerView(made, {
    again: () => again(made),
    mayGoOn: () => asked() !== null,
    goOn: () => {
      cut(conversation.findIndex(({ item }) => item === made) + 1);
      answer(asked());
      prompt.focus();
    },
    show: (param) => panel.show(param, made.error?.message) || prompt.focus(),
    routed: () => (server.named(made.model)?.architecture === ROUTING ? question : null),
  });
  add(made, view);
  const abort = new AbortController();
  running = { abort, answer: made };
  paintState();
  say("Answering.");
  follow(true);
  const waiting = setInterval(() => tellWait(made, view), WAITING_MS);
  try {
    await stream(made, view, abort.signal);
  } catch (error) {
    if (abort.signal.aborted) made.stopped = true;
    else made.error = error instanceof ApiError ? error : new ApiError(`The page failed: ${error.message}`);
    if (made.error?.status === 401) askKey();
  } finally {
    clearInterval(waiting);
    made.done = true;
    const stuck = isAtEnd();
    view.finish();
    if (running?.answer === made) running = null;
    paintState();
    follow(stuck);
    say(made.error ? `The answer failed: ${made.error.message}` : made.stopped ? "Stopped." : "The answer is complete.");
    server.poll();
  }
}

async function stream(made, view, signal) {
  made.sentAt = performance.now();
  const { requestId, ignored, chunks } = await streamChat(made.body, signal);
  made.requestId = requestId;
  made.ignored = ignored;
  for await (const chunk of chunks) {
    const stuck = isAtEnd();
    made.take(chunk, performance.now());
    view.update();
    if (stuck) requestAnimationFrame(() => follow());
  }
}

/** Before the first token: how long it has been, and what the model is doing. */
async function tellWait(made, view) {
  if (made.firstAt !== null || made.sentAt === null) return;
  const seconds = Math.round((performance.now() - made.sentAt) / 1000);
  await server.poll();
  const reason = server.chosen()?.reason;
  view.waiting(`${reason ? `Waiting: ${reason.replace(/\.$/, "")}` : "Waiting for the first token"} · ${seconds} s`);
}

function submit() {
  const text = prompt.value;
  if (running || !written() || attachments.busy() || recorder.busy()) return;
  const fields = asked();
  if (!fields) return;
  const problem = attachments.problem();
  if (problem) return tell(problem);
  prompt.value = "";
  fit();
  conversation.at(-1)?.view.calls?.leave();
  addUser(text, attachments.take());
  answer(fields);
}

/** One of the questions that are offered before there is a conversation. */
function start(text) {
  prompt.value = text;
  submit();
  prompt.focus();
}

function addUser(text, media) {
  const item = { role: "user", text, media };
  const view = userView(item, (changed) => {
    const fields = asked();
    if (!fields) return false;
    stop();
    cut(conversation.findIndex((entry) => entry.item === item));
    addUser(changed, media);
    answer(fields);
    prompt.focus();
    return true;
  });
  add(item, view);
}

function again(made) {
  const fields = asked();
  if (!fields) return;
  stop();
  cut(conversation.findIndex(({ item }) => item === made));
  answer(fields);
  prompt.focus();
}

function stop() {
  running?.abort.abort();
  running = null;
}

function clear() {
  stop();
  cut(0);
  refuse(null);
  prompt.focus();
  say("New conversation.");
}

// --- the conversation on the page

function add(item, view) {
  conversation.push({ item, view });
  log.append(view.element);
  paintState();
}

function cut(from) {
  for (const { view } of conversation.splice(from)) {
    view.element.remove();
    view.leave?.();
  }
  paintState();
}

const isAtEnd = () => scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < NEAR_PX;

function follow(always = false) {
  if (always || isAtEnd()) scroll.scrollTop = scroll.scrollHeight;
  byId("latest").hidden = isAtEnd();
}

/** What keeps a request from being sent, in words; null takes them away. */
function refuse(param, words) {
  tell(param === null ? null : words, param && h("button", { type: "button", class: "link", onclick: () => panel.show(param) }, "Show"));
}

/** What is wrong in the composer. more: what to do about it. */
function tell(words, more = null) {
  const element = byId("problem");
  element.hidden = words === null;
  element.replaceChildren(...(words === null ? [] : more ? [words, " ", more] : [words]));
}

const said = () => conversation.map(({ item }) => item);
const written = () => Boolean(prompt.value.trim()) || attachments.all().length > 0;

function paintState() {
  document.body.classList.toggle("empty", !conversation.length);
  byId("welcome").hidden = conversation.length > 0;
  byId("clear").disabled = !conversation.length;
  setIcon(send, running ? "stop" : "send", running ? "Stop (Esc)" : "Send (Enter)");
  send.classList.toggle("stops", Boolean(running));
  send.disabled = !running && (!written() || attachments.busy() || recorder.busy());
}

function paintChips() {
  const { fields, problems } = readSettings(settings);
  const set = Object.keys(settings.sampling).length;
  const chips = [
    [settings.system.trim() && "System prompt", "tab-sampling"],
    [set && `Sampling: ${set} set`, "tab-sampling"],
    [settings.logprobs && "Probabilities", "tab-sampling"],
    [settings.toolsOn && `Tools: ${fields.tools?.length ?? 0}`, "tab-tools", problems.tools],
    [settings.format !== "text" && FORMATS[settings.format]?.label, "tab-format", problems.response_format],
  ];
  const shown = chips.filter(([label]) => label);
  byId("chips").replaceChildren(...shown.map(([label, tab, problem]) => h("button", { type: "button", class: problem ? "chip bad" : "chip", onclick: () => panel.showTab(tab) }, label)));
  if (!Object.keys(problems).length) refuse(null);
}

// --- the rest of the page

const THEMES = { system: ["light", "Theme: the system's"], light: ["dark", "Theme: light"], dark: ["system", "Theme: dark"] };

function paintTheme() {
  const root = document.documentElement;
  if (settings.theme === "system") delete root.dataset.theme;
  else root.dataset.theme = settings.theme;
  setIcon(byId("theme"), settings.theme, THEMES[settings.theme]?.[1]);
}

makeDialogs();
const panel = makePanel(() => paintChips());
const askKey = keyDialog(() => server.poll());
const attachments = makeAttachments({
  held: () => said().flatMap(({ media = [] }) => media),
  tell,
  changed: () => paintState(),
});
const recorder = makeRecorder({ made: (file) => attachments.add([file]), tell, changed: () => paintState() });
const server = watchServer({
  wantsKey: () => askKey(),
  changed: (model) => {
    paintWelcome(model, start);
    attachments.offer(model);
    recorder.offer(model);
  },
});
const showExport = exportDialog(() => exported(said(), { text: prompt.value, media: attachments.all() }));
makeKeyboard({ stop, focus: () => prompt.focus(), panel: panel.flip, clear, exported: showExport });

byId("clear").addEventListener("click", clear);
byId("export").addEventListener("click", showExport);
byId("latest").addEventListener("click", () => follow(true));
scroll.addEventListener("scroll", () => (byId("latest").hidden = isAtEnd()), { passive: true });
byId("theme").addEventListener("click", () => {
  keep({ theme: THEMES[settings.theme]?.[0] ?? "system" });
  paintTheme();
});
byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (running) stop();
  else submit();
});
prompt.addEventListener("input", paintState);
prompt.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    submit();
  } else if (event.key === "ArrowUp" && !prompt.value) {
    const last = conversation.findLast(({ item }) => item.role === "user");
    if (last) {
      event.preventDefault();
      last.view.edit();
    }
  }
});

if (!Object.hasOwn(THEMES, settings.theme)) settings.theme = "system";
paintTheme();
paintChips();
paintState();
if (matchMedia("(hover: hover)").matches) prompt.focus();
