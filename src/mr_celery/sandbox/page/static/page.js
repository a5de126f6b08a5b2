// Keeps the page up to date: the server names what has changed, and this asks for the same page again and patches what
// differs, so that focus, selection, scroll and open folds stay. Without script the page works by links and forms.
"use strict";

const ahead = Date.now() - Date.parse(document.body.dataset.now); // this clock, compared with the server's
const $ = (selector, within = document) => within.querySelector(selector);

// -- times ------------------------------------------------------------------------------------------------

function span(seconds) {
  if (seconds < 10) return `${Math.max(seconds, 0).toFixed(1)} s`;
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
}

const ago = (seconds) => (seconds < 2 ? "now" : seconds < 10 ? `${Math.floor(seconds)} s` : span(seconds));

function tick() {
  const since = (time) => (Date.now() - ahead - Date.parse(time)) / 1000;
  const write = (element, text) => element.textContent === text || (element.textContent = text);
  for (const element of document.querySelectorAll("[data-ago]")) write(element, ago(since(element.dateTime)));
  for (const element of document.querySelectorAll("[data-since]")) write(element, span(since(element.dataset.since)));
  // In the time zone of the terminal beside it; without script it is UTC.
  for (const element of document.querySelectorAll("[data-clock]")) {
    write(element, new Date(element.dateTime).toLocaleString("sv-SE"));
  }
}

// What scrolls can be reached by key.
function reach() {
  for (const pre of document.querySelectorAll("pre")) {
    const scrolls = pre.scrollHeight > pre.clientHeight || pre.scrollWidth > pre.clientWidth;
    if (scrolls) pre.tabIndex = 0;
    else pre.removeAttribute("tabindex");
  }
}

// -- patching ---------------------------------------------------------------------------------------------

const keyOf = (node) =>
  node.id || node.dataset?.key || node.getAttribute?.("aria-labelledby") || node.getAttribute?.("action") || "";
const ours = { DETAILS: "open", PRE: "tabindex" }; // what the server does not know
const isOurs = (element, name) => ours[element.nodeName] === name;

function patch(old, fresh) {
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  if (old.nodeType !== Node.ELEMENT_NODE) return;
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value && !isOurs(old, name)) old.setAttribute(name, value);
  }
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && !isOurs(old, name)) old.removeAttribute(name);
  }
  let here = old.firstChild;
  for (const child of [...fresh.childNodes]) {
    const key = keyOf(child);
    const same = key
      ? [...old.children].find((each) => keyOf(each) === key && each.nodeName === child.nodeName)
      : here && here.nodeName === child.nodeName && !keyOf(here) && here;
    if (!same) {
      old.insertBefore(document.importNode(child, true), here);
      continue;
    }
    if (same === here) here = here.nextSibling;
    else old.insertBefore(same, here);
    patch(same, child);
  }
  while (here) {
    const next = here.nextSibling;
    here.remove();
    here = next;
  }
}

function patchRegion(region, fresh) {
  const focused = region.contains(document.activeElement) ? document.activeElement : null;
  patch(region, fresh);
  region.lookedAt = Date.now();
  if (focused && !focused.isConnected) {
    const next = $("article h3[tabindex]", region) || $("h2[tabindex]", region) || $("#main");
    next.focus({ preventScroll: true });
  }
}

// -- looking again ----------------------------------------------------------------------------------------

const regions = () => [...document.querySelectorAll("[data-live]")];
const waiting = new Set();
let looking = false;

function concerns(region, topics) {
  const listens = region.dataset.live.split(" ");
  return topics === null || topics.some((topic) => listens.includes(topic) || listens.includes(topic.split(":")[0]));
}

function lookAgain(which = regions()) {
  which.forEach((region) => waiting.add(region.id));
  if (!looking && waiting.size) look();
}

async function look() {
  looking = true;
  try {
    while (waiting.size) {
      const ids = [...waiting];
      const address = location.href;
      waiting.clear();
      const answer = await fetch(address, { headers: { Accept: "text/html" } });
      if (answer.redirected && new URL(answer.url).pathname === "/login") return location.reload();
      const text = await answer.text();
      if (address !== location.href) {
        ids.forEach((id) => waiting.add(id)); // the filter was changed meanwhile
      } else if (answer.ok) {
        const fresh = new DOMParser().parseFromString(text, "text/html");
        const before = $("#job .state")?.textContent;
        for (const id of ids) {
          const [region, other] = [document.getElementById(id), fresh.getElementById(id)];
          if (region && other) patchRegion(region, other);
        }
        const after = $("#job .state")?.textContent;
        if (after !== before) say(`The job is ${after} now.`);
        tick();
        reach();
      }
    }
  } catch {
    // The sandbox is away: the stream says so, and looks at everything when it is back.
  } finally {
    looking = false;
  }
}

