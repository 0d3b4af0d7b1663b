/** A photo from the reader's machine, enlarged while they watch, compared with what it was. */

import { comparison, largeComparison } from "./compare.js";
import { byId, h, percent, randomId, say } from "./dom.js";
import { FINAL, resultLink } from "./task_row.js";
import { openViewer } from "./viewer.js";

const drop = byId("drop");
const preview = byId("photo-preview");
const WAITING = "Waiting for its turn";

export class Photo {
  #api;
  #tasks;
  #file = null;
  #url = null; // of the chosen file
  #running = null; // AbortController
  #shown = null; // URL of the file that the result on the page came from

  constructor(api, tasks) {
    this.#api = api;
    this.#tasks = tasks;
    byId("photo-file").addEventListener("change", (event) => this.choose(event.target.files[0]));
    byId("photo-form").addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#run();
    });
    byId("photo-cancel").addEventListener("click", () => this.#running?.abort());
    byId("denoise").addEventListener("input", (event) => {
      byId("denoise-shown").textContent = percent(Number(event.target.value));
    });
    byId("photo-form").addEventListener("change", () => this.#describe());
    preview.addEventListener("load", () => this.#describe());
    preview.addEventListener("error", () => {
      preview.hidden = true; // a format that this browser does not show, as TIFF
    });
  }

  /** Forget the photo and its result. */
  clear() {
    this.#running?.abort();
    this.choose(undefined);
    byId("photo-form").reset();
    byId("denoise-shown").textContent = percent(0);
    byId("photo-result").replaceChildren();
    byId("photo-result").hidden = true;
    say(byId("photo-error"), null);
  }

  /** Take a file to be enlarged. */
  choose(file) {
    if (this.#url !== null && this.#url !== this.#shown) URL.revokeObjectURL(this.#url);
    this.#file = file ?? null;
    this.#url = this.#file === null ? null : URL.createObjectURL(this.#file);
    preview.hidden = this.#file === null;
    if (this.#url === null) preview.removeAttribute("src");
    else preview.src = this.#url;
    drop.classList.toggle("filled", this.#file !== null);
    byId("photo-start").disabled = this.#file === null || this.#running !== null;
    say(byId("photo-error"), null);
    this.#describe();
  }

  #describe() {
    const name = byId("photo-name");
    if (this.#file === null) {
      name.textContent = "Drop a photo here";
      return;
    }
    const { naturalWidth: width, naturalHeight: height } = preview;
    const scale = this.#scale();
    const sizes =
      preview.hidden || width === 0
        ? ""
        : `${width} × ${height} → ${width * scale} × ${height * scale}`;
    name.replaceChildren(h("strong", {}, this.#file.name), h("span", {}, sizes));
  }

  #scale() {
    return Number(byId("photo-form").querySelector('[name="scale"]:checked').value);
  }

  /** Upload, process, follow, compare. */
  async #run() {
    if (this.#file === null || this.#running !== null) return;
    const file = this.#file;
    const url = this.#url;
    const running = new AbortController();
    this.#running = running;
    this.#busy(true);
    try {
      const task = await this.#process(file, running.signal);
      if (task.status === "completed") await this.#compare(task, file.name, url);
      else if (task.status === "failed") say(byId("photo-error"), task.error.message);
    } catch (error) {
      if (error.name !== "AbortError" && error.status !== 401) {
        say(byId("photo-error"), error.message);
      }
    }
    this.#running = null;
    this.#busy(false);
  }

  /** The task in its final state. */
  async #process(file, signal) {
    const scale = this.#scale();
    const denoise = Number(byId("denoise").value);
    this.#step("Uploading", 0);
    const { file_path } = await this.#api.upload("media", file, {
      onProgress: (fraction) => this.#step("Uploading", fraction),
      signal,
    });
    this.#step(WAITING, null);
    const accepted = await this.#api.json("POST", "media:process", {
      headers: { "Idempotency-Key": randomId() },
      body: {
        file_path,
        workflow: "nas-photo-processing",
        priority: 8, // somebody is waiting for it
        parameters: {
          image_enhance: { scale_factor: scale, denoise_strength: denoise },
        },
      },
    });
    const cancel = () => void this.#tasks.cancel(accepted.task_id);
    if (signal.aborted) cancel();
    else signal.addEventListener("abort", cancel, { once: true });
    const task = await new Promise((resolve) => {
      this.#tasks.watch(accepted.task_id, `${file.name}, ${scale}×`, (row) => {
        if (row.status === "processing") this.#step("Enlarging", row.progress);
        if (FINAL.has(row.status)) resolve(row);
      });
    });
    signal.removeEventListener("abort", cancel);
    return task;
  }

  async #compare(task, name, before) {
    // a stream brings the links with it, the list of tasks does not
    const { result } = task.result.url
      ? task
      : await this.#api.json("GET", `media/processingTasks/${task.task_id}`);
    const options = {
      before,
      after: result.url,
      width: result.width,
      height: result.height,
      alt: name,
    };
    const full = h("button", { type: "button" }, "Compare large");
    full.addEventListener("click", () => {
      const parts = largeComparison(options);
      openViewer({
        title: name,
        body: parts.body,
        actions: [...parts.actions, resultLink(result)],
        onClose: () => full.focus(),
        wide: true,
      });
    });
    if (this.#shown !== null && this.#shown !== before) URL.revokeObjectURL(this.#shown);
    this.#shown = before;
    const size = `${result.width} × ${result.height}, ${result.model}`;
    byId("photo-result").replaceChildren(
      comparison(options),
      h("p", { class: "muted small" }, size),
      h("div", { class: "row" }, resultLink(result), full),
    );
    byId("photo-result").hidden = false;
  }

  #busy(busy) {
    byId("photo-progress").hidden = !busy;
    byId("photo-start").disabled = busy || this.#file === null;
    if (!busy) return;
    byId("photo-result").hidden = true;
    say(byId("photo-error"), null);
  }

  #step(name, fraction) {
    if (byId("photo-step").textContent !== name) byId("photo-step").textContent = name;
    byId("photo-percent").textContent = fraction === null ? "" : percent(fraction);
    if (fraction === null) byId("photo-bar").removeAttribute("value");
    else byId("photo-bar").value = fraction;
  }
}
