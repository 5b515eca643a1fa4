"use strict";

// Everything from the API goes into the page as text, never as markup.
const make = (tag, text, className) => {
  const element = document.createElement(tag);
  if (text !== undefined && text !== null) element.textContent = text;
  if (className) element.className = className;
  return element;
};
const number = (value) => make("td", value.toLocaleString(), value ? "number" : "number zero");
const time = (text) => (text ? new Date(text).toLocaleTimeString() : "");

function fill(id, heads, rows, empty) {
  const head = make("tr");
  for (const [text, className] of heads) head.append(make("th", text, className));
  const body = rows.map((cells) => {
    const row = make("tr");
    row.append(...cells);
    return row;
  });
  if (!body.length) {
    const row = make("tr");
    row.append(make("td", empty, "empty"));
    row.firstChild.colSpan = heads.length;
    body.push(row);
  }
  document.getElementById(id).replaceChildren(head, ...body);
}

function showHealth(health) {
  const pill = document.getElementById("health");
  pill.textContent = health.message;
  pill.className = `pill ${health.status === "ok" ? "ok" : "degraded"}`;
}

function showCounts(counts) {
  const statuses = Object.keys(counts);
  const levels = Object.keys(counts[statuses[0]]);
  const total = (status) => levels.reduce((sum, level) => sum + counts[status][level], 0);
  fill(
    "counts",
    [["priority"], ...statuses.map((status) => [status, "number"])],
    [
      ...levels.map((level) => [make("td", level), ...statuses.map((status) => number(counts[status][level]))]),
      [make("th", "all"), ...statuses.map((status) => number(total(status)))],
    ],
  );
}

function showQueues({ queues }) {
  fill(
    "queues",
    [["queue"], ["jobs waiting", "number"], ["batched", "number"], ["started", "number"], ["workers", "number"]],
    queues.map((queue) => [
      make("td", queue.name),
      number(queue.jobs_waiting),
      number(queue.batched),
      number(queue.documents.started),
      number(queue.workers),
    ]),
  );
}

function showWorkers({ workers }) {
  fill(
    "workers",
    [["queue"], ["host"], ["pid", "number"], ["state"], ["jobs done", "number"], ["heartbeat", "number"]],
    workers.map((worker) => [
      make("td", worker.queue),
      make("td", worker.host),
      make("td", worker.pid, "number"),
      make("td", worker.state, worker.state === "busy" ? "busy" : "zero"),
      number(worker.jobs_done),
      make("td", time(worker.last_heartbeat), "number"),
    ]),
    "No worker is running.",
  );
}

function showJobs({ jobs }) {
  fill(
    "jobs",
    [["received"], ["status"], ["priority"], ["source"], ["id"], ["attempts", "number"], ["error"]],
    jobs.map((job) => {
      const link = make("a", job.id);
      link.href = `/jobs/${encodeURIComponent(job.id)}`;
      link.addEventListener("click", (event) => open(event, link.href));
      const id = make("td", null, "id");
      id.append(link);
      return [
        make("td", time(job.received_at)),
        make("td", job.status, job.status),
        make("td", job.priority),
        make("td", shortened(job.source, 44)),
        id,
        number(job.attempts),
        make("td", job.error ? shortened([job.error.code, job.error.message].filter(Boolean).join(": "), 60) : ""),
      ];
    }),
    "No jobs yet. Drop a JSON file into the watch folder, or POST one to /jobs.",
  );
}

const shortened = (text, most) => (text.length <= most ? text : `${text.slice(0, most - 1)}…`);

// The API key, if the API needs one. It is kept for as long as this tab is open.
let key = sessionStorage.getItem("key") ?? "";

async function ask(path) {
  const headers = key ? { "X-API-Key": key } : {};
  const response = await fetch(path, { headers, signal: AbortSignal.timeout(10000) });
  if (response.status === 401) {
    remember(""); // refreshing with a wrong key would soon reach the limit on failed attempts
    document.getElementById("ask").hidden = false;
  }
  if (!response.ok) throw new Error((await response.json()).detail);
  return response.json();
}

function remember(given) {
  key = given;
  if (given) sessionStorage.setItem("key", given);
  else sessionStorage.removeItem("key");
}

// A link sends no key. If one is needed, the job is shown on this page.
async function open(event, path) {
  if (!key) return;
  event.preventDefault();
  const job = await ask(path).catch((error) => ({ error: error.message }));
  document.getElementById("job").textContent = JSON.stringify(job, null, 2);
  document.getElementById("detail").showModal();
}

document.addEventListener("submit", (event) => {
  if (event.target.id !== "ask") return;
  event.preventDefault();
  remember(document.getElementById("key").value.trim());
  document.getElementById("key").value = "";
  event.target.hidden = true;
  clearTimeout(next);
  refresh();
});

let next = 0;

async function refresh() {
  if (!document.hidden && document.getElementById("ask").hidden) {
    try {
      const health = await ask("/health");
      showHealth(health);
      document.body.classList.toggle("stale", !health.counts);
      if (health.counts) {
        showCounts(health.counts);
        const [queues, workers, jobs] = await Promise.all(["/queues", "/workers", "/jobs?limit=20"].map(ask));
        showQueues(queues);
        showWorkers(workers);
        showJobs(jobs);
      }
    } catch (error) {
      const pill = document.getElementById("health");
      pill.textContent = error instanceof TypeError ? "The API does not answer." : error.message;
      pill.className = "pill gone";
      document.body.classList.add("stale");
    }
  }
  next = setTimeout(refresh, 2000);
}

document.addEventListener("DOMContentLoaded", refresh);
