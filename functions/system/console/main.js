/** The console: sign in, then everything at once, until the reader leaves. */

import { Alerts } from "./alerts.js";
import { Api } from "./api.js";
import { Chart } from "./chart.js";
import { byId, say } from "./dom.js";
import { takeDrops } from "./drop.js";
import { chooseHour, filterQuery, forgetFilters, offer, setUpFilters } from "./filters.js";
import { showHealth } from "./health.js";
import { Photo } from "./photo.js";
import { Recording } from "./recording.js";
import { showSoundFigures } from "./sound_figures.js";
import { Tasks } from "./tasks.js";

const VIEWS = ["alerts", "photos", "recordings", "tasks"];
const PARTS = ["app", "sign-out", "views", "connection", "health"];
const CONNECTION = { live: "Live", reconnecting: "Reconnecting …", off: "Not live" };

const api = new Api((error) => leave(error.message));
const chart = new Chart(api, {
  query: () => {
    const { camera_id, label, min_score } = filterQuery();
    return { camera_id, label, min_score };
  },
  onHour: chooseHour,
  onNames: (items) =>
    offer({
      cameras: [...new Set(items.map((item) => item.camera_id))],
      labels: [...new Set(items.map((item) => item.label))],
    }),
});
const alerts = new Alerts(api, { onState: connection, onAlert: () => chart.stale() });
const tasks = new Tasks(api);
const photo = new Photo(api, tasks);
const recording = new Recording(api, tasks);
let session = null;

function enter() {
  session = new AbortController();
  const { signal } = session;
  byId("sign-in").hidden = true;
  for (const id of PARTS) byId(id).hidden = false;
  connection("reconnecting");
  void showHealth(signal);
  // the chart first: the most frequent labels have the colours
  void chart.start(signal).then(() => signal.aborted || alerts.start(signal));
  void tasks.start(signal);
  showSoundFigures(api, signal);
}

/** Back to the sign-in, with the reason where there is one. */
function leave(reason = null) {
  session?.abort();
  session = null;
  api.signOut();
  photo.clear();
  recording.clear();
  forgetFilters();
  for (const id of PARTS) byId(id).hidden = true;
  byId("sign-in").hidden = false;
  byId("sign-in-form").reset();
  chooseHow();
  say(byId("sign-in-error"), reason);
}

function connection(state) {
  const shown = byId("connection");
  if (shown.dataset.state === state && shown.textContent !== "") return;
  shown.dataset.state = state;
  shown.textContent = CONNECTION[state];
}

function chooseHow() {
  const how = byId("sign-in-form").elements.how.value;
  for (const part of byId("sign-in-form").querySelectorAll("div[data-how]")) {
    part.hidden = part.dataset.how !== how;
    for (const input of part.querySelectorAll("input")) input.required = !part.hidden;
  }
  byId("sign-in-form").querySelector("div[data-how]:not([hidden]) input").focus();
}

async function signIn(event) {
  event.preventDefault();
  const byKey = byId("sign-in-form").elements.how.value === "key";
  const button = byId("sign-in-form").querySelector("[type=submit]");
  button.disabled = true;
  say(byId("sign-in-error"), null);
  try {
    await api.signIn(
      byKey
        ? { key: byId("api-key").value.trim() }
        : { clientId: byId("client-id").value.trim(), clientSecret: byId("client-secret").value },
    );
    byId("sign-in-form").reset();
    enter();
    byId("alerts").focus();
  } catch (error) {
    say(byId("sign-in-error"), error.message);
  }
  button.disabled = false;
}

/** On a narrow screen one part is shown at a time. */
function chooseView() {
  const wanted = location.hash.slice(1);
  const view = VIEWS.includes(wanted) ? wanted : VIEWS[0];
  document.body.dataset.view = view;
  for (const link of byId("views").querySelectorAll("a")) {
    if (link.hash === `#${view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

setUpFilters(() => {
  if (session === null) return;
  void alerts.reload();
  void chart.load();
});
takeDrops([
  {
    section: byId("photos"),
    drop: byId("drop"),
    takes: (type) => type.startsWith("image/"),
    choose: (file) => photo.choose(file),
  },
  {
    section: byId("recordings"),
    drop: byId("sound-drop"),
    takes: (type) => /^(audio|video)\//.test(type),
    choose: (file) => recording.choose(file),
  },
]);
addEventListener("hashchange", chooseView);
byId("sign-in-form").addEventListener("submit", (event) => void signIn(event));
byId("sign-in-form").addEventListener("change", (event) => {
  if (event.target.name === "how") chooseHow();
});
byId("sign-out").addEventListener("click", () => leave());
chooseView();
if (api.signedIn) enter();
else leave();
