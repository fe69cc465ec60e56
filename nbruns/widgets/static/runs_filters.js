// The bar above the table: search, model, time, and a button for each status.

const MAX_COMPARED = 6; // as in table.py
const TIMES = [["", "Any time"], ["1h", "Last hour"], ["24h", "Last 24 hours"], ["7D", "Last 7 days"], ["30D", "Last 30 days"]];

class Filters {
  constructor(store) {
    this.store = store;
    this.search = element("input", "nbruns-search", { type: "search", "aria-label": "Search runs", spellcheck: "false" });
    this.search.addEventListener("input", (event) => !event.isComposing && this.soon());
    this.search.addEventListener("compositionend", () => this.soon());
    this.search.addEventListener("blur", () => this.send());
    this.typed = null; // text not sent to the kernel yet
    this.models = element("select", "", { "aria-label": "Model" });
    this.models.addEventListener("change", () => store.set({ model: this.models.value ? [this.models.value] : [] }));
    this.assistants = element("select", "", { "aria-label": "Assistant" });
    this.assistants.addEventListener("change", () => store.set({ assistant: this.assistants.value ? [this.assistants.value] : [] }));
    this.pairs = element("select", "", { "aria-label": "Metadata" });
    this.pairs.addEventListener("change", () => store.set({ metadata: JSON.parse(this.pairs.value || "{}") }));
    this.zone = element("button", "nbruns-zone", { type: "button" });
    this.zone.addEventListener("click", () => store.set({ timezone: this.isLocal ? "UTC" : ZONE }));
    this.times = element("select", "", { "aria-label": "Created" });
    this.times.addEventListener("change", () => this.setTimes());
    this.from = element("input", "", { type: "datetime-local" });
    this.to = element("input", "", { type: "datetime-local" });
    for (const input of [this.from, this.to]) input.addEventListener("change", () => store.set({ since: this.utcOf(this.from), until: this.utcOf(this.to) }));
    this.range = element("span", "nbruns-range", {}, this.from, " – ", this.to);
    this.count = element("span", "nbruns-count", { role: "status" });
    this.refresh = element("button", "nbruns-refresh", { type: "button", title: "Reload the list of runs" }, "Refresh");
    this.refresh.addEventListener("click", () => store.model.send({ refresh: true }));
    this.compare = element("button", "nbruns-compare-chosen", { type: "button" });
    this.compare.addEventListener("click", () => store.model.send({ compare: true }));
    this.chips = element("div", "nbruns-chips", { role: "group", "aria-label": "Status" });
    this.chip = new Map();
    this.custom = false;
    const bar = element("div", "nbruns-filters", {}, this.search, this.assistants, this.models, this.pairs, this.times, this.range, this.zone, this.count, this.compare, this.refresh);
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
    const fields = facts.can_search === false ? "Search ids, errors, metadata, loaded messages" : "Search messages, ids, errors, metadata";
    if (this.search.placeholder !== fields) this.search.placeholder = this.search.title = fields;
    updateNames(this.models, "models", facts.models ?? [], this.store.get("model"));
    updateNames(this.assistants, "assistants", facts.assistants ?? [], this.store.get("assistant"));
    this.updatePairs(facts.pairs ?? []);
    this.updateZone();
    this.updateTimes();
    this.updateChips(facts.statuses ?? []);
    const runs = facts.all === 1 ? "1 run" : `${number(facts.all ?? 0)} runs`;
    const shown = facts.state === "error" && !facts.all ? "" : facts.shown === facts.all ? runs : `${number(facts.shown)} of ${runs}`;
    const loading = facts.state === "loading";
    const text = loading ? (facts.all ? `${number(facts.all)} runs loaded…` : "Loading…") : shown + (facts.active ? `, ${number(facts.active)} active` : "") + (facts.searching ? ", searching messages…" : "");
    if (this.count.textContent !== text) this.count.textContent = text;
    const chosen = this.store.get("_chosen").length;
    this.compare.hidden = chosen < 2;
    this.compare.disabled = chosen > MAX_COMPARED;
    this.compare.textContent = `Compare ${number(chosen)}`;
    this.compare.title = this.compare.disabled ? `Select at most ${MAX_COMPARED} runs to compare` : "Show the selected runs side by side";
    this.refresh.disabled = loading;
    this.refresh.hidden = !facts.lists;
  }

  updatePairs(pairs) {
    const chosen = Object.entries(this.store.get("metadata"));
    const words = ([key, value]) => (value === null ? key : `${key}: ${value}`);
    const options = pairs.map(([key, value, count]) => [JSON.stringify({ [key]: value }), `${words([key, value])} (${number(count)})`]);
    const value = chosen.length ? JSON.stringify(Object.fromEntries(chosen)) : "";
    if (value && !options.some(([option]) => option === value)) options.push([value, chosen.map(words).join(", ")]);
    fillSelect(this.pairs, [["", "All metadata"], ...options], value);
    this.pairs.hidden = !options.length;
  }

  get isLocal() {
    return ZONE !== "UTC" && this.store.get("timezone") === ZONE;
  }

  updateZone() {
    const zone = this.store.get("timezone");
    this.zone.hidden = ZONE === "UTC" && zone === "UTC";
    this.zone.textContent = this.isLocal ? "Local time" : zone;
    this.zone.title = this.isLocal ? "Show times in UTC" : `Show times in ${ZONE}`;
    const of = this.isLocal ? "local time" : "UTC";
    this.from.setAttribute("aria-label", `Created from, ${of}`);
    this.to.setAttribute("aria-label", `Created until, ${of}`);
  }

  // Convert the value of an input to UTC.
  utcOf(input) {
    return this.isLocal && input.value ? new Date(input.value).toISOString().slice(0, 19) : input.value;
  }

  // Convert a time in UTC to the value of an input.
  inputOf(text) {
    if (!/^\d{4}-\d\d-\d\dT/.test(text)) return "";
    if (!this.isLocal) return text.slice(0, 16);
    const time = new Date(`${text.slice(0, 19)}Z`);
    return new Date(time - time.getTimezoneOffset() * 60000).toISOString().slice(0, 16);
  }

  updateTimes() {
    const [since, until] = [this.store.get("since"), this.store.get("until")];
    const simple = !until && TIMES.some(([value]) => value === since);
    const custom = this.custom || !simple;
    fillSelect(this.times, [...TIMES, ["custom", "Custom range"]], custom ? "custom" : since);
    this.range.hidden = !custom;
    for (const [input, value] of [[this.from, since], [this.to, until]]) {
      const wanted = this.inputOf(value);
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

// Update the options of a filter with a list of names: [value, count, label].
function updateNames(select, kind, found, chosen) {
  const options = [["", `All ${kind}`], ...found.map(([value, count, label]) => [value, `${label ?? value} (${number(count)})`])];
  if (chosen.length > 1) options.push(["\0", `${chosen.length} ${kind}`]);
  if (chosen.length === 1 && !found.some(([value]) => value === chosen[0])) options.push([chosen[0], chosen[0]]);
  fillSelect(select, options, chosen.length > 1 ? "\0" : chosen[0] ?? "");
  select.hidden = options.length < 3 && !chosen.length; // nothing to choose
}

function fillSelect(select, options, value) {
  const key = JSON.stringify(options);
  if (select.dataset.options !== key) {
    select.dataset.options = key;
    select.replaceChildren(...options.map(([name, label]) => new Option(label, name)));
  }
  select.value = value;
}
