// The table of workers, and what is known of the request in progress.

import { headers } from "/page/answer.js";

const EVERY_MS = 2000;
const PATIENCE_MS = 10000;
const UNITS = { language: "tokens/s", vision: "images/s" };

const rows = document.querySelector("#workers tbody");
const queues = document.getElementById("queues");
const system = document.getElementById("system");

let before = { at: 0, done: new Map() };

export async function get(path) {
  const response = await fetch(path, { headers: headers(), signal: AbortSignal.timeout(PATIENCE_MS) });
  if (!response.ok) throw new Error(`status ${response.status}`);
  return response.json();
}

function row(worker, seconds) {
  const past = before.done.get(worker.name);
  const rate = past === undefined ? 0 : Math.max(0, worker.done - past) / seconds;
  const found = document.createElement("tr");
  const texts = [
    `${worker.name} (${worker.kind})`,
    worker.device,
    worker.state,
    String(worker.running + worker.waiting),
    `${rate.toFixed(1)} ${UNITS[worker.kind] ?? "/s"}`,
  ];
  for (const text of texts) found.insertCell().textContent = text;
  return found;
}

async function refresh() {
  if (document.hidden || !system.open) return;
  try {
    const found = await get("/page/workers");
    const seconds = (performance.now() - before.at) / 1000;
    rows.replaceChildren(...found.workers.map((worker) => row(worker, seconds)));
    const waiting = (name) =>
      found.queues.filter((each) => each.queue === name).reduce((sum, each) => sum + each.waiting, 0);
    queues.textContent =
      `${found.open_requests} open requests; ${waiting("vision")} images and ` +
      `${waiting("language")} requests wait for a worker.`;
    before = { at: performance.now(), done: new Map(found.workers.map((each) => [each.name, each.done])) };
  } catch (error) {
    queues.textContent = `The state of the workers is not known (${error.message}).`;
    rows.replaceChildren();
  }
}

export function watchWorkers() {
  // One at a time: a browser has few connections, and answers need one.
  refresh().finally(() => setTimeout(watchWorkers, EVERY_MS));
}
