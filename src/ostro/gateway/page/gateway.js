// The page of a gateway: what it does now, its keys, its nodes, and what was used.

import { Chart } from "./charts.js";
import { byId, h, say } from "./dom.js";

const EVERY_MS = 1000;
const PANELS = ["now", "keys", "nodes", "usage"];

let key = "";
let timer = null;
let charts = null;

const number = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const plain = (value) => number.format(value);
const ms = (value) => (value >= 1000 ? `${plain(value / 1000)} s` : `${plain(value)} ms`);
const share = (value) => `${Math.round(value * 100)}%`;
const dollars = (micros) => `$${(micros / 1e6).toFixed(4).replace(/0{1,2}$/, "")}`;

class Refused extends Error {}

async function ask(method, path, body) {
  const response = await fetch(path, {
    method,
    headers: { authorization: `Bearer ${key}`, ...(body ? { "content-type": "application/json" } : {}) },
    body: body ? JSON.stringify(body) : undefined,
  });
  if (response.ok) return response;
  let words = `The gateway answered with ${response.status}.`;
  try {
    words = (await response.json()).error.message;
  } catch {
    // No JSON: the status has to do.
  }
  throw Object.assign(new Refused(words), { status: response.status });
}

const read = async (path) => (await ask("GET", path)).json();

function fail(error) {
  const banner = byId("banner");
  banner.textContent = error instanceof Refused ? error.message : "The gateway does not answer.";
  banner.hidden = false;
}

/** Work that a failure of is shown; true where it went well. */
async function trying(work) {
  try {
    await work();
    byId("banner").hidden = true;
    return true;
  } catch (error) {
    fail(error);
    return false;
  }
}

function figure(name, value) {
  return h("div", {}, h("dt", {}, name), h("dd", {}, value));
}

function table(element, heads, rows) {
  element.replaceChildren(
    h("thead", {}, h("tr", {}, heads.map(([name, kind]) => h("th", { scope: "col", class: kind }, name)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell, at) => h("td", { class: heads[at][1] }, cell))))),
  );
}

function state(node) {
  return h("span", { class: node.answers ? "state" : "state away" }, node.answers ? "answers" : "away");
}

function makeCharts() {
  const made = {
    calls: new Chart("Calls per second", plain),
    time: new Chart("Time of a call", ms),
    first: new Chart("Time to the first byte", ms),
    routes: new Chart("Calls per second, by node", plain),
    load: new Chart("Load of the nodes", share, 1),
    spend: new Chart("Spent in an hour at this pace", dollars),
    tokens: new Chart("Tokens per second", plain),
    cache: new Chart("Answered from the cache", share, 1),
  };
  byId("charts").replaceChildren(...Object.values(made).map((chart) => chart.element));
  return made;
}

