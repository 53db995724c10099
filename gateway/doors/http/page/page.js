// The conversation: questions, answers as they stream in, and the numbers of the last one.

import { ask, Refused, setKey } from "/page/answer.js";
import { imageUrl, hasImage, onImageChange, onRefusal, setImage } from "/page/image.js";
import { get, watchWorkers } from "/page/workers.js";

const POSITION_MS = 1000;
const STAGES = {
  queued: "Waiting for a worker",
  encoding: "Encoding the image",
  running: "Answering",
};

const byId = (id) => document.getElementById(id);
const form = byId("ask");
const question = byId("question");
const turns = byId("turns");

let messages = [];
let running = null; // AbortController of the answer in progress

// A turn; returns the element of its text.
function show(role, text) {
  const item = document.createElement("li");
  const name = document.createElement("h2");
  const body = document.createElement("p");
  item.className = role;
  name.textContent = role === "user" ? "You" : "Answer";
  body.textContent = text;
  item.append(name, body);
  turns.append(item);
  return body;
}

function showError(text) {
  byId("error").textContent = text;
  byId("error").hidden = text === "";
}

function showProgress(text) {
  if (byId("progress").textContent !== text) byId("progress").textContent = text;
}

function setRunning(controller) {
  running = controller;
  byId("send").disabled = byId("again").disabled = controller !== null;
  byId("stop").hidden = controller === null;
}

async function content(text) {
  const url = messages.length === 0 ? await imageUrl() : null;
  if (url === null) return text;
  return [
    { type: "image_url", image_url: { url } },
    { type: "text", text },
  ];
}

function options() {
  const most = byId("max-tokens").valueAsNumber;
  return Number.isNaN(most) ? {} : { max_tokens: most };
}

// Say where the request is in its queue, while it waits.
async function watchPosition(request, isWaiting) {
  while (isWaiting()) {
    try {
      const { queue_position: position } = await get(`/page/requests/${request}`);
      if (isWaiting() && position !== null) {
        showProgress(`${STAGES.queued}: ${position} before this one`);
      }
    } catch {
      // it says so when it answers
    }
    await new Promise((resolve) => setTimeout(resolve, POSITION_MS));
  }
}

async function showNumbers(request) {
  const found = await get(`/page/requests/${request}`);
  const seconds = (name) =>
    found.phases.filter((each) => each.name === name).reduce((sum, each) => sum + each.seconds, 0);
  const decode = seconds("decode");
  const numbers = [];
  if (found.time_to_first_token_s !== null) {
    numbers.push(["Time to first token", `${found.time_to_first_token_s.toFixed(2)} s`]);
  }
  if (found.phases.some((each) => each.name === "encode")) {
    numbers.push(["Image encoded in", `${seconds("encode").toFixed(2)} s`]);
  }
  if (found.tokens > 1 && decode > 0) {
    numbers.push(["Speed", `${((found.tokens - 1) / decode).toFixed(1)} tokens/s`]);
  }
  numbers.push(["Tokens", `${found.input_tokens} in, ${found.tokens} out`]);
  if (found.takeovers) numbers.push(["Workers that died meanwhile", String(found.takeovers)]);
  byId("numbers").replaceChildren(
    ...numbers.map(([name, value]) => {
      const pair = document.createElement("div");
      pair.append(document.createElement("dt"), document.createElement("dd"));
      pair.firstChild.textContent = name;
      pair.lastChild.textContent = value;
      return pair;
    }),
  );
}

async function answer(text) {
  const controller = new AbortController();
  setRunning(controller);
  showError("");
  byId("numbers").replaceChildren();
  let request = "";
  let stage = "queued";
  let isWhole = false;
  const turn = show("user", text);
  const item = show("assistant", "");
  showProgress(STAGES.queued);
  const on = {
    request(id) {
      if (id === request) return;
      request = id;
      watchPosition(id, () => stage === "queued" && running === controller);
    },
    stage(name) {
      stage = name;
      showProgress(STAGES[name] ?? "");
    },
    text(part) {
      on.stage("running");
      item.append(part);
    },
    waiting() {
      showProgress("The connection broke off. Reconnecting");
    },
  };
  const asked = { role: "user", content: "" };
  try {
    asked.content = await content(text);
    await ask({ messages: [...messages, asked], ...options() }, controller.signal, on);
    isWhole = true;
  } catch (error) {
    if (!controller.signal.aborted) showError(error instanceof Refused ? error.message : String(error));
  }
  // What is shown is the conversation: part of an answer belongs to it, a question without one does not.
  if (!isWhole && item.textContent === "") {
    item.parentElement.remove();
    turn.parentElement.remove();
  } else if (item.isConnected) {
    messages.push(asked, { role: "assistant", content: item.textContent });
    question.value = "";
    await showNumbers(request).catch(() => {});
  }
  setRunning(null);
  showProgress("");
  question.focus();
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (running === null && question.value.trim()) answer(question.value.trim());
});
question.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    form.requestSubmit();
  }
});
byId("stop").addEventListener("click", () => running?.abort());
byId("again").addEventListener("click", () => start());
byId("options").addEventListener("submit", (event) => event.preventDefault());
byId("key").addEventListener("change", () => {
  setKey(byId("key").value);
  showModel();
});

// A conversation is about one image: another image starts another conversation.
function start() {
  running?.abort();
  messages = [];
  turns.replaceChildren();
  byId("numbers").replaceChildren();
  showError("");
  question.focus();
}

onImageChange(() => {
  start();
  question.placeholder = hasImage() ? "What is in the image?" : "Ask without an image, or add one";
});

onRefusal(showError);

let asksForKey = false;

// Shows the field of the key while one is needed; who opened the options otherwise closes them.
async function showModel() {
  let needsKey = false;
  try {
    byId("model").textContent = (await get("/v1/models")).data[0].id;
  } catch (error) {
    byId("model").textContent = "";
    needsKey = error.message === "status 401";
  }
  if (needsKey !== asksForKey) byId("options").open = needsKey;
  asksForKey = needsKey;
}

setImage(null);
showModel();
watchWorkers();
