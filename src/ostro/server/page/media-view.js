// An image, a sound or a series as it is seen: in the composer and in the conversation.

import { h } from "./dom.js";
import { dataUrl } from "./media.js";
import { seriesLine } from "./series.js";

// Pixels of the box that an image is made to fit; what is tiny grows to be seen.
const WIDEST = 320;
const HIGHEST = 224;
const TINY = 96;

/** {element, leave}. leave: called when it is shown no more, to let go of what the browser holds for it. */
export function mediaView(media) {
  const caption = h("figcaption", { title: media.name }, media.name);
  if (media.kind === "image") {
    // The sides are known, so that nothing moves when the picture is there.
    const { width, height } = media;
    const scale = Math.min(WIDEST / width, HIGHEST / height, Math.max(1, TINY / Math.max(width, height)));
    const [across, down] = [width, height].map((side) => Math.max(1, Math.round(side * scale)));
    const image = h("img", { src: dataUrl(media), alt: media.name, width: across, height: down });
    return { element: h("figure", { class: "medium" }, image, caption), leave: () => {} };
  }
  if (media.kind === "series") {
    const count = `${media.values.length.toLocaleString("en")} ${media.values.length === 1 ? "value" : "values"}`;
    const line = h("div", { class: "series-box", role: "img", "aria-label": `${media.name}, ${count}` }, seriesLine(media.values, WIDEST, TINY));
    return { element: h("figure", { class: "medium follows" }, line, caption, h("small", { "aria-hidden": "true" }, count)), leave: () => {} };
  }
  const url = URL.createObjectURL(media.blob);
  const player = h("audio", { src: url, controls: true, preload: "metadata", "aria-label": media.name });
  return {
    element: h("figure", { class: "medium heard" }, player, caption),
    leave: () => (player.pause(), URL.revokeObjectURL(url)),
  };
}
