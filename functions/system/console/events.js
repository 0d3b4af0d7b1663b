/** Server-sent events out of a response's body (WHATWG HTML, 9.2.6), for streams with headers. */

/** Each event as `{id, type, data}`; `alive` is called whenever anything came, comments too. */
export async function* eventsOf(body, alive) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let event = fresh();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      alive();
      rest += value;
      // a carriage return at the very end may be the first half of a CRLF
      const lines = rest.split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        if (line !== "") {
          take(event, line);
          continue;
        }
        if (event.lines.length > 0) {
          yield { id: event.id, type: event.type, data: JSON.parse(event.lines.join("\n")) };
        }
        event = fresh();
      }
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}

const fresh = () => ({ id: null, type: "message", lines: [] });

function take(event, line) {
  const colon = line.indexOf(":");
  if (colon === 0) return;
  const name = colon < 0 ? line : line.slice(0, colon);
  const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
  if (name === "data") event.lines.push(value);
  else if (name === "event") event.type = value;
  else if (name === "id") event.id = value;
}
