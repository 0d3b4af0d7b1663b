/** A recording from the reader's machine or microphone, as words: at once, or as a task. */

import { byId, h, percent, say, seconds } from "./dom.js";
import { canRecord, record } from "./recorder.js";
import { FINAL } from "./task_row.js";
import { NOTHING, fileName, lengthAndLanguage, shortened, translationOf } from "./words.js";

const LETTERS = 420;
const TICK_MS = 250;
const drop = byId("sound-drop");
const recordButton = byId("sound-record");

export class Recording {
  #api;
  #tasks;
  #file = null;
  #running = null; // AbortController
  #microphone = null; // while it is on
  #leaving = new AbortController(); // to be asked for after every wait

  constructor(api, tasks) {
    this.#api = api;
    this.#tasks = tasks;
    recordButton.hidden = !canRecord();
    recordButton.addEventListener("click", () => void this.#record());
    byId("sound-file").addEventListener("change", (event) => {
      this.choose(event.target.files[0]);
      event.target.value = ""; // the same file may be chosen again, after a recording
    });
    byId("sound-form").addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#run();
    });
    byId("sound-cancel").addEventListener("click", () => this.#running?.abort());
  }

  /** Forget the recording and its words; the microphone goes off. */
  clear() {
    this.#leaving.abort();
    this.#leaving = new AbortController();
    this.#running?.abort();
    this.#microphone?.stop();
    this.choose(undefined);
    byId("sound-form").reset();
    byId("sound-announce").textContent = "";
    this.#show(null);
    say(byId("sound-error"), null);
  }

  /** Take a file to be sent. */
  choose(file) {
    this.#file = file ?? null;
    say(byId("sound-error"), null);
    this.#describe();
  }

  #describe() {
    const on = this.#microphone !== null;
    drop.classList.toggle("filled", this.#file !== null && !on);
    drop.classList.toggle("on-air", on);
    byId("sound-choose").hidden = on;
    byId("sound-time").hidden = !on;
    recordButton.textContent = on ? "Stop" : "Record";
    byId("sound-start").disabled = this.#file === null || on || this.#running !== null;
    const name = byId("sound-name");
    name.hidden = on;
    name.replaceChildren(...(this.#file === null ? ["Drop a sound or a video here"] : fileName(this.#file)));
  }

  /** Begin to listen, or be done with it. */
  async #record() {
    if (this.#microphone !== null) {
      this.#microphone.stop();
      return;
    }
    const { signal } = this.#leaving;
    say(byId("sound-error"), null);
    recordButton.disabled = true; // while the browser asks the reader
    try {
      const microphone = await record();
      this.#microphone = microphone;
      if (signal.aborted) microphone.stop();
      else this.#listening(microphone);
      const file = await microphone.file;
      this.#microphone = null;
      if (!signal.aborted) this.choose(file);
    } catch (error) {
      if (!signal.aborted) failed(error);
    } finally {
      recordButton.disabled = false;
    }
  }

  #listening(microphone) {
    recordButton.disabled = false;
    const tick = () => {
      const passed = Math.floor((performance.now() - microphone.began) / 1000);
      const clock = `${Math.floor(passed / 60)}:${String(passed % 60).padStart(2, "0")}`;
      byId("sound-time").textContent = clock;
    };
    tick();
    const timer = setInterval(tick, TICK_MS);
    void microphone.file.then(() => clearInterval(timer));
    byId("sound-announce").textContent = "The microphone is on.";
    this.#describe();
  }

  /** Upload, and show what comes of it. */
  async #run() {
    if (this.#file === null || this.#running !== null || this.#microphone !== null) return;
    const file = this.#file;
    const running = new AbortController();
    this.#running = running;
    this.#busy(true);
    try {
      const answer = await this.#send(file, running.signal);
      if (answer.task_id === undefined) this.#answered(answer);
      else this.#accepted(answer.task_id, file.name);
    } catch (error) {
      if (error.name !== "AbortError" && error.status !== 401) {
        failed(error);
      }
    }
    this.#running = null;
    this.#busy(false);
  }

  #send(file, signal) {
    const form = new FormData();
    form.append("audio_file", file, file.name);
    form.append("user_prompt", byId("sound-prompt").value.trim());
    form.append("priority", "8"); // should it become a task, somebody is waiting for it
    this.#step("Uploading", 0);
    return this.#api.upload("translate_audio", form, {
      onProgress: (sent) => (sent < 1 ? this.#step("Uploading", sent) : this.#step("Transcribing", null)),
      signal,
    });
  }

  #answered(answer) {
    const { transcription, language, processing_time: took, audio } = answer;
    byId("sound-announce").textContent = `Heard: ${transcription || NOTHING}`;
    const facts = `${lengthAndLanguage(answer)} · transcribed in ${seconds(took)}`;
    const made = translationOf(answer);
    this.#show([
      ...(made?.text ? promptAnswer(made.text) : []),
      shortened(transcription, { letters: LETTERS, name: "what was said", language, facts }),
      h(
        "audio",
        { controls: true, preload: "metadata", src: audio.url, "aria-label": "The recording as it was heard" },
      ),
      ...(made?.reason ? [h("p", { class: "muted small" }, `Without your prompt: ${made.reason}`)] : []),
    ]);
  }

  /** It is long: the tasks show how far it is, and this place is free for the next. */
  #accepted(taskId, name) {
    const { signal } = this.#leaving;
    this.#tasks.watch(taskId, name, (task) => {
      if (signal.aborted || !FINAL.has(task.status)) return;
      byId("sound-announce").textContent = `${name}: ${task.status}`;
    });
    this.#show([
      h(
        "p",
        { role: "status" },
        "It lasts longer than a minute and goes on by itself: ",
        h("a", { href: "#tasks" }, "see the tasks"),
        ".",
      ),
    ]);
  }

  #show(children) {
    byId("sound-result").replaceChildren(...(children ?? []));
    byId("sound-result").hidden = children === null;
    if (children !== null) reveal(byId("sound-result"));
  }

  #busy(busy) {
    byId("sound-progress").hidden = !busy;
    this.#describe();
    if (!busy) return;
    this.#show(null);
    byId("sound-announce").textContent = "";
    say(byId("sound-error"), null);
    reveal(byId("sound-progress"));
  }

  #step(name, fraction) {
    if (byId("sound-step").textContent !== name) byId("sound-step").textContent = name;
    byId("sound-percent").textContent = fraction === null ? "" : percent(fraction);
    if (fraction === null) byId("sound-bar").removeAttribute("value");
    else byId("sound-bar").value = fraction;
  }
}

function failed(error) {
  say(byId("sound-error"), error.message);
  reveal(byId("sound-error"));
}

/** The rail scrolls by itself, and what comes last may lie below its edge. */
const reveal = (element) => element.scrollIntoView({ block: "nearest" });

const promptAnswer = (text) => [
  h("h3", {}, "By your prompt"),
  shortened(text, { letters: LETTERS, name: "the answer" }),
  h("h3", {}, "What was said"),
];
