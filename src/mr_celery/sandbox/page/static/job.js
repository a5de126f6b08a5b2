// The page of a job, and the page of reviews: copying, keys, the timeline's times, and pictures at full size.
"use strict";

// -- copying ----------------------------------------------------------------------------------------------

async function write(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  // Without TLS, browsers give the clipboard only to pages of this machine.
  const area = Object.assign(document.createElement("textarea"), { value: text });
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  if (!done) throw new Error("refused");
}

async function copy(button) {
  const { copy: id, whole } = button.dataset;
  try {
    await write(whole ? await (await fetch(whole)).text() : document.getElementById(id).textContent);
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 2000);
    say(button.ariaLabel.replace("Copy", "Copied"));
  } catch {
    say("The browser did not allow copying.", { bad: true });
  }
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-copy]");
  if (button) copy(button);
});

// -- the timeline -----------------------------------------------------------------------------------------

// In local time, with the date only where it changes, and not for today.
function showTimes() {
  let day = new Date().toLocaleDateString("sv-SE");
  for (const element of document.querySelectorAll(".moments time")) {
    const at = new Date(element.dateTime);
    const [date, time] = at.toLocaleString("sv-SE").split(" ");
    const text = `${time}.${String(at.getMilliseconds()).padStart(3, "0")}`;
    element.textContent = date === day ? text : `${date} ${text}`;
    day = date;
  }
}

document.addEventListener("refreshed", showTimes);
showTimes();

// -- keys -------------------------------------------------------------------------------------------------

// Follows the link to the next job. At the end of the list, it says so.
function follow(rel, end) {
  const link = $(`#place a[rel=${rel}]`);
  if (link) link.click();
  else say(end);
}

if ($("#place")) {
  keys.j = () => follow("next", "This is the last job of the list.");
  keys.k = () => follow("prev", "This is the first job of the list.");
}

const focusedReview = () => document.activeElement.closest("article.review");

// Decides the focused review, and goes on to the next one at once.
function approve() {
  const review = focusedReview();
  if (!review) return step(1);
  const form = $("form[action$='/approve']", review);
  if (!form || review.ariaBusy === "true") return;
  form.requestSubmit();
  review.ariaBusy = "true";
  step(1);
}

function reject() {
  const review = focusedReview();
  if (!review) return step(1);
  const rejection = $(".rejection", review);
  if (!rejection) return;
  rejection.open = true;
  $("input", rejection).focus();
}

if ($("#reviews")) {
  keys.a = approve;
  keys.r = reject;
  keys.u = () => $("form[action$='/undo']")?.requestSubmit();
}

document.addEventListener("toggle", (event) => {
  if (event.target.matches(".rejection[open]")) $("input", event.target).focus();
}, true);

document.addEventListener("keydown", (event) => {
  const rejection = event.target.closest?.(".rejection[open]");
  if (event.key !== "Escape" || !rejection) return;
  rejection.open = false;
  ($("h3", rejection.closest("article") ?? rejection) ?? $("summary", rejection)).focus();
});

// -- pictures at full size --------------------------------------------------------------------------------

const zoomed = document.createElement("dialog");
zoomed.className = "zoomed";
zoomed.ariaLabel = "Picture";
zoomed.innerHTML = `<img alt=""><div><p aria-live="polite"></p>
  <button type="button" value="-1">Previous</button> <button type="button" value="1">Next</button>
  <button type="button" value="close">Close</button></div>`;
document.body.append(zoomed);
let shownPicture = null; // the link of the picture

function showPicture(link) {
  const links = [...document.querySelectorAll("a.zoom")].filter((each) => each.checkVisibility());
  const place = links.indexOf(link);
  if (place < 0) return;
  shownPicture = link;
  const { alt } = $("img", link);
  Object.assign($("img", zoomed), { src: link.href, alt });
  $("p", zoomed).textContent = links.length > 1 ? `${place + 1} of ${links.length} · ${alt}` : alt;
  for (const button of zoomed.querySelectorAll("button:not([value=close])")) {
    button.hidden = links.length === 1;
    button.ariaDisabled = String(!links[place + Number(button.value)]); // `disabled` would take the focus
  }
  if (!zoomed.open) zoomed.showModal();
}

function turn(by) {
  const links = [...document.querySelectorAll("a.zoom")].filter((each) => each.checkVisibility());
  const link = links[links.indexOf(shownPicture) + by];
  if (link) showPicture(link);
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a.zoom");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  showPicture(link);
});

zoomed.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button && button.value !== "close") turn(Number(button.value));
  else if (button || !event.target.closest("div")) zoomed.close();
});

zoomed.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") turn(-1);
  if (event.key === "ArrowRight") turn(1);
});

zoomed.addEventListener("close", () => shownPicture?.focus());
