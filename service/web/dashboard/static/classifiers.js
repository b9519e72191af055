"use strict";
// Hands in a classifier's file over the HTTP interface, and says what became of it.
const form = document.getElementById("hand-in");
const told = document.getElementById("hand-in-status");
const button = form.querySelector("button");

function description() {
  if (form.description.value.trim()) return form.description.value;
  if (!form.elements.name.value.trim()) return "";
  const labels = form.labels.value.split("\n").map((label) => label.trim()).filter(Boolean);
  const preprocessing = {
    size: Number(form.size.value), library: form.library.value, resampler: form.resampler.value,
    antialias: form.antialias.value === "yes", crop: Number(form.crop.value),
    shorter_side: Number(form.shorter_side.value) || null, dtype: form.dtype.value,
  };
  return JSON.stringify({
    name: form.elements.name.value.trim(), labels, preprocessing, normalisation: form.normalisation.value.trim() || "none", head: form.head.value,
  });
}

function tell(words, name = "") {
  told.className = name;
  told.textContent = words;
}

async function handIn() {
  const body = new FormData();
  const described = description();
  if (described) body.append("description", described);
  body.append("file", form.file.files[0]);
  const answer = await fetch("/v1/classifiers", {
    method: "POST", body, headers: { "X-CSRF-Token": form.dataset.csrf, Accept: "application/json" },
  });
  const found = await answer.json();
  if (!answer.ok) return tell(`${found.title}: ${found.detail}`, "bad");
  const where = `version-${found.version.sha256.slice(0, 16)}`;
  window.location.assign(`/classifiers?registered=${found.version.sha256.slice(0, 16)}#${where}`);
  return undefined;
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  button.disabled = true;
  tell("The file is being examined; that may take minutes.");
  handIn().catch(() => tell("The service cannot be reached.", "bad")).finally(() => { button.disabled = false; });
});
