/** The caller's tasks with their progress: a list that is asked for, streams of those at work. */

import { byId, h, say } from "./dom.js";
import { FINAL, Row, facts, isTranscript, resultLink } from "./task_row.js";
import { openViewer } from "./viewer.js";
import { largeTranscript, transcriptLinks } from "./words.js";

const PATH = "media/processingTasks";
const SHOWN = 12;
const STREAMS = 2; // a browser opens six connections to a host, over all tabs
const IDLE_MS = 5_000;
const BUSY_MS = 3_000;
const list = byId("task-list");

export class Tasks {
  #api;
  #rows = new Map(); // by task_id
  #streams = new Map(); // task_id -> AbortController
  #listeners = new Map(); // task_id -> function
  #titles = new Map(); // task_id -> what this page knows it by
  #timer = null;
  #signal = AbortSignal.abort();

  constructor(api) {
    this.#api = api;
    document.addEventListener("visibilitychange", () => {
      if (this.#signal.aborted) return;
      if (document.hidden) this.#stopStreams();
      else void this.#refresh();
    });
  }

  /** Show the tasks, now and again, until the signal. */
  start(signal) {
    this.#signal = signal;
    signal.addEventListener("abort", () => {
      clearTimeout(this.#timer);
      this.#stopStreams();
      this.#rows.clear();
      this.#listeners.clear();
      this.#titles.clear();
      list.replaceChildren();
    });
    return this.#refresh();
  }

  /** Follow a task that this page has started, shown as `title`; `listener` hears every change, to the last. */
  watch(taskId, title, listener) {
    this.#titles.set(taskId, title);
    this.#listeners.set(taskId, listener);
    void this.#refresh();
  }

  async cancel(taskId) {
    try {
      this.#take(await this.#api.json("POST", `${PATH}/${taskId}:cancel`));
    } catch (error) {
      this.#failed(error);
    }
  }

  async #refresh() {
    clearTimeout(this.#timer);
    const signal = this.#signal;
    try {
      const { items } = await this.#api.json("GET", PATH, { query: { limit: SHOWN }, signal });
      for (const task of items.reverse()) this.#take(task);
      this.#tidy();
      say(byId("tasks-error"), null);
    } catch (error) {
      this.#failed(error);
    }
    if (signal.aborted) return;
    this.#summary();
    this.#follow();
    const busy = this.#active().length > this.#streams.size;
    clearTimeout(this.#timer);
    if (!document.hidden) {
      this.#timer = setTimeout(() => void this.#refresh(), busy ? BUSY_MS : IDLE_MS);
    }
  }

  /** A task as the list or a stream tells it. */
  #take(task) {
    let row = this.#rows.get(task.task_id);
    if (row === undefined) {
      row = new Row(task, this.#titles.get(task.task_id), {
        cancel: () => this.cancel(task.task_id),
        view: () => this.#view(task.task_id),
      });
      this.#rows.set(task.task_id, row);
      list.prepend(row.element);
    }
    // an answer that was under way when the stream told more takes no task back
    if (FINAL.has(row.task.status) && !FINAL.has(task.status)) return;
    const progress = Math.max(row.task.progress, task.progress);
    row.update({ ...row.task, ...task, progress });
    this.#listeners.get(task.task_id)?.(row.task);
    if (FINAL.has(row.task.status)) this.#listeners.delete(task.task_id);
    this.#summary();
  }

  /** The longest known beyond what the list shows go, unless they are still at work. */
  #tidy() {
    const old = [...this.#rows.values()].filter((row) => FINAL.has(row.task.status));
    old.sort((a, b) => a.created - b.created);
    for (const row of old.slice(0, Math.max(0, this.#rows.size - SHOWN))) {
      row.element.remove();
      this.#rows.delete(row.task.task_id);
    }
  }

  /** Tasks at work, those that somebody waits for first. */
  #active() {
    const rank = (task) => (this.#listeners.has(task.task_id) ? 0 : task.status === "processing" ? 1 : 2);
    return [...this.#rows.values()]
      .map((row) => row.task)
      .filter((task) => !FINAL.has(task.status))
      .sort((a, b) => rank(a) - rank(b));
  }

  #follow() {
    if (document.hidden) return;
    const wanted = this.#active().slice(0, STREAMS);
    for (const [taskId, stream] of this.#streams) {
      if (!wanted.some((task) => task.task_id === taskId)) stream.abort();
    }
    for (const task of wanted) {
      if (!this.#streams.has(task.task_id)) void this.#stream(task.task_id);
    }
  }

  async #stream(taskId) {
    const stop = new AbortController();
    this.#streams.set(taskId, stop);
    try {
      await this.#api.follow(`${PATH}/${taskId}/events`, {
        signal: stop.signal,
        onEvent: ({ data }) => {
          this.#take(data);
          return FINAL.has(data.status);
        },
      });
    } catch (error) {
      this.#failed(error);
    }
    if (this.#streams.get(taskId) === stop) this.#streams.delete(taskId);
    // the list alone knows when the task ended
    if (!stop.signal.aborted) await this.#refresh();
  }

  #stopStreams() {
    for (const stream of this.#streams.values()) stream.abort();
    this.#streams.clear();
  }

  /** The result, large, with a link that has just been made. */
  async #view(taskId) {
    try {
      const task = await this.#api.json("GET", `${PATH}/${taskId}`);
      const { result } = task;
      const parts = isTranscript(result)
        ? {
            title: this.#titles.get(taskId) ?? "Recording",
            actions: transcriptLinks(result),
            body: largeTranscript(result),
          }
        : {
            title: `${result.width} × ${result.height}`,
            actions: [resultLink(result)],
            body: h("img", { class: "fit", src: result.url, alt: "The result" }),
          };
      openViewer({
        ...parts,
        foot: [facts(task)],
        onClose: () => this.#rows.get(taskId)?.viewer.focus(),
      });
      say(byId("tasks-error"), null);
    } catch (error) {
      this.#failed(error);
    }
  }

  #summary() {
    const active = this.#active().length;
    byId("tasks-summary").textContent = active === 0 ? "" : `${active} at work`;
    byId("tasks-empty").hidden = this.#rows.size > 0 || !byId("tasks-error").hidden;
  }

  #failed(error) {
    if (error.name === "AbortError" || error.status === 401) return;
    say(byId("tasks-error"), error.message);
  }
}
