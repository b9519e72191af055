"use strict";
// Keys of the queue: j and k move, Enter opens, x chooses, 1 2 3 decide about what is chosen, or else the current row.
const rows = [...document.querySelectorAll(".queue tbody tr")];
const form = document.getElementById("queue-form");
const chosen = document.getElementById("chosen");
let current = -1;

function boxOf(row) {
  return row.querySelector("input[type=checkbox]");
}

function move(to) {
  if (!rows.length) return;
  if (current >= 0) rows[current].classList.remove("current");
  current = Math.max(0, Math.min(rows.length - 1, to));
  rows[current].classList.add("current");
  rows[current].querySelector(".row-link").focus({ preventScroll: true });
  rows[current].scrollIntoView({ block: "nearest" });
}

function decide(decision) {
  const boxes = rows.map(boxOf).filter(Boolean);
  if (!form || !boxes.length) return;
  if (!boxes.some((box) => box.checked) && current >= 0) boxOf(rows[current]).checked = true;
  if (boxes.some((box) => box.checked)) form.requestSubmit(form.querySelector(`button[value=${decision}]`));
}

function count() {
  if (!chosen) return;
  const number = rows.filter((row) => boxOf(row)?.checked).length;
  chosen.parentElement.classList.toggle("active", number > 0);
  chosen.textContent = number === 1 ? "1 film chosen:" : `${number} films chosen:`;
}

const keys = {
  j: () => move(current + 1),
  k: () => move(current - 1),
  x: () => { if (current >= 0 && boxOf(rows[current])) { boxOf(rows[current]).click(); } },
  1: () => decide("confirm"),
  2: () => decide("dismiss"),
  3: () => decide("refer"),
  t: () => decide("take"),
};

document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input:not([type=checkbox]), textarea, select");
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const action = keys[event.key];
  if (!action) return;
  event.preventDefault();
  if (!"123t".includes(event.key) || isDeliberate(event)) action();
});
for (const [index, row] of rows.entries()) {
  row.addEventListener("click", (event) => {
    if (event.target.closest("a, input, button")) return;
    if (event.target.closest(".choose")) boxOf(row).click();
    else window.location.assign(row.dataset.href);
  });
  row.addEventListener("focusin", () => {
    if (current !== index) { rows[current]?.classList.remove("current"); current = index; row.classList.add("current"); }
  });
  boxOf(row)?.addEventListener("change", count);
}
form?.addEventListener("submit", (event) => {
  if (!rows.some((row) => boxOf(row)?.checked)) { event.preventDefault(); chosen.textContent = "Choose a film first:"; }
});
count();
