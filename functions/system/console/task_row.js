/** A task as it is shown: a line in the list, its facts, the link to its result. */

import { bytes, duration, h, moment, percent, say } from "./dom.js";
import { languageName, lengthAndLanguage, shortened } from "./words.js";

const LETTERS = 130;
export const FINAL = new Set(["completed", "failed", "cancelled"]);
const NAMES = {
  "nas-photo-processing": "Photo",
  "professional-photo-processing": "Photo, professional",
  "audio-transcription": "Recording",
};

/** Whether a result is words. */
export const isTranscript = (result) => typeof result?.transcription === "string";

/** A link to a result's file; S3 serves it, so the browser decides whether it shows or saves. */
export function resultLink(result) {
  const name = result.file_path.split("/").at(-1);
  return h(
    "a",
    { class: "button primary", href: result.url, download: name, target: "_blank", rel: "noopener" },
    `Download ${bytes(result.size)}`,
  );
}

/** What there is to know of a completed task. */
export function facts(task) {
  const { result } = task;
  const what = isTranscript(result)
    ? { Length: duration(result.duration * 1000), Language: languageName(result.language) }
    : { Type: `${result.content_type}, ${bytes(result.size)}` };
  const rows = {
    ...what,
    Model: `${result.model} ${result.model_version}`,
    Took: duration(Date.parse(task.finished_at) - Date.parse(task.created_at)),
    Finished: moment(task.finished_at, { full: true }),
    Id: h("code", {}, task.task_id),
  };
  return h(
    "dl",
    { class: "facts" },
    Object.entries(rows).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
  );
}

/** One task in the list. */
export class Row {
  constructor(task, title, { cancel, view }) {
    this.title = title;
    this.state = h("span", { class: "badge" });
    this.percent = h("span", { class: "number muted" });
    this.bar = h("progress", { max: 1, value: 0, "aria-label": "Progress" });
    this.error = h("p", { class: "task-error" });
    this.words = h("div", { class: "task-words", hidden: true });
    this.name = h("strong");
    this.when = h("span", { class: "muted" });
    this.canceller = h("button", { type: "button", class: "quiet small", onclick: cancel }, "Cancel");
    this.viewer = h("button", { type: "button", class: "quiet small view", onclick: view }, "View result");
    this.element = h(
      "li",
      { "data-task": task.task_id },
      h("div", { class: "task-line" }, this.name, this.percent, this.state),
      this.bar,
      this.error,
      this.words,
      h("div", { class: "task-line" }, this.when, this.viewer, this.canceller),
    );
    this.update(task);
  }

  get created() {
    return Date.parse(this.task.created_at ?? 0);
  }

  update(task) {
    this.task = task;
    const final = FINAL.has(task.status);
    this.element.dataset.status = task.status;
    this.name.textContent = this.title ?? `${NAMES[task.workflow] ?? task.workflow}${sizeOf(task)}`;
    this.name.title = this.name.textContent;
    this.state.textContent = task.status;
    this.percent.textContent = task.status === "processing" ? percent(task.progress) : "";
    this.bar.value = task.progress;
    this.bar.hidden = final;
    this.canceller.hidden = final;
    this.viewer.hidden = task.status !== "completed" || !task.result?.file_path;
    say(this.error, task.status === "failed" ? task.error?.message : null);
    if (this.words.hidden && final && isTranscript(task.result)) this.#showWords(task.result);
    if (task.created_at) {
      const took =
        task.finished_at && task.status === "completed"
          ? ` · took ${duration(Date.parse(task.finished_at) - Date.parse(task.created_at))}`
          : "";
      this.when.replaceChildren(moment(task.created_at), took);
    }
    const name = `${this.name.textContent} of ${this.when.textContent}`;
    this.canceller.setAttribute("aria-label", `Cancel ${name}`);
    this.viewer.setAttribute("aria-label", `View result: ${name}`);
  }

  /** Once: the reader may have them open. */
  #showWords(result) {
    const { transcription, language } = result;
    const name = this.name.textContent;
    const facts = lengthAndLanguage(result);
    this.words.replaceChildren(
      shortened(transcription, { letters: LETTERS, name, language, facts }),
    );
    this.words.hidden = false;
  }
}

function sizeOf({ result }) {
  return result?.width ? ` · ${result.width} × ${result.height}` : "";
}
