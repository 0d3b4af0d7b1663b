/** Alerts of the last 24 hours, by hour, stacked by label or camera; the same as a table. */

import { byId, h, s, say } from "./dom.js";
import { assign, colourOf } from "./palette.js";

const HOUR_MS = 3_600_000;
const HOURS = 24;
const HEIGHT = 112;
const MARGIN = { left: 30, bottom: 18, top: 8 };
const FRESH_MS = 3_000; // the recorder writes within two seconds
const AGAIN_MS = 60_000;

export class Chart {
  #api;
  #query;
  #onHour;
  #items = [];
  #first = 0;
  #soon = null;
  #again = null;
  #signal = AbortSignal.abort();

  /** `query` says which alerts to count; `onHour(Date)` hears a click on an hour. */
  constructor(api, { query, onHour, onNames }) {
    this.#api = api;
    this.#query = query;
    this.#onHour = onHour;
    this.onNames = onNames;
    byId("chart-by").addEventListener("change", () => this.#draw());
    byId("chart-table").addEventListener("click", (event) => {
      const pressed = event.currentTarget.getAttribute("aria-pressed") !== "true";
      event.currentTarget.setAttribute("aria-pressed", String(pressed));
      this.#draw();
    });
    new ResizeObserver(() => this.#draw()).observe(byId("chart-body"));
  }

  /** Count again, now and every minute, until the signal. */
  start(signal) {
    this.#signal = signal;
    signal.addEventListener("abort", () => {
      clearTimeout(this.#soon);
      clearInterval(this.#again);
      this.#soon = null;
      this.#items = [];
      this.#draw();
    });
    this.#again = setInterval(() => void this.load(), AGAIN_MS);
    return this.load();
  }

  /** An alert has come: count again when it has been recorded, once for many. */
  stale() {
    this.#soon ??= setTimeout(() => {
      this.#soon = null;
      void this.load();
    }, FRESH_MS);
  }

  async load() {
    const signal = this.#signal;
    const now = Date.now();
    const first = now - (now % HOUR_MS) - (HOURS - 1) * HOUR_MS;
    try {
      const query = { ...this.#query(), from: new Date(first).toISOString() };
      const { items } = await this.#api.json("GET", "alerts/counts", { query, signal });
      this.#items = items;
      this.#first = first;
      say(byId("chart-error"), null);
    } catch (error) {
      if (error.name === "AbortError" || error.status === 401) return;
      say(byId("chart-error"), error.message);
    }
    this.onNames(this.#items);
    this.#draw();
  }

  /** `{hours: [{at, parts: Map(name -> count), total}], names}`, the most frequent name first. */
  #stacks() {
    const by = byId("chart-by").querySelector(":checked").value;
    const hours = Array.from({ length: HOURS }, (_, index) => ({
      at: new Date(this.#first + index * HOUR_MS),
      parts: new Map(),
      total: 0,
    }));
    const totals = new Map();
    for (const item of this.#items) {
      const hour = hours[Math.floor((Date.parse(item.hour) - this.#first) / HOUR_MS)];
      if (hour === undefined) continue;
      hour.parts.set(item[by], (hour.parts.get(item[by]) ?? 0) + item.count);
      hour.total += item.count;
      totals.set(item[by], (totals.get(item[by]) ?? 0) + item.count);
    }
    const names = [...totals.keys()].sort((a, b) => totals.get(b) - totals.get(a));
    assign(names);
    return { hours, names, totals, by };
  }

  #draw() {
    if (this.#first === 0) return;
    const stacks = this.#stacks();
    const asTable = byId("chart-table").getAttribute("aria-pressed") === "true";
    byId("chart-body").replaceChildren(asTable ? this.#table(stacks) : this.#bars(stacks));
    byId("chart-legend").replaceChildren(
      ...stacks.names.map((name) =>
        h(
          "li",
          {},
          h("i", { class: `swatch ${colourOf(name)}` }),
          name,
          h("span", { class: "number muted" }, String(stacks.totals.get(name))),
        ),
      ),
    );
    this.#tell(summary(stacks));
  }

  #tell(text) {
    byId("chart-readout").textContent = text;
  }

  #bars(stacks) {
    const { hours, names } = stacks;
    const width = Math.max(240, byId("chart-body").clientWidth);
    const inner = HEIGHT - MARGIN.bottom - MARGIN.top;
    const top = ceiling(Math.max(...hours.map((hour) => hour.total)));
    const step = (width - MARGIN.left) / HOURS;
    const y = (count) => MARGIN.top + inner * (1 - count / top);
    const label = `Bar chart. ${summary(stacks)}. The button Table shows the numbers.`;
    const svg = s("svg", {
      viewBox: `0 0 ${width} ${HEIGHT}`,
      width,
      height: HEIGHT,
      role: "img",
      "aria-label": label,
    });
    for (const count of [0, top / 2, top]) {
      svg.append(
        s("line", { class: "grid", x1: MARGIN.left, x2: width, y1: y(count), y2: y(count) }),
        s("text", { class: "tick end", x: MARGIN.left - 6, y: y(count) + 3.5 }, String(count)),
      );
    }
    const every = step < 22 ? 6 : 3;
    hours.forEach((hour, index) => {
      const x = MARGIN.left + index * step;
      if (hour.at.getHours() % every === 0) {
        svg.append(
          s("text", { class: "tick mid", x: x + step / 2, y: HEIGHT - 4 }, clock(hour.at)),
        );
      }
      svg.append(this.#bar(hour, names, { x, step, y, top }, stacks));
    });
    return svg;
  }

  #bar(hour, names, { x, step, y, top }, stacks) {
    const group = s("g", { class: "hour", "data-hour": hour.at.toISOString() });
    group.append(
      s("rect", { class: "hit", x, width: step, y: y(top), height: y(0) - y(top) + MARGIN.bottom }),
    );
    const gap = Math.min(4, step * 0.2);
    let below = 0;
    for (const name of names) {
      const count = hour.parts.get(name) ?? 0;
      if (count === 0) continue;
      group.append(
        s("rect", {
          class: `part ${colourOf(name)}`,
          "data-name": name,
          "data-count": count,
          x: x + gap / 2,
          width: step - gap,
          y: y(below + count),
          height: y(below) - y(below + count),
        }),
      );
      below += count;
    }
    group.addEventListener("pointerenter", () => this.#tell(ofHour(hour, names)));
    group.addEventListener("pointerleave", () => this.#tell(summary(stacks)));
    group.addEventListener("click", () => this.#onHour(hour.at));
    return group;
  }

  #table({ hours, names, by }) {
    const head = h("tr", {}, h("th", { scope: "col" }, "Hour"));
    head.append(...names.map((name) => h("th", { scope: "col" }, name)));
    head.append(h("th", { scope: "col" }, "All"));
    const rows = [...hours].reverse().map((hour) => {
      const choose = h(
        "button",
        { type: "button", class: "link", onclick: () => this.#onHour(hour.at) },
        period(hour.at),
      );
      return h(
        "tr",
        { "data-hour": hour.at.toISOString() },
        h("th", { scope: "row" }, choose),
        names.map((name) => h("td", {}, String(hour.parts.get(name) ?? 0))),
        h("td", {}, String(hour.total)),
      );
    });
    const caption = `Alerts by hour and ${by === "label" ? "label" : "camera"}, latest hour first`;
    return h(
      "div",
      { class: "table scroll", tabindex: 0, role: "region", "aria-label": caption },
      h("table", {}, h("caption", { class: "hidden" }, caption), h("thead", {}, head), h("tbody", {}, rows)),
    );
  }
}

/** The smallest even number that reads well and is not below `most`: 4, 6, 8, 10, 20, 40, … */
function ceiling(most) {
  if (most <= 4) return 4;
  const power = 10 ** Math.floor(Math.log10(most));
  const step = [1, 2, 4, 6, 8, 10].find((s) => s * power >= most && (s * power) % 2 === 0);
  return step * power;
}

const clock = (at) =>
  `${String(at.getHours()).padStart(2, "0")}:${String(at.getMinutes()).padStart(2, "0")}`;
const period = (at) => `${clock(at)}–${clock(new Date(at.getTime() + HOUR_MS))}`;
const plural = (count) => `${count.toLocaleString()} ${count === 1 ? "alert" : "alerts"}`;

function summary({ hours }) {
  const total = hours.reduce((sum, hour) => sum + hour.total, 0);
  if (total === 0) return "No alerts";
  const busiest = hours.reduce((most, hour) => (hour.total > most.total ? hour : most));
  return `${plural(total)}, most at ${period(busiest.at)} (${busiest.total})`;
}

function ofHour(hour, names) {
  const parts = names.filter((name) => hour.parts.has(name));
  const text = parts.map((name) => `${name} ${hour.parts.get(name)}`).join(", ");
  return `${period(hour.at)}: ${plural(hour.total)}${text === "" ? "" : ` (${text})`}`;
}
