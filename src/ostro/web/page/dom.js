// Elements without strings of markup: what a model or a server says only ever becomes text.

export const byId = (id) => document.getElementById(id);

/**
 * h("p", {class: "note", onclick: f, "aria-live": "polite"}, "text", element, …)
 * Functions become listeners, true and false set or leave out an attribute, null and false children are skipped.
 */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (name === "value") element.value = value;
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child != null && child !== false));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

/** As `h`, for what is drawn. */
export function draw(tag, props = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(props)) element.setAttribute(name, value);
  element.append(...children.flat());
  return element;
}

/** One of the symbols at the top of index.html. */
export function icon(name) {
  return draw("svg", { "aria-hidden": "true" }, draw("use", { href: `#i-${name}` }));
}

export function iconButton(name, label, onclick, props = {}) {
  return h("button", { type: "button", class: "icon small", "aria-label": label, title: label, onclick, ...props }, icon(name));
}

export function setIcon(button, name, label) {
  button.querySelector("use").setAttribute("href", `#i-${name}`);
  if (label) {
    button.setAttribute("aria-label", label);
    button.title = label;
  }
}

/** Say something to screen readers only. */
export function say(text) {
  byId("said").textContent = text;
}

/** Tabs by the pattern of the ARIA Authoring Practices: one tab stop, arrows move. */
export function makeTabs(list, chosen) {
  const tabs = [...list.querySelectorAll('[role="tab"]')];
  const choose = (tab, focus) => {
    for (const other of tabs) {
      other.setAttribute("aria-selected", String(other === tab));
      other.tabIndex = other === tab ? 0 : -1;
    }
    if (focus) tab.focus();
    chosen(tab, tabs);
  };
  for (const tab of tabs) tab.addEventListener("click", () => choose(tab, false));
  list.addEventListener("keydown", (event) => {
    const at = tabs.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    choose(tabs[(to + tabs.length) % tabs.length], true);
  });
  return (id) => choose(tabs.find((tab) => tab.id === id), false);
}

/** A textarea as high as its text, up to what its style allows. */
export function growing(area) {
  const fit = () => {
    if (!area.offsetParent) return; // not shown: it has no height to go by
    area.style.height = "auto";
    area.style.height = `${area.scrollHeight + area.offsetHeight - area.clientHeight}px`;
  };
  area.addEventListener("input", fit);
  requestAnimationFrame(fit);
  return fit;
}

/** Copy, also where the page is not served securely and browsers withhold the clipboard. */
export async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = h("textarea", { class: "unseen", value: text });
  (document.querySelector("dialog[open]") ?? document.body).append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  if (!copied) throw new Error("The browser did not let the page copy.");
}

export function copyButton(label, text) {
  const button = iconButton("copy", label, async () => {
    try {
      await copyText(text());
      setIcon(button, "check");
      say("Copied.");
    } catch {
      say("The browser did not let the page copy.");
    }
    setTimeout(() => setIcon(button, "copy"), 1500);
  });
  return button;
}
