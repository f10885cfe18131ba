// The part of JSON Schema (draft 2020-12) that is enough to look an answer over. What it does not know, it names.

const NOTES = new Set(["$schema", "$id", "$defs", "definitions", "$comment", "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "format"]);
const MOST_ERRORS = 20;
const MOST_DEPTH = 200;

const kindOf = (value) => (value === null ? "null" : Array.isArray(value) ? "array" : typeof value);
const isType = (type, value) => (type === "integer" ? Number.isInteger(value) : kindOf(value) === type);
const same = (one, other) => canonical(one) === canonical(other);

function canonical(value) {
  return JSON.stringify(value, (_, inner) =>
    kindOf(inner) === "object" ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1))) : inner,
  );
}

const length = (text) => [...text].length;
const matches = (pattern, text) => new RegExp(pattern, "u").test(text);

/** Each rule: (what the schema says, the value, a way to look deeper) → what is wrong in words, or nothing. */
const RULES = {
  type: (types, value) => [types].flat().some((type) => isType(type, value)) || `is ${kindOf(value)}, not ${[types].flat().join(" or ")}`,
  enum: (options, value) => options.some((option) => same(option, value)) || "is not one of the values allowed",
  const: (only, value) => same(only, value) || `is not ${JSON.stringify(only)}`,
  minimum: (least, value) => typeof value !== "number" || value >= least || `is below ${least}`,
  maximum: (most, value) => typeof value !== "number" || value <= most || `is above ${most}`,
  exclusiveMinimum: (least, value) => typeof value !== "number" || value > least || `is not above ${least}`,
  exclusiveMaximum: (most, value) => typeof value !== "number" || value < most || `is not below ${most}`,
  minLength: (least, value) => typeof value !== "string" || length(value) >= least || `is shorter than ${least}`,
  maxLength: (most, value) => typeof value !== "string" || length(value) <= most || `is longer than ${most}`,
  pattern: (pattern, value) => typeof value !== "string" || matches(pattern, value) || `does not match ${pattern}`,
  minItems: (least, value) => !Array.isArray(value) || value.length >= least || `has fewer than ${least} items`,
  maxItems: (most, value) => !Array.isArray(value) || value.length <= most || `has more than ${most} items`,
  required: (names, value) => {
    const missing = kindOf(value) === "object" ? names.filter((name) => !Object.hasOwn(value, name)) : [];
    return !missing.length || `lacks ${missing.join(", ")}`;
  },
};

export function check(schema, value) {
  const errors = [];
  const unknown = new Set();

  function look(rules, item, path, found, depth) {
    if (rules === true || found.length >= MOST_ERRORS) return;
    if (rules === false) return void found.push(`${path} is not allowed`);
    if (depth > MOST_DEPTH) return void unknown.add("very deep schemas");
    const deeper = (inner, part, where) => look(inner, part, where, found, depth + 1);
    const passes = (inner) => {
      const trial = [];
      look(inner, item, path, trial, depth + 1);
      return !trial.length;
    };
    for (const [name, rule] of Object.entries(rules)) {
      if (RULES[name]) {
        const said = tried(() => RULES[name](rule, item), name);
        if (said !== true) found.push(`${path} ${said}`);
      } else if (name === "$ref") {
        const target = resolve(rule);
        if (target === undefined) unknown.add(`$ref ${rule}`);
        else deeper(target, item, path);
      } else if (name === "allOf") {
        for (const inner of rule) deeper(inner, item, path);
      } else if (name === "anyOf") {
        if (!rule.some(passes)) found.push(`${path} fits none of anyOf`);
      } else if (name === "oneOf") {
        if (rule.filter(passes).length !== 1) found.push(`${path} does not fit exactly one of oneOf`);
      } else if (name === "not") {
        if (passes(rule)) found.push(`${path} fits what it must not`);
      } else if (!NOTES.has(name) && !["properties", "additionalProperties", "items", "prefixItems"].includes(name)) {
        unknown.add(name);
      }
    }
    if (kindOf(item) === "object") inObject(rules, item, path, deeper);
    if (kindOf(item) === "array") inArray(rules, item, path, deeper);
  }

  function inObject(rules, item, path, deeper) {
    for (const [name, part] of Object.entries(item)) {
      const own = rules.properties && Object.hasOwn(rules.properties, name);
      if (own) deeper(rules.properties[name], part, `${path}.${name}`);
      else if (rules.additionalProperties !== undefined && !rules.patternProperties) deeper(rules.additionalProperties, part, `${path}.${name}`);
    }
  }

  function inArray(rules, item, path, deeper) {
    const first = rules.prefixItems ?? [];
    item.forEach((part, at) => {
      const rule = at < first.length ? first[at] : rules.items;
      if (rule !== undefined) deeper(rule, part, `${path}[${at}]`);
    });
  }

  function resolve(reference) {
    if (reference === "#") return schema;
    if (!reference.startsWith("#/")) return undefined;
    const names = reference.slice(2).split("/").map((name) => decodeURIComponent(name).replaceAll("~1", "/").replaceAll("~0", "~"));
    return names.reduce((node, name) => (node == null ? undefined : node[name]), schema);
  }

  function tried(rule, name) {
    try {
      return rule();
    } catch {
      unknown.add(name); // A pattern in another dialect than this browser's.
      return true;
    }
  }

  look(schema, value, "$", errors, 0);
  return { errors, unknown: [...unknown] };
}
