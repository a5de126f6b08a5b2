// The sandbox's page: the stream of changes, forms and keys. The base script keeps the page up to date.
"use strict";

// -- the stream -------------------------------------------------------------------------------------------

const ui = document.body.dataset.ui;
localStorage.setItem("ui", ui); // for the login page

function isAffected(region, topics) {
  const listens = region.dataset.live.split(" ");
  return topics === null || topics.some((topic) => listens.includes(topic) || listens.includes(topic.split(":")[0]));
}

let source = null;
let place = document.body.dataset.place;

function connect() {
  source?.close();
  source = new EventSource(`${ui}/live?since=${encodeURIComponent(place)}`);
  source.onopen = () => showStream("on", "live");
  source.onmessage = (event) => {
    place = event.lastEventId;
    const topics = JSON.parse(event.data);
    refresh(regions().filter((region) => isAffected(region, topics)));
  };
  source.onerror = () => {
    showStream("off", "not connected");
    if (source.readyState === EventSource.CLOSED && !document.hidden) {
      setTimeout(() => { refresh(); connect(); }, 2000);
    }
  };
}

// A hidden tab disconnects, because a browser opens at most six connections to a server for all its tabs.
document.addEventListener("visibilitychange", () => (document.hidden ? source?.close() : connect()));
addEventListener("pagehide", () => source?.close());
addEventListener("pageshow", (event) => event.persisted && (refresh(), connect()));

let shownState = $("#job .state")?.textContent;
document.addEventListener("refreshed", () => {
  const state = $("#job .state")?.textContent;
  if (state !== shownState) say(`The job is now ${state}.`);
  shownState = state;
});

// -- forms ------------------------------------------------------------------------------------------------

function say(text, { bad = false, link = null } = {}) {
  const message = $("#said");
  const linked = link ? Object.assign(document.createElement("a"), { href: link }) : message;
  if (link) message.replaceChildren(linked);
  linked.textContent = text;
  message.classList.toggle("bad", bad);
  clearTimeout(say.timer);
  if (!bad) say.timer = setTimeout(() => message.replaceChildren(), 8000);
}

// Shows a question of the server. Resolves to whether the answer is yes.
function ask({ question, details, button, danger }) {
  const dialog = $("#ask");
  $("h2", dialog).textContent = question;
  $("p", dialog).textContent = details;
  $("button", dialog).textContent = button;
  $("button", dialog).className = danger ? "danger" : "main";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (!form.matches("[data-quiet]")) return;
  event.preventDefault();
  if (form.ariaBusy === "true") return;
  form.ariaBusy = "true";
  const problem = $("[role=alert]", form);
  const fail = (text) => (problem ? (problem.textContent = text) : say(text, { bad: true }));
  const body = new URLSearchParams(new FormData(form, event.submitter));
  const send = () =>
    fetch(form.getAttribute("action"), { method: "POST", body, headers: { Accept: "application/json" } });
  try {
    let answer = await send();
    if (answer.status === 401) return location.reload();
    let data = await answer.json();
    if (answer.ok && data.question) {
      if (!(await ask(data))) return;
      body.set("confirmed", "1");
      answer = await send();
      data = await answer.json();
    }
    if (!answer.ok) return fail(data.error);
    if (problem) problem.textContent = "";
    say(data.message, data);
    form.closest("details.confirm")?.removeAttribute("open");
    form.dispatchEvent(new Event("done", { bubbles: true }));
    refresh();
    const prompt = $("#prompt", form);
    if (prompt) { $("#copies").value = 1; prompt.focus(); prompt.select(); }
  } catch {
    fail("The sandbox does not answer.");
  } finally {
    form.ariaBusy = "false";
  }
});

// -- keys -------------------------------------------------------------------------------------------------

const help = $("#help");
const keysOn = $("#keys-on");
keysOn.checked = localStorage.getItem("keys") !== "off";
keysOn.addEventListener("change", () => localStorage.setItem("keys", keysOn.checked ? "on" : "off"));
$("#help-button").hidden = false;
$("#help-button").addEventListener("click", () => help.showModal());

function newJob() {
  const panel = $("#dispatch");
  if (!panel) return location.assign(`${ui}/jobs#new`);
  panel.open = true;
  $("#prompt").focus();
}

function toFilter() {
  if (!filter) return location.assign(`${ui}/jobs#filter`);
  $("#q").focus();
  $("#q").select();
}

function step(by) {
  const stops = [...document.querySelectorAll("table th[scope=row] a, td.id a, article.review h3")];
  const at = stops.findIndex((stop) => stop.closest("tr, article").contains(document.activeElement));
  stops[at < 0 ? (by > 0 ? 0 : stops.length - 1) : at + by]?.focus();
}

const keys = { n: newJob, "/": toFilter, j: () => step(1), k: () => step(-1), "?": () => help.showModal() };

document.addEventListener("keydown", (event) => {
  const within = event.target.closest?.("form");
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && within?.matches("[data-keep]")) {
    event.preventDefault();
    return within.requestSubmit();
  }
  const typing = event.target.closest?.("input, textarea, select, dialog, [contenteditable]");
  if (typing || event.ctrlKey || event.metaKey || event.altKey || !keysOn.checked || !keys[event.key]) return;
  event.preventDefault();
  keys[event.key]();
});

if (location.hash === "#new") newJob();
if (location.hash === "#filter") toFilter();
connect();