function showNow(now) {
  charts ??= makeCharts();
  const asked = now.cache.hits + now.cache.misses;
  byId("figures").replaceChildren(
    figure("Calls per second", plain(now.per_second)),
    figure("Running", plain(now.running)),
    figure("p50", now.call_ms ? ms(now.call_ms.p50) : "–"),
    figure("p99", now.call_ms ? ms(now.call_ms.p99) : "–"),
    figure("Spent since the start", dollars(now.charge)),
    figure("Tokens since the start", plain(now.tokens)),
    figure("Nodes that answer", `${now.nodes.filter((node) => node.answers).length} of ${now.nodes.length}`),
    figure("Cache", now.cache.enabled ? (asked ? share(now.cache.hits / asked) : "–") : "off"),
    figure("Low priority", now.spilling ? "on CPU nodes" : "anywhere"),
    figure("Not in the ledger yet", plain(now.ledger_waiting)),
  );
  const of = (field) => Object.fromEntries(now.nodes.map((node) => [node.name, field(node)]));
  charts.calls.add(now.at, { calls: now.per_second });
  charts.time.add(now.at, { p50: now.call_ms?.p50, p99: now.call_ms?.p99 });
  charts.first.add(now.at, { p50: now.first_byte_ms?.p50, p99: now.first_byte_ms?.p99 });
  charts.routes.add(now.at, of((node) => now.routes_per_second[node.name] ?? 0));
  charts.load.add(now.at, of((node) => (node.answers ? node.load : null)));
  charts.spend.add(now.at, { spent: now.micros_per_second * 3600 });
  charts.tokens.add(now.at, { tokens: now.tokens_per_second });
  charts.cache.add(now.at, { hits: asked ? now.cache.hits / asked : null });
  table(
    byId("live-nodes"),
    [["Node"], ["State"], ["Load", "number"], ["In flight", "number"], ["KV cache", "number"], ["Routed", "number"], ["", "words"]],
    now.nodes.map((node) => [
      node.name,
      state(node),
      share(node.load),
      `${node.in_flight} of ${node.capacity}`,
      share(node.kv_usage),
      plain(now.routed[node.name] ?? 0),
      node.why_not ?? "",
    ]),
  );
  const refusals = Object.entries(now.refusals);
  byId("refusals").replaceChildren(
    ...(refusals.length ? refusals.map(([code, count]) => figure(code, plain(count))) : [figure("nothing", "0")]),
  );
  fillTiers(now.tiers);
}

function fillTiers(tiers) {
  const select = byId("key-form").elements.tier;
  if (select.options.length !== tiers.length) {
    select.replaceChildren(...tiers.map((tier) => h("option", { value: tier }, tier)));
  }
}

async function showKeys() {
  const { data } = await read("admin/keys");
  table(
    byId("key-table"),
    [["Name"], ["Key"], ["Tenant"], ["Tier"], ["State"], ["Spent", "number"], ["Budget", "number"], ["Held", "number"], ["Running", "number"], [""]],
    data.map((one) => [
      one.name,
      h("code", {}, `${one.hint}…`),
      one.tenant,
      one.tier,
      h("span", { class: one.revoked_at ? "state off" : "state" }, one.revoked_at ? "revoked" : one.admin ? "administers" : "active"),
      `$${one.spent_usd}`,
      one.budget_usd === null ? "none" : `$${one.budget_usd}`,
      `$${one.reserved_usd}`,
      plain(one.running),
      one.revoked_at ? "" : h("button", { type: "button", class: "link", onclick: () => revoke(one) }, "Revoke"),
    ]),
  );
}

async function revoke(one) {
  if (!window.confirm(`Revoke the key of ${one.name}? It cannot be undone.`)) return;
  await trying(async () => {
    await ask("DELETE", `admin/keys/${one.id}`);
    await showKeys();
    say(`The key of ${one.name} is revoked.`);
  });
}

async function showNodes() {
  const { data } = await read("admin/nodes");
  table(
    byId("node-table"),
    [["Name"], ["URL"], ["Kind"], ["Device"], ["Region"], ["Models", "words"], ["State"], ["Load", "number"], [""]],
    data.map((node) => [
      node.name,
      node.url,
      node.kind,
      node.device,
      node.region ?? "",
      node.models.join(", "),
      state(node),
      share(node.load),
      h("button", { type: "button", class: "link", onclick: () => remove(node) }, "Remove"),
    ]),
  );
}

async function remove(node) {
  if (!window.confirm(`Remove ${node.name}? It finishes what it has.`)) return;
  await trying(async () => {
    await ask("DELETE", `admin/nodes/${encodeURIComponent(node.name)}`);
    await showNodes();
  });
}

function usageQuery(more) {
  const form = new FormData(byId("usage-form"));
  const given = [...form].filter(([, value]) => value !== "");
  return new URLSearchParams([...given, ...Object.entries(more)]);
}

