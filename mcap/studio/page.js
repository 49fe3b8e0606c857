// The page works without this, but for what is said at once: photos are sent as soon as they are
// chosen, and what runs is shown as it goes.
"use strict";

for (const field of document.querySelectorAll("[data-sends]"))
  field.addEventListener("change", () => {
    if (field.files.length) field.form.requestSubmit();
  });

for (const form of document.forms)
  form.addEventListener("submit", () => {
    const busy = form.querySelector("[data-busy]");
    if (busy) busy.hidden = false;
  });

const live = document.querySelector("[data-live]");
const gone = document.getElementById("gone");
const shown = new Map(); // part of the page -> its text as it came

const told = document.getElementById("told"); // what is told once, and outlives `renew`
if (told) told.innerHTML += sessionStorage.getItem("told") ?? "";
sessionStorage.removeItem("told");

let typed = false; // or ticked, or chosen
document.addEventListener("input", () => { typed = true; });

let leaving = false; // a form is on its way, and loading this page again would call it back
let sent = -Infinity; // when, in milliseconds
addEventListener("submit", event => {
  if (event.timeStamp - sent < 2000) event.preventDefault(); // the second of a double click
  else [leaving, sent] = [true, event.timeStamp];
});
addEventListener("pageshow", () => { leaving = false; });

/** Load the page again, unless that would lose what somebody has typed. */
function renew() {
  if (typed) document.getElementById("news").hidden = false;
  else {
    sessionStorage.setItem("told", told ? told.innerHTML : "");
    location.reload();
  }
  return !typed;
}

/** Ask what runs, once a second while something does. */
async function look() {
  let wait = "running" in live.dataset ? 1000 : 3000;
  try {
    const answer = await fetch(live.dataset.live, { cache: "no-store" });
    const told = answer.ok ? await answer.json() : null;
    if (leaving) return setTimeout(look, wait);
    if (answer.status === 403 || answer.status === 404) return location.reload();
    if (!told) throw new Error(answer.statusText);
    gone.hidden = true;
    if (told.stamp !== live.dataset.stamp && renew()) return;
    for (const [name, html] of Object.entries(told.parts)) {
      const part = document.querySelector(`[data-part="${name}"]`);
      if (part && shown.get(name) !== html) part.innerHTML = html;
      shown.set(name, html);
    }
  } catch {
    gone.hidden = leaving;
    wait = 2000;
  }
  setTimeout(look, wait);
}

if (live) setTimeout(look, 1000);
