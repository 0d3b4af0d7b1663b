/** A picture with what was found drawn on it, in fractions of its width and height. */

import { h, s } from "./dom.js";
import { colourOf } from "./palette.js";

const WIDE = [16, 9]; // until the picture says its own shape

export class Picture {
  /**
   * `onMissing` is asked for a new URL when a picture does not load: links hold for a day only.
   */
  constructor({ alt, lazy = true, onMissing = async () => null }) {
    this.image = h("img", { alt, decoding: "async", loading: lazy ? "lazy" : "eager" });
    this.overlay = s("svg", { class: "boxes", "aria-hidden": "true" });
    this.note = h("span", { class: "picture-note" });
    this.element = h("span", { class: "picture waiting" }, this.image, this.overlay, this.note);
    this.image.addEventListener("load", () => this.#loaded());
    this.image.addEventListener("error", () => this.#missing(onMissing));
    this.#shape(...WIDE);
    this.image.hidden = true;
    this.tries = 0;
    this.url = null;
  }

  /** Show the picture at `url`; null while there is none yet. */
  show(url) {
    if (url === null || url === this.url) return;
    this.url = url;
    this.image.hidden = false;
    this.image.src = url;
  }

  /** Draw boxes `{box, label, aside}` and polygons `[[x, y], …]`. */
  draw(boxes, polygons = []) {
    this.found = { boxes, polygons };
    this.#shape(this.image.naturalWidth || WIDE[0], this.image.naturalHeight || WIDE[1]);
  }

  #shape(width, height) {
    this.overlay.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const { boxes = [], polygons = [] } = this.found ?? {};
    const zones = polygons.map((points) =>
      s("polygon", {
        class: "zone",
        points: points.map(([x, y]) => `${x * width},${y * height}`).join(" "),
      }),
    );
    // those aside first, so that the alert's own box lies on top
    const sorted = [...boxes].sort((a, b) => Number(b.aside) - Number(a.aside));
    const drawn = sorted.flatMap(({ box, label, aside }) => {
      const place = {
        x: box.x * width,
        y: box.y * height,
        width: box.width * width,
        height: box.height * height,
      };
      const colour = `box ${colourOf(label)}${aside ? " aside" : ""}`;
      return [s("rect", { class: "halo", ...place }), s("rect", { class: colour, ...place })];
    });
    this.overlay.replaceChildren(...zones, ...drawn);
  }

  #loaded() {
    this.element.classList.remove("waiting", "missing");
    this.note.textContent = "";
    this.#shape(this.image.naturalWidth, this.image.naturalHeight);
  }

  async #missing(onMissing) {
    this.tries += 1;
    const url = this.tries > 1 ? null : await onMissing().catch(() => null);
    if (url !== null) {
      this.show(url);
      return;
    }
    this.image.hidden = true;
    this.element.classList.replace("waiting", "missing");
    this.note.textContent = "Picture not available";
  }
}