async function showUsage() {
  const { data, total_usd: total } = await read(`admin/usage?${usageQuery({})}`);
  const heads = [["Day"], ["Tenant"], ["Key"], ["Model"], ["Endpoint"], ["Node"], ["Calls", "number"], ["Failed", "number"], ["Prompt", "number"], ["Answer", "number"], ["Dollars", "number"]];
  const fields = ["day", "tenant", "key", "model", "endpoint", "node", "calls", "failed", "prompt_tokens", "completion_tokens", "usd"];
  table(byId("usage-table"), heads, data.map((row) => fields.map((name) => (row[name] === null ? "" : String(row[name])))));
  byId("usage-table").append(h("caption", {}, `$${total} in all`));
}

async function saveCsv() {
  const response = await ask("GET", `admin/usage?${usageQuery({ format: "csv" })}`);
  const url = URL.createObjectURL(await response.blob());
  h("a", { href: url, download: "usage.csv" }).click();
  URL.revokeObjectURL(url);
}

/** A form's fields that were filled in; numbers where names say so. */
function given(form, numbers) {
  const values = {};
  for (const [name, value] of new FormData(form)) {
    if (value === "") continue;
    values[name] = numbers.includes(name) ? Number(value) : value;
  }
  return values;
}

const listed = (text) => text.split(",").map((one) => one.trim()).filter(Boolean);

async function makeKey(form) {
  const values = given(form, ["requests_per_minute", "tokens_per_minute", "concurrency"]);
  const body = { ...values, admin: values.admin === "on" };
  if (values.models) body.models = listed(values.models);
  const made = await (await ask("POST", "admin/keys", body)).json();
  const secret = byId("secret");
  secret.replaceChildren(`The key of ${made.name}. It is not shown again:`, h("code", {}, made.key));
  secret.hidden = false;
  form.reset();
  await showKeys();
}

async function addNode(form) {
  const values = given(form, ["capacity"]);
  await ask("POST", "admin/nodes", { ...values, models: listed(values.models).map((name) => ({ name })) });
  form.reset();
  await showNodes();
}

const SHOW = { now: async () => showNow(await read("admin/overview")), keys: showKeys, nodes: showNodes, usage: showUsage };

let shown = "now";

function choose(name) {
  shown = name;
  for (const panel of PANELS) {
    byId(panel).hidden = panel !== name;
    byId(`tab-${panel}`).setAttribute("aria-selected", String(panel === name));
    byId(`tab-${panel}`).tabIndex = panel === name ? 0 : -1;
  }
  trying(SHOW[name]);
}

/** Charts go on while another panel is open, so that none has a gap. */
async function beat() {
  clearTimeout(timer);
  const current = key;
  await trying(async () => {
    showNow(await read("admin/overview"));
    if (shown === "keys" || shown === "nodes") await SHOW[shown]();
  });
  if (key && key === current) timer = setTimeout(beat, EVERY_MS);
}

function enter() {
  byId("enter").hidden = true;
  byId("tabs").hidden = byId("leave").hidden = false;
  choose("now");
  beat();
}

function leave() {
  key = "";
  clearTimeout(timer);
  charts = null;
  byId("secret").replaceChildren();
  byId("secret").hidden = true;
  for (const panel of PANELS) byId(panel).hidden = true;
  byId("tabs").hidden = byId("leave").hidden = true;
  byId("enter").hidden = false;
  byId("key").value = "";
  byId("key").focus();
}

byId("enter-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  key = byId("key").value.trim();
  byId("key").value = "";
  if (await trying(() => read("admin/overview"))) enter();
  else key = "";
});
byId("leave").addEventListener("click", leave);
for (const panel of PANELS) byId(`tab-${panel}`).addEventListener("click", () => choose(panel));
byId("tabs").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const next = PANELS[(PANELS.indexOf(shown) + step + PANELS.length) % PANELS.length];
  choose(next);
  byId(`tab-${next}`).focus();
});
const forms = { "key-form": makeKey, "node-form": addNode, "usage-form": showUsage };
for (const [id, work] of Object.entries(forms)) {
  byId(id).addEventListener("submit", (event) => {
    event.preventDefault();
    trying(() => work(event.target));
  });
}
byId("csv").addEventListener("click", () => trying(saveCsv));
byId("key").focus();
