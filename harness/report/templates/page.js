"use strict";
(() => {
  // Commands: a button that copies.
  for (const button of document.querySelectorAll("button.copy")) {
    const text = button.previousElementSibling.textContent;
    button.hidden = false;
    button.setAttribute("aria-label", "Copy the command " + text.slice(0, 80));
    button.addEventListener("click", async () => {
      let done = false;
      try {
        await navigator.clipboard.writeText(text);
        done = true;
      } catch {
        const range = document.createRange();
        range.selectNodeContents(button.previousElementSibling);
        getSelection().removeAllRanges();
        getSelection().addRange(range);
        done = document.execCommand("copy");
      }
      button.textContent = done ? "Copied" : "Selected";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  }

  // A link into something folded opens it.
  const show = () => {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    for (let at = target; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
    target.scrollIntoView();
    target.focus({ preventScroll: true });
  };
  addEventListener("hashchange", show);
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#"]');
    if (link && link.hash === location.hash) show(); // the same link again
  });
  show();

  // Paper has no folds.
  const folded = [];
  const onPaper = "details:not(.spots *), .spotlist.fail, .spotlist.unexpected_pass, .spotlist.unknown";
  addEventListener("beforeprint", () => {
    for (const at of document.querySelectorAll(onPaper)) if (!at.open) { at.open = true; folded.push(at); }
  });
  addEventListener("afterprint", () => { for (const at of folded.splice(0)) at.open = false; });

  // Heat maps: filters by the axes that the map itself does not show, and by outcome.
  const words = { unexpected_pass: "unexpected pass", known: "known defect" };
  const word = (outcome) => words[outcome] || outcome;
  for (const map of document.querySelectorAll(".matrix")) {
    const data = JSON.parse(map.querySelector(".matrix-data").textContent);
    const bar = map.querySelector(".filters");
    const add = (title, values) => {
      const label = document.createElement("label");
      const select = document.createElement("select");
      for (const [n, text] of ["all", ...values].entries()) select.add(new Option(text, String(n - 1)));
      label.append(title + " ", select);
      bar.append(label);
      select.addEventListener("change", apply);
      return select;
    };
    const said = document.createElement("span");
    said.setAttribute("role", "status");
    function apply() {
      const counts = new Map();
      let shown = 0;
      data.cells.forEach((cell, n) => {
        const key = cell[0] + "-" + cell[1];
        if (!counts.has(key)) counts.set(key, data.outcomes.map(() => 0));
        const fits = chosen.every((select, axis) => select.value === "-1" || Number(select.value) === cell[3 + axis])
          && (outcome.value === "-1" || present[Number(outcome.value)] === cell[2]);
        if (fits) { counts.get(key)[cell[2]] += 1; shown += 1; }
        for (const at of rows.get(String(n)) || []) at.hidden = !fits;
      });
      for (const spot of map.querySelectorAll("td[data-spot]")) {
        const count = counts.get(spot.dataset.spot);
        const worst = count.findIndex((number) => number > 0);
        const all = count.reduce((sum, number) => sum + number, 0);
        spot.className = "spot " + (worst < 0 ? "none" : data.outcomes[worst]);
        spot.querySelector("b").textContent = worst < 0 ? "-" : count[worst] + " " + word(data.outcomes[worst]);
        spot.querySelector("small").textContent = "of " + all;
      }
      said.textContent = shown + " of " + data.cells.length + " cells";
    }
    const rows = new Map();
    for (const at of map.querySelectorAll("[data-cell]")) {
      rows.set(at.dataset.cell, [...(rows.get(at.dataset.cell) || []), at]);
    }
    const present = data.outcomes.map((_, n) => n).filter((n) => data.cells.some((cell) => cell[2] === n));
    const chosen = data.filters.map((filter) => add(filter.axis, filter.values));
    const outcome = add("outcome", present.map((n) => word(data.outcomes[n])));
    bar.append(said);
    bar.hidden = false;
    apply();
  }
})();
