// What is kept between visits: settings, but no key and no conversation.

const STORED = "ostro.playground";

const DEFAULTS = {
  theme: "system",
  model: "",
  system: "",
  sampling: {},
  logprobs: false,
  toolsOn: false,
  tools: "",
  toolChoice: "auto",
  parallel: true,
  format: "text",
  formats: {},
  panel: null, // open or not; null until somebody chose, then the width of the window decides
};

function stored() {
  try {
    return JSON.parse(localStorage.getItem(STORED)) ?? {};
  } catch {
    return {};
  }
}

function load() {
  const known = { ...DEFAULTS, sampling: {}, formats: {} };
  for (const [name, value] of Object.entries(stored())) {
    const fits = name === "panel" ? typeof value === "boolean" : typeof value === typeof known[name] && value !== null;
    if (Object.hasOwn(DEFAULTS, name) && fits) known[name] = value;
  }
  return known;
}

export const settings = load();

export function keep(changes) {
  Object.assign(settings, changes);
  try {
    localStorage.setItem(STORED, JSON.stringify(settings));
  } catch {
    // Storage is off or full: the settings hold for this visit.
  }
}
