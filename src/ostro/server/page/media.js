// Images, sounds and series of a message: what they are, how much of them a request holds, how it holds them.

import { readSeries, SeriesProblem } from "./series.js";

export const MOST_MEDIA = 32; // in a conversation, which is sent whole each time
const MB = 2 ** 20;
const MOST_IMAGE_BYTES = 10 * MB;
const MOST_SERIES_BYTES = 2 * MB; // 65,536 numbers, the most that any model takes, written long
const MOST_REQUEST_BYTES = 16 * MB;
const ROOM_FOR_TEXT = MB / 4;

// By their first bytes: names and the types that systems give files may be wrong, and wrong declarations are refused.
const FORMATS = [
  [/^\x89PNG/, "image", "png"],
  [/^\xff\xd8\xff/, "image", "jpeg"],
  [/^RIFF[^]{4}WEBP/, "image", "webp"],
  [/^GIF8/, "image", "gif"],
  [/^BM/, "image", "bmp"],
  [/^RIFF[^]{4}WAVE/, "audio", "wav"],
  [/^fLaC/, "audio", "flac"],
  [/^OggS/, "audio", "ogg"],
  [/^(ID3|\xff[\xe2\xe3\xf2\xf3\xfa\xfb])/, "audio", "mp3"],
];
const KNOWN = { image: "images (PNG, JPEG, WebP, GIF, BMP)", audio: "sounds (WAV, FLAC, MP3, Ogg)", series: "series of numbers (CSV, text, JSON)" };
const PLAIN = { image: "images", audio: "sounds", series: "series" };

/** What a file dialog should offer. */
export const ACCEPTED = {
  image: "image/png,image/jpeg,image/webp,image/gif,image/bmp",
  audio: "audio/wav,audio/flac,audio/mpeg,audio/ogg,.wav,.flac,.mp3,.ogg,.oga,.opus",
  series: "text/csv,text/plain,application/json,.csv,.tsv,.txt,.json",
};

/** In words, why something cannot be attached. */
export class MediaProblem extends Error {}

/** What a model takes, by its capabilities in the server's list. */
export function sensesOf(model) {
  const { vision, audio, series } = model?.capabilities ?? {};
  return { image: Boolean(vision), audio: Boolean(audio), series: Boolean(series) };
}

/** "text and images", as far as this page can send it. */
export function takes(senses, words = PLAIN) {
  const known = ["text", ...Object.keys(words).filter((kind) => senses[kind]).map((kind) => words[kind])];
  if (known.length === 1) return "text only";
  return `${known.slice(0, -1).join(", ")} and ${known.at(-1)}`;
}

const megabytes = (bytes) => `${(bytes / MB).toFixed(bytes < 10 * MB ? 1 : 0)} MB`;

/**
 * A file as {kind, format, type, name, data, blob, width, height}; data is base64, the sides are an image's. Of a
 * series {kind, name, values, data}, with data its JSON.
 * held: media that the conversation has already. Throws MediaProblem.
 */
