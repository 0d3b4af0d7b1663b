/** What the reader wants to see: the form above the alerts. */

import { byId, h, localInput, percent } from "./dom.js";

const form = byId("filters");
const field = Object.fromEntries(
  ["camera", "label", "reviewed", "when", "score", "from", "to"].map((name) => [
    name,
    byId(`filter-${name}`),
  ]),
);
const custom = form.querySelectorAll('[data-when="custom"]');
const HOUR_MS = 3_600_000;

/** `onChange` is called when other alerts are wanted than before. */
export function setUpFilters(onChange) {
  const changed = () => {
    show();
    onChange();
  };
  form.addEventListener("change", changed);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(changed)); // the fields change after the event
  field.score.addEventListener("input", show);
  byId("filters-shown").addEventListener("click", (event) => {
    const open = form.classList.toggle("open");
    event.currentTarget.setAttribute("aria-expanded", String(open));
  });
  show();
}

/** Set the period to the hour that begins at `hour`. */
export function chooseHour(hour) {
  field.when.value = "custom";
  field.from.value = localInput(hour);
  field.to.value = localInput(new Date(hour.getTime() + HOUR_MS));
  form.dispatchEvent(new Event("change"));
}

/** The filter as parameters of GET /api/v1/alerts; empty means any. */
export function filterQuery() {
  const hours = Number(field.when.value);
  const since = hours > 0 ? new Date(Date.now() - hours * HOUR_MS) : fieldTime(field.from);
  return {
    camera_id: field.camera.value,
    label: field.label.value,
    min_score: Number(field.score.value) > 0 ? field.score.value : "",
    reviewed: field.reviewed.value,
    from: since?.toISOString() ?? "",
    to: fieldTime(field.to)?.toISOString() ?? "",
  };
}

/** Whether `alert` is one of those that `query` asks for. */
export function matches(alert, query) {
  const at = Date.parse(alert.captured_at);
  return (
    (query.camera_id === "" || alert.camera_id === query.camera_id) &&
    (query.label === "" || alert.label === query.label) &&
    (query.min_score === "" || alert.score >= Number(query.min_score)) &&
    (query.reviewed === "" || String(alert.reviewed) === query.reviewed) &&
    (query.from === "" || at >= Date.parse(query.from)) &&
    (query.to === "" || at < Date.parse(query.to))
  );
}

/** Offer these cameras and labels beside those offered before. */
export function offer({ cameras = [], labels = [] }) {
  add(field.camera, cameras);
  add(field.label, labels);
}

/** Take back every choice that came from one client's data. */
export function forgetFilters() {
  for (const select of [field.camera, field.label]) {
    select.replaceChildren(select.options[0]);
  }
  form.reset();
}

function add(select, values) {
  const known = new Set(Array.from(select.options, (option) => option.value));
  const fresh = values.filter((value) => !known.has(value));
  if (fresh.length === 0) return;
  const all = [...Array.from(select.options).slice(1), ...fresh.map((v) => h("option", { value: v }, v))];
  const chosen = select.value;
  all.sort((a, b) => a.value.localeCompare(b.value));
  select.append(...all);
  select.value = chosen;
}

function fieldTime(input) {
  const at = field.when.value === "custom" && input.value !== "" ? new Date(input.value) : null;
  return at === null || Number.isNaN(at.getTime()) ? null : at;
}

function show() {
  byId("filter-score-shown").textContent = percent(Number(field.score.value));
  for (const part of custom) part.hidden = field.when.value !== "custom";
  const query = filterQuery();
  const active = Object.values(query).filter((value) => value !== "").length;
  byId("filter-reset").hidden = active === 0;
  byId("filters-shown").textContent = active === 0 ? "Filters" : `Filters (${active})`;
}
