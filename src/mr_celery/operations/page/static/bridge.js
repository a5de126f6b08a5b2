// The bridge's page: shows whether it is up to date. The base script refreshes it.
"use strict";

const ui = document.body.dataset.ui;
if (ui) localStorage.setItem("ui", ui); // for the login page

let refreshedAt = new Date();

document.addEventListener("refreshed", () => {
  refreshedAt = new Date();
  document.body.classList.remove("stale");
  $("#stale").hidden = true;
  showStream("on", "live");
});

document.addEventListener("unreachable", () => {
  if (!$("#stale").hidden) return;
  document.body.classList.add("stale");
  showStream("off", "no answer");
  const time = refreshedAt.toLocaleTimeString("sv-SE");
  $("#stale").textContent = `The bridge does not answer. What is shown is as of ${time}.`;
  $("#stale").hidden = false;
});
