/** One alert among the others, and large. */

import { h, moment, percent } from "./dom.js";
import { colourOf } from "./palette.js";
import { Picture } from "./picture.js";

/** "person, 82 %, front-door, driveway, 14:03:22", for those who do not see the card. */
export function spoken(alert) {
  const parts = [alert.label, percent(alert.score), alert.camera_id, alert.zone];
  return [...parts, moment(alert.captured_at).textContent].filter(Boolean).join(", ");
}

/** A card in the list. */
export class Card {
  #reviewed;

  /** `actions`: `open(alert)`, `review(alert, reviewed)`, `renew(alert)` -> a new image URL. */
  constructor(alert, actions) {
    this.alert = alert;
    this.picture = new Picture({ alt: "", onMissing: () => actions.renew(alert.alert_id) });
    this.opener = h(
      "button",
      { type: "button", class: "open", "aria-label": `Open ${spoken(alert)}` },
      this.picture.element,
    );
    this.opener.addEventListener("click", () => actions.open(this.alert));
    this.#reviewed = reviewButton(() => actions.review(this.alert, !this.alert.reviewed));
    const place = [alert.camera_id, alert.zone].filter(Boolean).join(" · ");
    this.element = h(
      "li",
      { class: "card", "data-alert": alert.alert_id },
      this.opener,
      h(
        "div",
        { class: "card-line" },
        h("i", { class: `swatch ${colourOf(alert.label)}` }),
        h("strong", { title: alert.label }, alert.label),
        h("span", { class: "number muted" }, percent(alert.score)),
        this.#reviewed,
      ),
      h(
        "div",
        { class: "card-line muted" },
        h("span", { class: "place", title: place }, place),
        moment(alert.captured_at),
      ),
    );
    this.update(alert);
  }

  /** Take over what has changed. */
  update(alert) {
    this.alert = alert;
    this.element.classList.toggle("reviewed", alert.reviewed);
    pressed(this.#reviewed, alert.reviewed);
    this.picture.show(alert.image_url);
    this.opener.classList.toggle("pending", alert.image_url === null);
  }

  /** Draw the alert's own box, and those of the same picture's other alerts aside. */
  draw(others) {
    this.picture.draw(boxesOf(this.alert, others));
  }
}

const boxesOf = (alert, others) => [
  { box: alert.box, label: alert.label, aside: false },
  ...others.map(({ box, label }) => ({ box, label, aside: true })),
];

/** The parts of the viewer for one alert; `zones()` gives those that its camera has now. */
export function large(alert, { others, zones, renew, review, step }) {
  const picture = new Picture({
    alt: `Picture of ${alert.camera_id}: ${spoken(alert)}`,
    lazy: false,
    onMissing: () => renew(alert.alert_id),
  });
  const boxes = boxesOf(alert, others);
  picture.draw(boxes);
  if (alert.zone !== null) void drawZone(picture, boxes, alert.zone, zones);
  picture.show(alert.image_url);
  if (alert.image_url === null) picture.note.textContent = "The picture is being kept …";
  const toggle = reviewButton(async () => {
    const wanted = toggle.getAttribute("aria-pressed") !== "true";
    if (await review(alert, wanted)) pressed(toggle, wanted);
  });
  toggle.append(h("span", {}, "Reviewed"));
  pressed(toggle, alert.reviewed);
  const turn = (by, sign, name) =>
    h(
      "button",
      { type: "button", class: "quiet", "aria-label": name, onclick: () => step(by) },
      sign,
    );
  return {
    title: [
      h("i", { class: `swatch ${colourOf(alert.label)}` }),
      `${alert.label} `,
      h("span", { class: "number muted" }, percent(alert.score)),
    ],
    actions: [turn(-1, "‹", "Newer alert"), turn(1, "›", "Older alert"), toggle],
    body: picture.element,
    foot: [facts(alert)],
  };
}

/** The zone is a help to the eye; the alert is shown without it where it cannot be had. */
async function drawZone(picture, boxes, name, zones) {
  const found = await zones().catch(() => []);
  const polygons = found.filter((zone) => zone.name === name).map((zone) => zone.polygon);
  picture.draw(boxes, polygons);
}

function facts(alert) {
  const rows = {
    Camera: alert.camera_id,
    Zone: alert.zone ?? "—",
    Captured: moment(alert.captured_at, { full: true }),
    Model: `${alert.model} ${alert.model_version}`,
    Id: h("code", {}, alert.alert_id),
  };
  return h(
    "dl",
    { class: "facts" },
    Object.entries(rows).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
  );
}

function reviewButton(onclick) {
  const mark = h("span", { class: "check", "aria-hidden": "true" });
  return h(
    "button",
    { type: "button", class: "review", "aria-label": "Reviewed", "aria-pressed": "false", onclick },
    mark,
  );
}

function pressed(button, value) {
  button.setAttribute("aria-pressed", String(value));
  button.title = value ? "Reviewed" : "Mark as reviewed";
}
