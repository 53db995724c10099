// An answer as a stream of server-sent events. A stream that breaks off goes on where it ended, with
// `Last-Event-ID`: through another gateway, or the same one once it is back.

const RETRIES = 30;
const RETRY_MS = 1000;
const UNAVAILABLE = 503; // as from a gateway that shuts down

export class Refused extends Error {} // the server's own words; asking again does not help

let key = sessionStorage.getItem("key") ?? "";

export function setKey(value) {
  key = value.replace(/[^!-~]/g, ""); // a header carries nothing else, and a pasted text may have it
  sessionStorage.setItem("key", key);
}

export function headers() {
  return key ? { Authorization: `Bearer ${key}` } : {};
}

// Ask what `request` says, and call `on.text`, `on.stage`, `on.request` and `on.waiting` as things happen.
// Throws Refused, or the error of an aborted `signal`.
export async function ask(request, signal, on) {
  const state = { id: "", isDone: false };
  const call = {
    method: "POST",
    body: JSON.stringify({ ...request, stream: true }),
    signal,
  };
  // Not randomUUID, which pages without TLS lack.
  const name = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) =>
    byte.toString(16).padStart(2, "0"),
  ).join("");
  for (let tries = 0; !state.isDone; ) {
    const before = state.id;
    try {
      const sent = { "Content-Type": "application/json", "Last-Event-ID": state.id };
      call.headers = { ...headers(), ...sent, "Idempotency-Key": name };
      const response = await fetch("/v1/chat/completions", call);
      if (!response.ok && response.status !== UNAVAILABLE) throw new Refused(await reason(response));
      if (response.ok) {
        on.request(response.headers.get("x-request-id"));
        await read(response.body, state, on);
      }
    } catch (error) {
      if (error instanceof Refused || signal.aborted) throw error;
    }
    if (state.isDone) break;
    tries = state.id === before ? tries + 1 : 1;
    if (tries > RETRIES) throw new Refused("No server answers. Ask again later.");
    on.waiting();
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}

async function reason(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `The server answered with status ${response.status}.`;
  }
}

// Read frames to the end of the stream, or until it breaks off.
async function read(body, state, on) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const frames = (rest + value).split("\n\n");
    rest = frames.pop();
    for (const frame of frames) take(frame, state, on);
  }
}

function take(frame, state, on) {
  const found = { event: "message", data: "" };
  for (const line of frame.split("\n")) {
    if (line.startsWith(":")) {
      on.stage(line.slice(1).trim());
      continue;
    }
    const [, name, value] = /^(\w+): ?(.*)$/.exec(line) ?? [];
    if (name) found[name] = value;
  }
  if (!found.data) return;
  if (found.event === "error") {
    const { message, code } = JSON.parse(found.data).error;
    throw code === UNAVAILABLE ? new Error(message) : new Refused(message);
  }
  if (found.data === "[DONE]") {
    state.isDone = true;
    return;
  }
  const chunk = JSON.parse(found.data);
  const text = chunk.choices[0]?.delta?.content;
  if (text) on.text(text);
  if (found.id) state.id = found.id;
}
