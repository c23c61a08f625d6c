"use strict";
// One WebGL viewer serves the whole page: it moves to the card under the mouse or the focus, or into the dialog.
(() => {
  const { elements, crystals } = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const list = byId("cards");
  const cards = [...list.children];
  const dialog = byId("large"), stage = dialog.querySelector(".stage"), notice = byId("notice");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const START = [0, 0, 0, 1];
  const turned = new Map(); // index of a crystal -> quaternion of its view
  const isPressed = (button) => button.getAttribute("aria-pressed") === "true";
  const toggle = (button) => button.setAttribute("aria-pressed", String(!isPressed(button)));
  let order = cards.map((_, index) => index);
  let viewer = null, host = null, broken = false;
  let current = -1, slot = null, opened = -1, filling = false, pressed = null, waiting = 0, mouse = [];

  // --- the viewer ---
  const webgl = () => {
    try {
      const canvas = document.createElement("canvas");
      const context = canvas.getContext("webgl2") || canvas.getContext("webgl");
      context?.getExtension("WEBGL_lose_context")?.loseContext();
      return Boolean(context);
    } catch { return false; }
  };

  function start(where) {
    if (viewer || broken) return Boolean(viewer);
    host = document.createElement("div");
    host.className = "live";
    where.append(host);
    try {
      if (!webgl()) throw new Error("no WebGL");
      viewer = $3Dmol.createViewer(host, { orthographic: true, antialias: true });
    } catch { viewer = null; }
    if (!viewer) {
      broken = true;
      host.remove();
      byId("hint").hidden = true;
      return false;
    }
    // The wheel scrolls the page over a card; it zooms in the dialog alone.
    host.addEventListener("wheel", (event) => { if (!dialog.open) event.stopPropagation(); }, { capture: true });
    host.addEventListener("pointerdown", (event) => { pressed = [event.clientX, event.clientY]; });
    host.addEventListener("click", (event) => {
      const moved = pressed ? Math.hypot(event.clientX - pressed[0], event.clientY - pressed[1]) : 0;
      if (!dialog.open && moved < 4) open(current);
    });
    host.querySelector("canvas").setAttribute("aria-hidden", "true");
    return true;
  }

  const isStart = (rotation) => Math.abs(rotation[3]) > 0.99999;

  function leave() {
    if (current < 0 || !slot) return;
    const rotation = viewer.getView().slice(4);
    if (isStart(rotation)) turned.delete(current); else turned.set(current, rotation);
    if (slot !== stage) {
      slot.querySelector(".snapshot")?.remove();
      slot.classList.toggle("turned", turned.has(current));
      if (turned.has(current) && host.clientWidth > 0) {
        const image = document.createElement("img");
        image.className = "snapshot"; image.alt = ""; image.src = viewer.pngURI();
        slot.append(image);
      }
    }
    slot.classList.remove("shown");
    slot = null;
  }

  function show(index, where) {
    if (slot === where && current === index) return true;
    if (!start(where)) return false;
    leave();
    where.append(host);
    [current, slot] = [index, where];
    viewer.resize();
    cellScene.draw(viewer, crystals[index], elements, filling);
    cellScene.place(viewer, host, crystals[index], turned.get(index) || START);
    where.classList.add("shown");
    return true;
  }

  function turn(event) {
    const way = { ArrowLeft: [-10, "vy"], ArrowRight: [10, "vy"], ArrowUp: [-10, "vx"], ArrowDown: [10, "vx"] }[event.key];
    if (!way || event.altKey || event.ctrlKey || event.metaKey || !viewer || !slot) return;
    event.preventDefault();
    viewer.rotate(...way);
  }

  // --- cards ---
  list.addEventListener("pointerover", (event) => {
    const picture = event.target.closest(".picture");
    // An event without a movement comes from the page that changes under a resting mouse, as when the focus takes the viewer.
    if (event.clientX === mouse[0] && event.clientY === mouse[1]) return;
    clearTimeout(waiting);
    if (!picture || event.pointerType === "touch" || event.buttons || dialog.open) return;
    waiting = setTimeout(() => show(Number(picture.parentNode.dataset.index), picture), 60);
  });
  list.addEventListener("pointermove", (event) => { mouse = [event.clientX, event.clientY]; });
  list.addEventListener("focusin", (event) => {
    if (event.target.matches(".open:focus-visible")) show(Number(event.target.closest(".card").dataset.index), event.target.parentNode);
  });
  list.addEventListener("click", (event) => {
    if (event.target.closest(".open")) open(Number(event.target.closest(".card").dataset.index));
  });
  list.addEventListener("keydown", (event) => {
    if (event.target.matches(".open") && event.target.parentNode === slot) turn(event);
  });

  // --- the dialog ---
  function open(index) {
    const card = cards[index], crystal = crystals[index], link = card.querySelector(".cif");
    opened = index;
    clearTimeout(waiting); // the pointer that pressed may also have begun to hover
    byId("large-formula").innerHTML = card.querySelector("h2").innerHTML; // escaped already
    dialog.querySelector(".name").textContent = crystal.name;
    dialog.querySelector("dl").replaceChildren(...card.querySelector("dl").cloneNode(true).children);
    byId("large-cif").hidden = !link;
    if (link) byId("large-cif").href = link.getAttribute("href");
    byId("save").download = `${crystal.name}.png`;
    notice.textContent = "";
    stage.querySelector(".cell-picture")?.remove();
    stage.prepend(card.querySelector(".cell-picture").cloneNode(true));
    if (!dialog.open) dialog.showModal();
    const live = show(index, stage);
    for (const item of [...dialog.querySelectorAll("[data-view]"), byId("filling"), byId("save")]) item.hidden = !live;
    if (!live) notice.textContent = "Turning the cell needs WebGL, which this browser does not offer.";
    const shown = order.filter((i) => !cards[i].hidden), at = shown.indexOf(index);
    byId("previous").disabled = at <= 0;
    byId("next").disabled = at < 0 || at >= shown.length - 1;
  }
  function step(by) {
    const shown = order.filter((i) => !cards[i].hidden), next = shown[shown.indexOf(opened) + by];
    if (next !== undefined) open(next);
  }
  dialog.addEventListener("close", () => {
    filling = false;
    byId("filling").setAttribute("aria-pressed", "false");
    const card = cards[opened];
    if (viewer) show(opened, card.querySelector(".picture"));
    card.scrollIntoView({ block: "nearest" });
    card.querySelector(".open").focus();
  });
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "PageDown" || event.key === "PageUp") { event.preventDefault(); step(event.key === "PageDown" ? 1 : -1); }
    else if (event.target === stage) turn(event);
  });
  byId("close").addEventListener("click", () => dialog.close());
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  for (const button of dialog.querySelectorAll("[data-view]"))
    button.addEventListener("click", () => {
      const axis = "abc".indexOf(button.dataset.view), crystal = crystals[opened];
      cellScene.place(viewer, host, crystal, axis < 0 ? START : cellScene.along(crystal, axis));
    });
  byId("filling").addEventListener("click", (event) => {
    filling = !filling;
    event.currentTarget.setAttribute("aria-pressed", String(filling));
    redraw();
  });
  byId("save").addEventListener("click", (event) => { event.currentTarget.href = viewer.pngURI(); });
  byId("copy").addEventListener("click", async () => {
    const text = crystals[opened].cif;
    try { await navigator.clipboard.writeText(text); } catch {
      const area = document.createElement("textarea"); // pages from a folder may be refused the clipboard
      area.value = text; dialog.append(area); area.select(); document.execCommand("copy"); area.remove();
    }
    notice.textContent = "The CIF is on the clipboard.";
  });
  function redraw() {
    const view = viewer.getView();
    cellScene.draw(viewer, crystals[current], elements, filling);
    viewer.setView(view);
    viewer.render();
  }
  dark.addEventListener("change", () => {
    for (const image of document.querySelectorAll(".snapshot")) { image.parentNode.classList.remove("turned"); image.remove(); }
    if (viewer && slot) redraw();
  });

  // --- filter and order ---
  const filter = byId("filter"), choice = byId("order"), reverse = byId("reverse"), chips = [...document.querySelectorAll(".element")];
  const symbols = new Set(chips.map((chip) => chip.dataset.symbol));
  const texts = crystals.map((c) => [c.name, c.formula, c.formula.replaceAll(" ", ""), c.symbol].join("\n").toLowerCase());
  const collator = new Intl.Collator("en", { numeric: true });
  const count = new Intl.NumberFormat("en");

  function fits(index, words, required) {
    const crystal = crystals[index];
    return required.every((symbol) => crystal.elements.includes(symbol)) && words.every((word) =>
      symbols.has(word) ? crystal.elements.includes(word) : String(crystal.group) === word || texts[index].includes(word.toLowerCase()));
  }
  function update() {
    const words = filter.value.split(/[\s,]+/).filter(Boolean);
    const required = chips.filter(isPressed).map((chip) => chip.dataset.symbol);
    let left = 0;
    cards.forEach((card, index) => { card.hidden = !fits(index, words, required); left += Number(!card.hidden); });
    const total = count.format(cards.length);
    byId("count").textContent = (left === cards.length ? total : `${count.format(left)} of ${total}`) + (cards.length === 1 ? " crystal" : " crystals");
    byId("none").hidden = left > 0 || cards.length === 0;
  }
  function sort() {
    const key = choice.value, sign = isPressed(reverse) ? -1 : 1;
    order = cards.map((_, index) => index).sort((i, j) => {
      if (!key) return sign * (i - j);
      const [a, b] = [crystals[i][key], crystals[j][key]];
      const [lost, other] = [a, b].map((v) => v === null || (key === "group" && v === 0)); // unknown ones come last
      if (lost || other) return Number(lost) - Number(other) || i - j;
      return sign * (key === "formula" ? collator.compare(a, b) : a - b) || i - j;
    });
    list.append(...order.map((index) => cards[index]));
  }
  let typing = 0;
  filter.addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(update, cards.length > 200 ? 150 : 0); });
  choice.addEventListener("change", sort);
  reverse.addEventListener("click", () => { toggle(reverse); reverse.textContent = isPressed(reverse) ? "↓" : "↑"; sort(); });
  for (const chip of chips) chip.addEventListener("click", () => { toggle(chip); update(); });
  byId("clear").addEventListener("click", () => {
    filter.value = "";
    for (const chip of chips) chip.setAttribute("aria-pressed", "false");
    update();
    filter.focus();
  });
  document.querySelector(".controls").hidden = false;
  byId("hint").hidden = false;
  if (filter.value || choice.value) { update(); sort(); } // a reload keeps what the fields held
})();
