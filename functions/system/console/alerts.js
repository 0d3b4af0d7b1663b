/** The alerts: a page of them from the table, new ones from the stream, each shown once. */

import { Announcer } from "./announcer.js";
import { Card, large } from "./card.js";
import { byId, say } from "./dom.js";
import { filterQuery, matches, offer } from "./filters.js";
import { assign } from "./palette.js";
import { closeViewer, openViewer } from "./viewer.js";

const PAGE = 40;
const MOST_CARDS = 400; // a console may stay open for weeks
const RECORDED_MS = 3_000; // the recorder writes within two seconds
const CATCH_UP_PAGES = 10;
const MOST_RECENT = 500; // heard, and perhaps not recorded yet
const list = byId("alert-list");

export class Alerts {
  #api;
  #cards = new Map(); // by alert_id
  #order = []; // cards, newest first
  #held = new Map(); // alerts that wait for the reader to ask for them
  #flooded = false; // whether more came than is worth holding
  #query = {};
  #cursor = null;
  #before = null; // instead of a cursor, after old cards were let go
  #loading = new AbortController();
  #recent = [];
  #marking = new Map(); // alert_id -> the request that tells the server of a mark
  #announcer = new Announcer();

  /** `onState` hears "live" and "reconnecting", `onAlert` every new alert. */
  constructor(api, { onState, onAlert }) {
    this.#api = api;
    this.onState = onState;
    this.onAlert = onAlert;
    byId("more").addEventListener("click", () => void this.#more());
    byId("newer").addEventListener("click", () => void this.#release());
    addEventListener("scroll", () => void this.#release({ quietly: true }), { passive: true });
  }

  /** Load, then follow until the signal. */
  async start(signal) {
    signal.addEventListener("abort", () => {
      this.#announcer.clear();
      this.#loading.abort();
      this.#recent = [];
      closeViewer();
      this.#clear();
    });
    await this.reload();
    void this.#cameras();
    try {
      await this.#api.follow("alerts/stream", {
        signal,
        onEvent: (event) => this.#heard(event),
        onState: (state) => {
          this.onState(state);
          if (state === "live") this.#settle(signal);
        },
      });
    } catch (error) {
      this.#failed(error);
      this.onState("off");
    }
  }

  /** Load the first page of what the filters ask for. */
  async reload() {
    this.#query = filterQuery();
    this.#loading.abort();
    this.#loading = new AbortController();
    const { signal } = this.#loading;
    list.setAttribute("aria-busy", "true");
    try {
      await Promise.allSettled(this.#marking.values()); // the answer shall know of them
      const page = await this.#page({ signal });
      this.#clear();
      this.#cursor = page.next_cursor;
      this.#add(page.items);
      for (const alert of this.#recent) this.#take(alert, { recorded: false });
      say(byId("alerts-error"), null);
    } catch (error) {
      this.#failed(error);
    }
    if (!signal.aborted) list.removeAttribute("aria-busy");
    this.#summary();
  }

  #page({ signal, ...query }) {
    return this.#api.json("GET", "alerts", {
      query: { ...this.#query, limit: PAGE, ...query },
      signal,
    });
  }

  async #more() {
    const button = byId("more");
    const last = this.#order.at(-1);
    button.disabled = true;
    try {
      const { signal } = this.#loading;
      const where = this.#before === null ? { cursor: this.#cursor } : { to: this.#before };
      const page = await this.#page({ signal, ...where });
      this.#before = null;
      this.#cursor = page.next_cursor;
      this.#add(page.items);
      say(byId("alerts-error"), null);
      this.#order[this.#order.indexOf(last) + 1]?.opener.focus({ preventScroll: true });
    } catch (error) {
      this.#failed(error);
    }
    button.disabled = false;
    this.#summary();
  }

  /** What was told while nobody listened, now and once all of it has been recorded. */
  #settle(signal) {
    void this.#catchUp();
    const timer = setTimeout(() => void this.#catchUp(), RECORDED_MS);
    signal.addEventListener("abort", () => clearTimeout(timer));
  }

