"use strict";
// Many films at once: two at a time over the HTTP interface, each with its own outcome or its own error.
const form = document.getElementById("upload");
const drop = document.getElementById("drop");
const picker = document.getElementById("files");
const results = document.getElementById("results");
const AT_ONCE = 2;
const TRIES = 5;
const waiting = [];
let running = 0, ended = 0, total = 0;

function cell(row, content, name = "") {
  const element = row.insertCell();
  element.className = name;
  element.append(content);
  return element;
}

function badge(word) {
  const element = document.createElement("span");
  element.className = `badge ${word}`;
  element.textContent = word;
  return element;
}

function sizeOf(bytes) {
  return bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

function add(files) {
  results.hidden = false;
  for (const file of files) {
    const row = document.getElementById("films").insertRow();
    cell(row, file.name);
    cell(row, sizeOf(file.size));
    waiting.push({ file, row, outcome: cell(row, "waiting") });
    total++;
  }
  count();
  next();
}

function count() {
  document.getElementById("summary").textContent = ended === total ? `${total} ${total === 1 ? "film" : "films"} done` : `${ended} of ${total} films done`;
  const progress = document.getElementById("progress");
  progress.max = total;
  progress.value = ended;
}

function next() {
  while (running < AT_ONCE && waiting.length) {
    running++;
    const film = waiting.shift();
    send(film).catch(() => fail(film, "The service cannot be reached.")).finally(() => { running--; ended++; count(); next(); });
  }
}

function fail(film, reason) {
  film.outcome.replaceChildren(badge("failed"), " ", reason);
}

async function post(film) {
  const address = new URLSearchParams({ source: form.source.value || "upload" });
  if (form.classifier) address.set("classifier", form.classifier.value);
  const headers = { "Content-Type": "application/octet-stream", "X-CSRF-Token": form.dataset.csrf, Accept: "application/json" };
  return fetch(`/v1/audits?${address}`, { method: "POST", body: film.file, headers });
}

async function send(film, attempt = 1) {
  film.outcome.replaceChildren(attempt === 1 ? "sending" : "the service is busy; trying again");
  const answer = await post(film);
  if (answer.status === 503 && attempt < TRIES) {
    await new Promise((resolve) => setTimeout(resolve, 1000 * Number(answer.headers.get("Retry-After") || 5)));
    return send(film, attempt + 1);
  }
  const body = await answer.json();
  if (!answer.ok) return fail(film, `${body.title}: ${body.detail}`);
  return show(film, body);
}

function show(film, audit) {
  if (!("reads" in form.dataset)) return film.outcome.replaceChildren(badge(audit.state === "done" ? "audited" : audit.state));
  const link = document.createElement("a");
  link.href = `/audits/${audit.id}`;
  link.append(badge(audit.verdict || audit.state));
  film.outcome.replaceChildren(link);
  cell(film.row, typeof audit.p_value === "number" ? audit.p_value.toFixed(4) : "–", "number");
  cell(film.row, audit.explained_label || "");
}

drop.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
drop.addEventListener("dragleave", () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  add(event.dataTransfer.files);
});
picker.addEventListener("change", () => { add(picker.files); picker.value = ""; });
form.addEventListener("submit", (event) => event.preventDefault());
