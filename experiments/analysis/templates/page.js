"use strict";
const all = (query, within = document) => [...within.querySelectorAll(query)];
const one = (query) => document.querySelector(query);

// A colour for each series, by its place in the legend.
const order = all(".legend li").map((item) => item.dataset.series);
for (const mark of all("[data-series]")) {
  const at = order.indexOf(mark.dataset.series);
  mark.style.setProperty("--series", `var(--s${at % 12})`);
  mark.classList.toggle("again", at >= 12);
}

const table = one("#runs");
const heads = all("th", table);
const held = (cell) => cell.dataset.value ?? cell.textContent;  // what it is sorted and chosen by
function sort(at, descending) {
  const numeric = heads[at].dataset.kind === "number";
  const value = (row) => held(row.cells[at]);
  const rows = all("tbody tr", table);
  rows.sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === "" || y === "") return (x === "") - (y === "");
    const found = numeric ? Number(x) - Number(y) : x.localeCompare(y, undefined, { numeric: true });
    return descending ? -found : found;
  });
  table.tBodies[0].append(...rows);
  heads.forEach((head) => head.setAttribute("aria-sort", "none"));
  heads[at].setAttribute("aria-sort", descending ? "descending" : "ascending");
}
const pressed = (event) => event.type === "click" || event.key === "Enter";
heads.forEach((head, at) => {
  const turn = (event) => {
    const before = head.getAttribute("aria-sort");
    if (pressed(event)) sort(at, before === "none" ? head.dataset.kind === "number" : before === "ascending");
  };
  head.addEventListener("click", turn);
  head.addEventListener("keydown", turn);
});

const find = one("#find");
const selects = all("#filters select");
function filter() {
  const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
  const runs = new Set();
  const series = new Set();
  const places = new Set();  // networks, and networks within a budget
  const rows = all("tbody tr", table);
  for (const row of rows) {
    const text = row.textContent.toLowerCase();
    const fits = selects.every((s) => s.value === "" || held(row.cells[s.dataset.column]) === s.value);
    const shown = fits && words.every((word) => text.includes(word));
    row.classList.toggle("off", !shown);
    if (!shown) continue;
    runs.add(row.dataset.run);
    series.add(row.dataset.series);
    places.add(row.dataset.network).add(row.dataset.network + row.dataset.budget);
  }
  for (const mark of all("svg [data-series]")) {
    const shown = mark.dataset.run ? runs.has(mark.dataset.run) : series.has(mark.dataset.series);
    mark.classList.toggle("off", !shown);
  }
  for (const figure of all("figure")) figure.classList.toggle("off", !places.has(figure.dataset.network + figure.dataset.budget));
  for (const item of all(".legend li")) item.classList.toggle("off", !series.has(item.dataset.series));
  one("#count").value = `${runs.size} of ${rows.length} runs`;
}
find.addEventListener("input", filter);
selects.forEach((select) => select.addEventListener("change", filter));

const dialogs = new Map(all("dialog").map((dialog) => [dialog.dataset.run, dialog]));
const opened = (event) => {
  const mark = event.target.closest("#runs tbody tr, .dot");
  if (mark && pressed(event)) dialogs.get(mark.dataset.run).showModal();
  if (event.target instanceof HTMLDialogElement && event.type === "click") event.target.close();
};
document.addEventListener("click", opened);
document.addEventListener("keydown", opened);

// The hover shows what the mark's title says, at once; the browser's own would come late and small.
const hover = one("#hover");
for (const title of all("svg title")) {
  title.parentNode.dataset.label = title.textContent;
  title.parentNode.setAttribute("aria-label", title.textContent);
  title.remove();
}
document.addEventListener("pointermove", (event) => {
  const mark = event.target.closest("[data-label]");
  hover.hidden = !mark;
  if (!mark) return;
  hover.textContent = mark.dataset.label;
  hover.style.left = `${Math.min(event.clientX + 14, innerWidth - hover.offsetWidth - 8)}px`;
  hover.style.top = `${Math.min(event.clientY + 14, innerHeight - hover.offsetHeight - 8)}px`;
});

one("#theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = getComputedStyle(document.body).getPropertyValue("--ground").trim() === "#0f131a";
  root.dataset.theme = dark ? "light" : "dark";
});
filter();
