/** What was said, and what a language model made of it: short, whole, and as files. */

import { bytes, duration, h } from "./dom.js";

const LANGUAGES = new Intl.DisplayNames(undefined, { type: "language", fallback: "code" });
const SOURCES = { json: "JSON", srt: ".srt", vtt: ".vtt" };
export const NOTHING = "No words were heard.";

/** "1 min 15 s · English". */
export const lengthAndLanguage = ({ duration: seconds, language }) =>
  [duration(seconds * 1000), languageName(language)].filter(Boolean).join(" · ");

/** "English" for "en", in the reader's own language. */
export const languageName = (code) => (code ? LANGUAGES.of(code) : "");

/** A text of which some `letters` are shown until the reader wants all, with `facts` below. */
export function shortened(text, { letters, name, language = null, facts = "" }) {
  const shown = h("p", { class: text ? "words" : "muted", lang: language, dir: "auto" }, text || NOTHING);
  const foot = h("div", { class: "words-foot" }, h("span", { class: "muted number" }, facts));
  const whole = h("div", { class: "shortened" }, shown, foot);
  if (text.length <= letters * 1.2) return whole; // hiding the last few would save no room
  const short = `${text.slice(0, letters).replace(/\s+\S*$/, "")} …`;
  shown.textContent = short;
  const button = h(
    "button",
    { type: "button", class: "link small", "aria-expanded": "false", "aria-label": `Show all of ${name}` },
    "Show all",
  );
  button.addEventListener("click", () => {
    const open = button.getAttribute("aria-expanded") !== "true";
    button.setAttribute("aria-expanded", String(open));
    button.textContent = open ? "Show less" : "Show all";
    button.setAttribute("aria-label", `${button.textContent} of ${name}`);
    shown.textContent = open ? text : short;
    shown.classList.toggle("scroll", open);
    if (open) shown.tabIndex = 0;
    else shown.removeAttribute("tabindex");
  });
  foot.append(button);
  return whole;
}

/** The translation, the sentence why there is none, or null where nobody asked for one. */
export function translationOf({ translation, translation_error: problem }) {
  if (translation) return { text: translation };
  if (!problem) return null;
  return { reason: problem.message.replace(/[.]?$/, ".") };
}

/** Links to a task's transcript as JSON and as subtitles; each URL holds for a day. */
export function transcriptLinks(result) {
  return [result, ...(result.subtitles ?? [])].map(({ file_path, url }) =>
    h(
      "a",
      { class: "button", href: url, download: file_path.split("/").at(-1), target: "_blank", rel: "noopener" },
      h("span", { class: "hidden" }, "Transcript as "),
      SOURCES[file_path.split(".").at(-1)] ?? file_path,
    ),
  );
}

/** A transcript to read at ease, in the viewer. */
export function largeTranscript(result) {
  const made = translationOf(result);
  const words = h("p", { class: "words", lang: result.language }, result.transcription || NOTHING);
  return h(
    "div",
    { class: "reading scroll", tabindex: 0, role: "region", "aria-label": "Transcript" },
    made?.text
      ? [
          h("h3", {}, "By your prompt"),
          h("p", { class: "words", dir: "auto" }, made.text),
          h("h3", {}, "What was said"),
        ]
      : [],
    words,
    made?.reason ? h("p", { class: "muted small" }, `Without your prompt: ${made.reason}`) : null,
  );
}

/** "voice.opus", with its size below. */
export const fileName = (file) => [h("strong", { title: file.name }, file.name), h("span", {}, bytes(file.size))];
