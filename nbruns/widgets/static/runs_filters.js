// The bar above the table: search, model, time, and a button for each status.

const MAX_COMPARED = 6; // as in table.py
const TIMES = [["", "Any time"], ["1h", "Last hour"], ["24h", "Last 24 hours"], ["7D", "Last 7 days"], ["30D", "Last 30 days"]];

class Filters {
  constructor(store) {
    this.store = store;
    this.search = element("input", "nbruns-search", { type: "search", placeholder: "Search ids, errors, metadata", "aria-label": "Search runs", spellcheck: "false" });
    this.search.addEventListener("input", (event) => !event.isComposing && this.soon());
    this.search.addEventListener("compositionend", () => this.soon());
    this.search.addEventListener("blur", () => this.send());
    this.typed = null; // text not sent to the kernel yet
    this.models = element("select", "", { "aria-label": "Model" });
    this.models.addEventListener("change", () => store.set({ model: this.models.value ? [this.models.value] : [] }));
    this.times = element("select", "", { "aria-label": "Created" });
    this.times.addEventListener("change", () => this.setTimes());
    this.from = element("input", "", { type: "datetime-local", "aria-label": "Created from, UTC" });
    this.to = element("input", "", { type: "datetime-local", "aria-label": "Created until, UTC" });
    for (const input of [this.from, this.to]) input.addEventListener("change", () => store.set({ since: this.from.value, until: this.to.value }));
    this.range = element("span", "nbruns-range", {}, this.from, " – ", this.to);
    this.count = element("span", "nbruns-count", { role: "status" });
    this.refresh = element("button", "nbruns-refresh", { type: "button", title: "Reload the list of runs" }, "Refresh");
    this.refresh.addEventListener("click", () => store.model.send({ refresh: true }));
    this.compare = element("button", "nbruns-compare-chosen", { type: "button" });
    this.compare.addEventListener("click", () => store.model.send({ compare: true }));
    this.chips = element("div", "nbruns-chips", { role: "group", "aria-label": "Status" });
    this.chip = new Map();
    this.custom = false;
    const bar = element("div", "nbruns-filters", {}, this.search, this.models, this.times, this.range, this.count, this.compare, this.refresh);
    this.root = element("div", "nbruns-top", { role: "search", "aria-label": "Filter runs" }, bar, this.chips);
  }

  soon() {
    this.typed = this.search.value;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.send(), 200);
  }

  send() {
    clearTimeout(this.timer);
    const text = this.typed;
    this.typed = null;
    if (text !== null) this.store.set({ text });
  }

  setTimes() {
    this.custom = this.times.value === "custom";
    if (this.custom) this.update();
    else this.store.set({ since: this.times.value, until: "" });
  }

  update() {
    const { facts } = this.store;
    if (this.typed === null && document.activeElement !== this.search) this.search.value = this.store.get("text");
    this.updateModels(facts.models ?? []);
    this.updateTimes();
    this.updateChips(facts.statuses ?? []);
    const runs = facts.all === 1 ? "1 run" : `${number(facts.all ?? 0)} runs`;
    const shown = facts.state === "error" && !facts.all ? "" : facts.shown === facts.all ? runs : `${number(facts.shown)} of ${runs}`;
    const loading = facts.state === "loading";
    const text = loading ? (facts.all ? `${number(facts.all)} runs loaded…` : "Loading…") : shown + (facts.active ? `, ${number(facts.active)} active` : "");
    if (this.count.textContent !== text) this.count.textContent = text;
    const chosen = this.store.get("_chosen").length;
    this.compare.hidden = chosen < 2;
    this.compare.disabled = chosen > MAX_COMPARED;
    this.compare.textContent = `Compare ${number(chosen)}`;
    this.compare.title = this.compare.disabled ? `Select at most ${MAX_COMPARED} runs to compare` : "Show the selected runs side by side";
    this.refresh.disabled = loading;
    this.refresh.hidden = !facts.lists;
  }

  updateModels(models) {
    const chosen = this.store.get("model");
    const options = [["", "All models"], ...models.map(([name, count]) => [name, `${name} (${number(count)})`])];
    if (chosen.length > 1) options.push(["\0", `${chosen.length} models`]);
    if (chosen.length === 1 && !models.some(([name]) => name === chosen[0])) options.push([chosen[0], `${chosen[0]} (0)`]);
    fillSelect(this.models, options, chosen.length > 1 ? "\0" : chosen[0] ?? "");
  }

  updateTimes() {
    const [since, until] = [this.store.get("since"), this.store.get("until")];
    const simple = !until && TIMES.some(([value]) => value === since);
    const custom = this.custom || !simple;
    fillSelect(this.times, [...TIMES, ["custom", "Custom range"]], custom ? "custom" : since);
    this.range.hidden = !custom;
    for (const [input, value] of [[this.from, since], [this.to, until]]) {
      const wanted = /^\d{4}-\d\d-\d\dT/.test(value) ? value.slice(0, 16) : "";
      if (document.activeElement !== input && input.value !== wanted) input.value = wanted;
    }
  }

  updateChips(statuses) {
    const chosen = this.store.get("status");
    const counts = new Map([...chosen.map((name) => [name, 0]), ...statuses]);
    for (const [name, chip] of this.chip) if (!counts.has(name)) (chip.remove(), this.chip.delete(name));
    for (const [name, count] of counts) {
      if (!this.chip.has(name)) this.addChip(name);
      const chip = this.chip.get(name);
      chip.setAttribute("aria-pressed", String(chosen.includes(name)));
      chip.lastChild.textContent = number(count);
    }
    const order = statuses.map(([name]) => this.chip.get(name));
    const settled = order.every((chip, place) => this.chips.children[place] === chip);
    if (!settled && !this.chips.contains(document.activeElement)) this.chips.prepend(...order);
  }

  addChip(name) {
    const chip = element("button", "nbruns-chip nbruns-badge", { type: "button", "data-status": name }, words(name), " ", element("span"));
    chip.addEventListener("click", () => {
      const chosen = this.store.get("status");
      this.store.set({ status: chosen.includes(name) ? chosen.filter((other) => other !== name) : [...chosen, name] });
    });
    this.chip.set(name, chip);
    this.chips.append(chip);
  }
}

function fillSelect(select, options, value) {
  const key = JSON.stringify(options);
  if (select.dataset.options !== key) {
    select.dataset.options = key;
    select.replaceChildren(...options.map(([name, label]) => new Option(label, name)));
  }
  select.value = value;
}
