"use strict";
// A key that decides counts once a press, and only about a film that has been on the screen for a moment: a key that is
// held down goes on into the next page, whose browser events need not say that they are repeats.
const SHOWN_MS = 700;
const held = new Set();
let shownAt = performance.now();
let isSent = false;

// Whether this key press may decide. Ask about every key that decides, so that what is held is known.
function isDeliberate(event) {
  const isRepeat = event.repeat || held.has(event.code);
  held.add(event.code);
  return !isRepeat && !isSent && performance.now() - shownAt >= SHOWN_MS;
}

document.addEventListener("keyup", (event) => held.delete(event.code));
// One decision leaves a page: a second press or click before the next page is there decides nothing.
document.addEventListener("submit", (event) => {
  if (event.defaultPrevented || event.submitter?.name !== "decision") return;
  if (isSent) event.preventDefault();
  isSent = true;
});
window.addEventListener("pageshow", () => { isSent = false; shownAt = performance.now(); });
