/** Elements, and how numbers and times are written. What comes from the API is only ever text. */

const SVG = "http://www.w3.org/2000/svg";

/** The element with this id. */
export const byId = (id) => document.getElementById(id);

/** An HTML element; `on…` attributes are listeners, false and null leave an attribute out. */
export function h(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** An SVG element. */
export function s(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) {
      element.setAttribute(name, value);
    }
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** Show `text` in an element that is hidden while there is none. */
export function say(element, text) {
  element.textContent = text ?? "";
  element.hidden = !text;
}

/** 0.823 as "82 %". */
export const percent = (fraction) => `${Math.round(fraction * 100)} %`;

/** Bytes for people. */
export function bytes(count) {
  const unit = count < 1e6 ? "kB" : "MB";
  const value = count / (unit === "kB" ? 1e3 : 1e6);
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ${unit}`;
}

/** Milliseconds for people: "4 s", "2 min 10 s". */
export function duration(milliseconds) {
  const seconds = Math.max(0, Math.round(milliseconds / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

/** Seconds of work for people: "34 ms", "1.2 s", "2 min 10 s". */
export function seconds(value) {
  if (value < 0.1) return `${Math.round(value * 1000)} ms`;
  return value < 10 ? `${value.toFixed(1)} s` : duration(value * 1000);
}

const CLOCK = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const DAY = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric" });
const FULL = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

/** A moment in local time, with UTC in its title; today's without the date. */
export function moment(iso, { full = false } = {}) {
  const at = new Date(iso);
  const today = at.toDateString() === new Date().toDateString();
  const short = today ? CLOCK.format(at) : `${DAY.format(at)}, ${CLOCK.format(at)}`;
  const utc = `${at.toISOString().slice(0, 19).replace("T", " ")} UTC`;
  return h("time", { datetime: iso, title: utc }, full ? FULL.format(at) : short);
}

/** A local moment as the value of an <input type="datetime-local">. */
export function localInput(at) {
  const shifted = new Date(at.getTime() - at.getTimezoneOffset() * 60_000);
  return shifted.toISOString().slice(0, 16);
}

/** Random hexadecimal digits; unlike crypto.randomUUID this works over plain HTTP too. */
export function randomId() {
  const parts = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(parts, (part) => part.toString(16).padStart(2, "0")).join("");
}
