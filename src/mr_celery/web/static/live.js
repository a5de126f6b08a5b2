// Keeps the regions of a page up to date: those with `data-every` each so many seconds, and those that the page's own
// script names. It fetches the page again and patches the differences, so that focus, selection, scroll position and
// open sections stay. Without it, links and forms still work.
"use strict";

document.documentElement.classList.add("has-script");

const ahead = Date.now() - Date.parse(document.body.dataset.now); // difference to the server's clock
const $ = (selector, within = document) => within.querySelector(selector);

// -- times ------------------------------------------------------------------------------------------------

function span(seconds) {
  if (seconds < 0.9995) return `${(Math.max(seconds, 0) * 1000).toFixed(0)} ms`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
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
  // In local time; without script it is UTC.
  for (const element of document.querySelectorAll("[data-clock]")) {
    const milliseconds = element.dataset.clock === "ms" ? `.${element.dateTime.slice(20, 23)}` : "";
    write(element, new Date(element.dateTime).toLocaleString("sv-SE") + milliseconds);
  }
}

// Makes scrollable elements reachable by keyboard.
function makeFocusable() {
  for (const pre of document.querySelectorAll("pre")) {
    const scrolls = pre.scrollHeight > pre.clientHeight || pre.scrollWidth > pre.clientWidth;
    if (scrolls) pre.tabIndex = 0;
    else pre.removeAttribute("tabindex");
  }
}

// -- patching ---------------------------------------------------------------------------------------------

const keyOf = (node) =>
  node.id || node.dataset?.key || node.getAttribute?.("aria-labelledby") || node.getAttribute?.("action") || "";
const localAttributes = { DETAILS: "open", PRE: "tabindex" }; // set in the browser, not by the server
const isLocal = (element, name) => localAttributes[element.nodeName] === name;

function patch(old, fresh) {
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  if (old.nodeType !== Node.ELEMENT_NODE) return;
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value && !isLocal(old, name)) old.setAttribute(name, value);
  }
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && !isLocal(old, name)) old.removeAttribute(name);
  }
  // What is gone goes first, with the space after it: an element that is moved to its place would lose the focus.
  const keys = new Set([...fresh.children].map(keyOf));
  for (const child of [...old.children]) {
    if (keys.has(keyOf(child))) continue;
    if (child.nextSibling?.nodeType === Node.TEXT_NODE) child.nextSibling.remove();
    child.remove();
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
  const articles = [...region.querySelectorAll("article")];
  const following = articles.slice(articles.indexOf(focused?.closest("article")) + 1);
  patch(region, fresh);
  region.refreshedAt = Date.now();
  if (focused && !focused.isConnected) {
    const article = following.find((each) => each.isConnected) || $("article", region);
    const next = (article && $("h3[tabindex]", article)) || $("h2[tabindex]", region) || $("#main");
    next.focus({ preventScroll: true });
  }
}

// -- refreshing -------------------------------------------------------------------------------------------

const regions = () => [...document.querySelectorAll("[data-live]")];
const waiting = new Set();
let fetching = false;

function refresh(which = regions()) {
  which.forEach((region) => waiting.add(region.id));
  if (!fetching && waiting.size) fetchRegions();
}

async function fetchRegions() {
  fetching = true;
  try {
    while (waiting.size) {
      const ids = [...waiting];
      const address = location.href;
      waiting.clear();
      const options = { headers: { Accept: "text/html" }, signal: AbortSignal.timeout(20_000) };
      const answer = await fetch(address, options);
      if (answer.redirected && new URL(answer.url).pathname === "/login") return location.reload();
      const text = await answer.text();
      if (address !== location.href) {
        ids.forEach((id) => waiting.add(id)); // the filter has changed since
      } else if (answer.ok) {
        const fresh = new DOMParser().parseFromString(text, "text/html");
        for (const id of ids) {
          const [region, other] = [document.getElementById(id), fresh.getElementById(id)];
          if (region && other) patchRegion(region, other);
        }
        tick();
        makeFocusable();
        document.dispatchEvent(new Event("refreshed"));
      } else {
        document.dispatchEvent(new Event("unreachable"));
      }
    }
  } catch {
    document.dispatchEvent(new Event("unreachable"));
  } finally {
    fetching = false;
  }
}

function showStream(name, text) {
  const shown = $("#stream");
  shown.className = `stream ${name}`;
  if (shown.textContent !== text) shown.textContent = text;
}

setInterval(() => {
  if (document.hidden) return;
  tick();
  const due = (region) => Date.now() - (region.refreshedAt ?? loadedAt) >= region.dataset.every * 1000;
  refresh(regions().filter((region) => Number(region.dataset.every) && due(region)));
}, 1000);
const loadedAt = Date.now();

// -- the filter -------------------------------------------------------------------------------------------

const filter = $("[data-filter]");
function applyFilter() {
  const values = [...new FormData(filter)].filter(([, value]) => value.trim());
  history.replaceState(null, "", `${filter.getAttribute("action")}?${new URLSearchParams(values)}`);
  refresh();
}
filter?.addEventListener("input", () => {
  clearTimeout(filter.timer);
  filter.timer = setTimeout(applyFilter, 200);
});
filter?.addEventListener("submit", (event) => { event.preventDefault(); applyFilter(); });

addEventListener("DOMContentLoaded", () => { tick(); makeFocusable(); });
document.addEventListener("toggle", makeFocusable, true);