export async function readMedia(file, senses, held) {
  const name = file.name || "what was pasted";
  const start = String.fromCharCode(...new Uint8Array(await file.slice(0, 12).arrayBuffer()));
  const found = FORMATS.find(([pattern]) => pattern.test(start));
  if (!found && !(senses.series && looksLikeNumbers(start))) {
    throw new MediaProblem(`${name} is left out: this model takes ${takes(senses, KNOWN)}.`);
  }
  const [, kind, format] = found ?? [null, "series", "json"];
  if (!senses[kind]) throw new MediaProblem(`${name} is left out: this model takes ${takes(senses)}.`);
  if (held.length >= MOST_MEDIA) throw new MediaProblem(`${name} is left out: a conversation holds at most ${MOST_MEDIA} images, sounds and series.`);
  if (kind === "image" && file.size > MOST_IMAGE_BYTES) {
    throw new MediaProblem(`${name} is left out: it has ${megabytes(file.size)}, and an image may have ${megabytes(MOST_IMAGE_BYTES)}.`);
  }
  if (kind === "series") {
    const media = await series(file, name);
    if (media.data.length > roomLeft(held)) throw new MediaProblem(`${name} is left out: too much is attached to this conversation.`);
    return media;
  }
  const left = roomLeft(held);
  if (Math.ceil(file.size / 3) * 4 > left) {
    const most = megabytes(Math.floor((MOST_REQUEST_BYTES - ROOM_FOR_TEXT) * 0.75));
    throw new MediaProblem(`${name} is left out: it has ${megabytes(file.size)}, and all that is attached to a conversation may have ${most}.`);
  }
  const type = format === "mp3" ? "audio/mpeg" : `${kind}/${format}`;
  const media = { kind, format, type, name, blob: new Blob([file], { type }), data: await base64(file) };
  return kind === "image" ? Object.assign(media, await sides(media)) : media;
}

const roomLeft = (held) => MOST_REQUEST_BYTES - ROOM_FOR_TEXT - held.reduce((sum, { data }) => sum + data.length, 0);

/** By its first bytes: text, if only a heading. */
const looksLikeNumbers = (start) => !/[\x00-\x08\x0e-\x1f]/.test(start);

async function series(file, name) {
  if (file.size > MOST_SERIES_BYTES) {
    throw new MediaProblem(`${name} is left out: it has ${megabytes(file.size)}, and a series may have ${megabytes(MOST_SERIES_BYTES)}.`);
  }
  try {
    const values = readSeries(await file.text());
    return { kind: "series", name, values, data: JSON.stringify(values) };
  } catch (error) {
    if (!(error instanceof SeriesProblem)) throw error;
    throw new MediaProblem(`${name} is left out as a series: ${error.message}.`);
  }
}

function base64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(new MediaProblem(`${file.name} cannot be read.`));
    reader.readAsDataURL(file);
  });
}

/** Width and height; throws MediaProblem for what only begins like an image. */
async function sides(media) {
  const image = new Image();
  image.src = dataUrl(media);
  try {
    await image.decode();
  } catch {
    throw new MediaProblem(`${media.name} is left out: it is damaged, or no image that can be read.`);
  }
  return { width: image.naturalWidth, height: image.naturalHeight };
}

export const dataUrl = ({ type, data }) => `data:${type};base64,${data}`;

/** Series first, because /v1/infer has them so and is to be asked the same. */
const bySeries = (media) => [media.filter(({ kind }) => kind === "series"), media.filter(({ kind }) => kind !== "series")];

const PARTS = {
  image: (one) => ({ type: "image_url", image_url: { url: dataUrl(one) } }),
  audio: (one) => ({ type: "input_audio", input_audio: { data: one.data, format: one.format } }),
  series: (one) => ({ type: "input_series", input_series: one.values }),
};

/** A message's content: its media, then what is asked about them. */
export function contentOf({ text, media = [] }) {
  if (!media.length) return text;
  const parts = bySeries(media).flat().map((one) => PARTS[one.kind](one));
  return text.trim() ? [...parts, { type: "text", text }] : parts;
}

/**
 * A message as the inputs of /v1/infer, which has a place for one of each; several images and sounds stand in the text, in
 * their order. null for several series, which have no such form.
 */
export function inputsOf({ text, media = [] }) {
  const [series, others] = bySeries(media);
  if (series.length > 1) return null;
  const inputs = series.length ? { series: series[0].values } : {};
  if (media.length > 1) {
    const tagged = others.map((one) => `<${one.kind}>${dataUrl(one)}</${one.kind}>`);
    return { ...inputs, text: `${tagged.join("")}${text}` };
  }
  if (text.trim()) inputs.text = text;
  for (const one of others) inputs[one.kind] = dataUrl(one);
  return inputs;
}
