// The list of jobs: selects rows. The buttons for selected rows are shown by the stylesheet.
"use strict";

const picks = () => [...document.querySelectorAll("#jobs [name=job]")];
let lastPick = null; // the row that was clicked last, at which a range begins

function showSelection() {
  const shown = $("#selected-number");
  if (!shown) return;
  const all = $("#selected [name=all]");
  const number = picks().filter((pick) => pick.checked).length;
  const isWhole = number === picks().length;
  $("#whole-page").checked = isWhole;
  $("#whole-page").indeterminate = number > 0 && !isWhole;
  shown.textContent = all?.checked ? "" : `${number} selected`;
}

document.addEventListener("change", (event) => {
  const { target } = event;
  if (target.id === "whole-page") for (const pick of picks()) pick.checked = target.checked;
  if (target.id === "whole-page" || target.name === "job") {
    const all = $("#selected [name=all]");
    if (all && !target.checked) all.checked = false;
  }
  if (target.closest("#jobs")) showSelection();
});

document.addEventListener("click", (event) => {
  const { target } = event;
  if (target.name !== "job") return;
  const [from, to] = [picks().findIndex((pick) => pick.value === lastPick), picks().indexOf(target)].sort((a, b) => a - b);
  if (event.shiftKey && from >= 0) for (const pick of picks().slice(from, to + 1)) pick.checked = target.checked;
  lastPick = target.value;
});

// A label passes its click on, without the shift key.
document.addEventListener("mousedown", (event) => event.shiftKey && event.target.closest(".pick") && event.preventDefault());

keys.x = () => $("[name=job]", document.activeElement?.closest("#jobs tr") ?? document.createElement("p"))?.click();

// After an action, the same jobs are not meant again.
document.addEventListener("done", (event) => {
  if (event.target.id !== "selected") return;
  for (const pick of document.querySelectorAll("#jobs input:checked")) pick.checked = false;
  showSelection();
});

document.addEventListener("refreshed", showSelection);
showSelection();
