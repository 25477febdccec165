"use strict";
(() => {
  const one = (query, root = document) => root.querySelector(query);
  const all = (query, root = document) => [...root.querySelectorAll(query)];
  const changes = all(".change"), nodes = all(".node"), body = document.body;
  const search = one("#search"), canvas = one("#canvas"), graph = one("#graph");
  let outcome = "";

  function open(element) {
    for (let at = element; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
  }

  function choose(number, from) {
    for (const item of all(".chosen")) item.classList.remove("chosen");
    const change = one(`#change-${number}`), shapes = nodes.filter((node) => node.dataset.change === number);
    if (change) change.classList.add("chosen");
    for (const shape of shapes) shape.classList.add("chosen");
    if (from === "graph" && change) {
      open(change);
      change.scrollIntoView({ block: "center", behavior: "smooth" });
    } else if (shapes.length) {
      show(shapes[0]);
    }
  }

  function show(shape) {
    const frame = canvas.getBoundingClientRect(), box = shape.getBoundingClientRect();
    canvas.scrollTo({
      left: canvas.scrollLeft + box.left + box.width / 2 - frame.left - frame.width / 2,
      top: canvas.scrollTop + box.top + box.height / 2 - frame.top - frame.height / 2,
      behavior: "smooth",
    });
  }

  function filter() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (item) => words.every((word) => item.dataset.text.includes(word));
    let count = 0;
    for (const change of changes) {
      const kept = fits(change) && (!outcome || change.dataset.outcome === outcome);
      change.classList.toggle("gone", !kept);
      if (kept) count += 1;
    }
    for (const part of all(".module, .stretch").reverse()) {
      part.classList.toggle("gone", !one(".change:not(.gone)", part));
      if (part.classList.contains("stretch") && words.length) part.open = !part.classList.contains("gone");
    }
    const changed = new Map(changes.map((change) => [change.id.slice(7), change]));
    for (const node of nodes) {
      node.classList.toggle("hit", fits(node));
      node.classList.toggle("kept", !outcome || changed.get(node.dataset.change).dataset.outcome === outcome);
    }
    body.classList.toggle("searching", words.length > 0);
    body.classList.toggle("filtering", outcome !== "");
    const active = words.length > 0 || outcome !== "";
    one("#found").textContent = active ? `${count} of ${changes.length}` : "";
    one("#nothing").hidden = count > 0;
    const first = words.length ? nodes.find((node) => node.classList.contains("hit")) : null;
    if (first) show(first);
  }

  let scale = 1;
  function zoom(to) {
    const [, , width, height] = graph.getAttribute("viewBox").split(" ").map(Number);
    scale = Math.min(3, Math.max(0.1, to));
    graph.setAttribute("width", width * scale);
    graph.setAttribute("height", height * scale);
  }
  const fit = () => zoom(Math.min(1, (canvas.clientWidth - 4) / Number(graph.getAttribute("viewBox").split(" ")[2])));

  search.addEventListener("input", filter);
  for (const key of all("#outcomes .key")) {
    key.addEventListener("click", () => {
      outcome = outcome === key.dataset.outcome ? "" : key.dataset.outcome;
      for (const other of all("#outcomes .key")) {
        other.setAttribute("aria-pressed", String(other.dataset.outcome === outcome));
      }
      filter();
    });
  }
  const colour = one("#colour");
  if (colour) {
    colour.addEventListener("change", () => {
      const byError = colour.value === "error";
      body.classList.toggle("by-error", byError);
      one("#levels").hidden = !byError;
      one("#outcomes").hidden = byError;
    });
  }
  one("#fold").addEventListener("click", () => all("details").forEach((item) => { item.open = false; }));
  one("#unfold").addEventListener("click", () => all(".module").forEach((item) => { item.open = true; }));
  for (const button of all("#zoom button")) {
    button.addEventListener("click", () => (button.dataset.zoom === "fit" ? fit() : zoom(scale * Number(button.dataset.zoom))));
  }
  for (const node of nodes) {
    node.addEventListener("click", () => choose(node.dataset.change, "graph"));
    node.addEventListener("keydown", (event) => { if (event.key === "Enter") choose(node.dataset.change, "graph"); });
  }
  for (const change of changes) {
    one("summary", change).addEventListener("click", () => choose(change.id.slice(7), "list"));
  }
  fit();
})();