// -- the stream -------------------------------------------------------------------------------------------

let source = null;
let place = document.body.dataset.place;

function showStream(name, text) {
  const shown = $("#stream");
  shown.className = `stream ${name}`;
  if (shown.textContent !== text) shown.textContent = text;
}

function connect() {
  source?.close();
  source = new EventSource(`/ui/live?since=${encodeURIComponent(place)}`);
  source.onopen = () => showStream("on", "live");
  source.onmessage = (event) => {
    place = event.lastEventId;
    const topics = JSON.parse(event.data);
    lookAgain(regions().filter((region) => concerns(region, topics)));
  };
  source.onerror = () => {
    showStream("off", "not connected");
    if (source.readyState === EventSource.CLOSED && !document.hidden) {
      setTimeout(() => { lookAgain(); connect(); }, 2000);
    }
  };
}

// A hidden tab listens to nothing: a browser has six connections to a server, for all its tabs.
document.addEventListener("visibilitychange", () => (document.hidden ? source?.close() : connect()));
addEventListener("pagehide", () => source?.close());
addEventListener("pageshow", (event) => event.persisted && (lookAgain(), connect()));

setInterval(() => {
  if (document.hidden) return;
  tick();
  const due = (region) => Date.now() - (region.lookedAt ?? loadedAt) >= region.dataset.every * 1000;
  lookAgain(regions().filter((region) => Number(region.dataset.every) && due(region)));
}, 1000);
const loadedAt = Date.now();

// -- forms ------------------------------------------------------------------------------------------------

function say(text, { bad = false } = {}) {
  const said = $("#said");
  said.textContent = text;
  said.classList.toggle("bad", bad);
  clearTimeout(say.timer);
  if (!bad) say.timer = setTimeout(() => (said.textContent = ""), 8000);
}

document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (!form.matches("[data-quiet]")) return;
  event.preventDefault();
  if (form.ariaBusy === "true") return;
  form.ariaBusy = "true";
  const problem = $("[role=alert]", form);
  const fail = (text) => (problem ? (problem.textContent = text) : say(text, { bad: true }));
  try {
    const body = new URLSearchParams(new FormData(form, event.submitter));
    const headers = { Accept: "application/json" };
    const answer = await fetch(form.getAttribute("action"), { method: "POST", body, headers });
    if (answer.status === 401) return location.reload();
    const told = await answer.json();
    if (!answer.ok) return fail(told.error);
    if (problem) problem.textContent = "";
    say(told.message);
    form.closest("details.confirm")?.removeAttribute("open");
    lookAgain();
    const prompt = $("#prompt", form);
    if (prompt) { prompt.focus(); prompt.select(); }
  } catch {
    fail("The sandbox does not answer.");
  } finally {
    form.ariaBusy = "false";
  }
});

const filter = $("[data-filter]");
function applyFilter() {
  const values = [...new FormData(filter)].filter(([, value]) => value.trim());
  history.replaceState(null, "", `${filter.getAttribute("action")}?${new URLSearchParams(values)}`);
  lookAgain();
}
filter?.addEventListener("input", () => {
  clearTimeout(filter.timer);
  filter.timer = setTimeout(applyFilter, 200);
});
filter?.addEventListener("submit", (event) => { event.preventDefault(); applyFilter(); });

// -- keys -------------------------------------------------------------------------------------------------

const help = $("#help");
const keysOn = $("#keys-on");
keysOn.checked = localStorage.getItem("keys") !== "off";
keysOn.addEventListener("change", () => localStorage.setItem("keys", keysOn.checked ? "on" : "off"));
$("#help-button").hidden = false;
$("#help-button").addEventListener("click", () => help.showModal());

function newJob() {
  const panel = $("#dispatch");
  if (!panel) return location.assign("/ui/jobs#new");
  panel.open = true;
  $("#prompt").focus();
}

function toFilter() {
  if (!filter) return location.assign("/ui/jobs#filter");
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

tick();
reach();
document.addEventListener("toggle", reach, true);
if (location.hash === "#new") newJob();
if (location.hash === "#filter") toFilter();
connect();