  /** Newest pages until one that is known; where there is too much between, begin anew. */
  async #catchUp() {
    const { signal } = this.#loading;
    const known = (alert) => this.#cards.has(alert.alert_id) || this.#held.has(alert.alert_id);
    const found = [];
    let cursor = null;
    try {
      for (let pages = 0; pages < CATCH_UP_PAGES; pages += 1) {
        const page = await this.#page({ signal, cursor });
        found.push(...page.items);
        cursor = page.next_cursor;
        if (cursor === null || page.items.some(known)) {
          for (const alert of found) this.#take(alert, { recorded: true });
          this.#summary();
          return;
        }
      }
      await this.reload();
    } catch (error) {
      this.#failed(error);
    }
  }

  #heard({ type, data }) {
    const fresh = !this.#cards.has(data.alert_id) && !this.#held.has(data.alert_id);
    if (type === "alert" && fresh) this.onAlert(data);
    this.#recent = [...this.#recent.slice(1 - MOST_RECENT), data];
    this.#take(data, { recorded: false });
    this.#summary();
    return false;
  }

  /** A new alert, or more about a known one. */
  #take(alert, { recorded }) {
    const id = alert.alert_id;
    const earlier = this.#cards.get(id)?.alert ?? this.#held.get(id);
    if (earlier !== undefined) {
      const told = recorded && !this.#marking.has(id);
      const reviewed = told ? alert.reviewed : earlier.reviewed;
      // every answer has a link of its own; another one would load the picture again
      const merged = { ...earlier, reviewed, image_url: earlier.image_url ?? alert.image_url };
      if (this.#held.has(id)) this.#held.set(id, merged);
      this.#cards.get(id)?.update(merged);
      return;
    }
    if (!matches(alert, this.#query) || this.#beyond(alert)) return;
    if (!this.#reading()) this.#add([alert], { arriving: true });
    else if (this.#held.size < MOST_CARDS) this.#held.set(id, alert);
    else this.#flooded = true;
    this.#announcer.say(alert);
  }

  /** Whether `alert` is older than all that is shown, with more to load: its turn comes then. */
  #beyond(alert) {
    const more = this.#cursor !== null || this.#before !== null;
    return more && this.#order.length > 0 && older(alert, this.#order.at(-1).alert);
  }

  /** Whether the reader is in the middle of the list, where nothing may move. */
  #reading() {
    const inside = list.contains(document.activeElement) || byId("viewer").open;
    return inside || (list.childElementCount > 0 && list.getBoundingClientRect().top < 0);
  }

  async #release({ quietly = false } = {}) {
    if (this.#held.size === 0 || (quietly && this.#reading())) return;
    const held = [...this.#held.values()];
    this.#held.clear();
    if (this.#flooded) await this.reload();
    else this.#add(held, { arriving: true });
    this.#summary();
    if (quietly) return;
    this.#order[0]?.opener.focus({ preventScroll: true });
    byId("alerts-title").scrollIntoView({ block: "start" });
  }

  #add(alerts, { arriving = false } = {}) {
    assign(alerts.map((alert) => alert.label));
    offer({
      cameras: alerts.map((alert) => alert.camera_id),
      labels: alerts.map((alert) => alert.label),
    });
    const actions = {
      open: (alert) => this.#open(alert.alert_id),
      review: (alert, reviewed) => this.#review(alert.alert_id, reviewed),
      renew: (id) => this.#renew(id),
    };
    for (const alert of alerts) {
      if (this.#cards.has(alert.alert_id)) continue;
      const card = new Card(alert, actions);
      const at = this.#order.findLastIndex((other) => older(alert, other.alert)) + 1;
      list.insertBefore(card.element, this.#order[at]?.element ?? null);
      this.#order.splice(at, 0, card);
      this.#cards.set(alert.alert_id, card);
      if (arriving) card.element.classList.add("arriving");
    }
    for (const alert of alerts) this.#drawFrame(alert);
    if (arriving) this.#letGo();
  }

  /** Draw all boxes of the picture that `alert` was found in. */
  #drawFrame(alert) {
    const same = this.#order.filter((card) => sameFrame(card.alert, alert));
    for (const card of same) {
      card.draw(same.filter((other) => other !== card).map((other) => other.alert));
    }
  }

  /** Drop the oldest cards beyond what a page should hold; "load more" brings them back. */
  #letGo() {
    const gone = this.#order.splice(MOST_CARDS);
    if (gone.length === 0) return;
    for (const card of gone) {
      card.element.remove();
      this.#cards.delete(card.alert.alert_id);
    }
    const last = Date.parse(this.#order.at(-1).alert.captured_at);
    this.#before = new Date(last + 1).toISOString();
  }

  #open(id) {
    const card = this.#cards.get(id);
    const { alert } = card;
    const step = (by) => {
      const next = this.#order[this.#order.indexOf(card) + by];
      if (next !== undefined) this.#open(next.alert.alert_id);
    };
    const parts = large(alert, {
      others: this.#order.filter((c) => c !== card && sameFrame(c.alert, alert)).map((c) => c.alert),
      zones: () => this.#zones(alert.camera_id),
      renew: () => this.#renew(id),
      review: (_, reviewed) => this.#review(id, reviewed),
      step,
    });
    openViewer({
      ...parts,
      onTurn: step,
      onClose: () => this.#cards.get(id)?.opener.focus(),
    });
  }

  /** Mark as reviewed or not; true when the server has taken it. */
  async #review(id, reviewed) {
    const set = (value) => {
      const card = this.#cards.get(id);
      card?.update({ ...card.alert, reviewed: value });
    };
    set(reviewed);
    const path = `alerts/${encodeURIComponent(id)}`;
    const marking = this.#api.json("PATCH", path, { body: { reviewed } });
    this.#marking.set(id, marking);
    try {
      await marking;
      say(byId("alerts-error"), null);
      return true;
    } catch (error) {
      set(!reviewed);
      this.#failed(error);
      return false;
    } finally {
      if (this.#marking.get(id) === marking) this.#marking.delete(id);
    }
  }

  async #renew(id) {
    return (await this.#api.json("GET", `alerts/${encodeURIComponent(id)}`)).image_url;
  }

  async #cameras() {
    try {
      const { items } = await this.#api.json("GET", "cameras");
      offer({ cameras: items.map((camera) => camera.camera_id) });
    } catch (error) {
      this.#failed(error);
    }
  }

  async #zones(cameraId) {
    return (await this.#api.json("GET", `cameras/${encodeURIComponent(cameraId)}`)).zones;
  }

  #summary() {
    const shown = this.#order.length;
    const more = this.#cursor !== null || this.#before !== null;
    const held = this.#held.size;
    byId("alerts-summary").textContent = shown === 0 ? "" : `${shown} shown`;
    byId("more").hidden = !more;
    say(byId("newer"), held === 0 ? "" : `↑ ${held}${this.#flooded ? "+" : ""} new ${held === 1 ? "alert" : "alerts"}`);
    const filtered = Object.values(this.#query).some((value) => value !== "");
    const empty = filtered
      ? "No alert matches these filters."
      : "No alerts yet. They appear here as cameras send frames to POST /api/v1/frames.";
    say(byId("alerts-empty"), shown === 0 && byId("alerts-error").hidden ? empty : "");
  }

  #clear() {
    list.replaceChildren();
    this.#cards.clear();
    this.#order = [];
    this.#held.clear();
    this.#flooded = false;
    this.#cursor = null;
    this.#before = null;
  }

  #failed(error) {
    if (error.name === "AbortError" || error.status === 401) return;
    say(byId("alerts-error"), error.message);
  }
}

const sameFrame = (a, b) => a.camera_id === b.camera_id && a.captured_at === b.captured_at;

/** Whether `a` comes after `b` in a list of the newest first. */
function older(a, b) {
  const apart = Date.parse(a.captured_at) - Date.parse(b.captured_at);
  return apart === 0 ? a.alert_id < b.alert_id : apart < 0;
}
