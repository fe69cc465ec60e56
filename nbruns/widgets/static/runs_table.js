// A table of runs. The kernel filters and sorts; this file shows the rows in view and asks for those it lacks.
// A page asks {rows: [version, start, stop]} and gets {version, start, rows}; `_facts` tells how many there are.
// What runs say is only ever put into the page as text; the HTML of an opened run is made and sanitised in Python.

const ROW = 30; // pixels, as in runs_table.css
const PAGE = 100; // rows that are asked for together
const MARGIN = 8; // rows beyond those in view
const PATIENCE = 5000; // ms until the page says that the kernel does not answer
const TIMES = [["", "Any time"], ["1h", "Last hour"], ["24h", "Last 24 hours"], ["7D", "Last 7 days"], ["30D", "Last 30 days"]];
const KINDS_DOWN = new Set(["time", "number"]); // sorted from the top first

let counter = 0;

function element(tag, name = "", attributes = {}, ...children) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  Object.entries(attributes).forEach(([key, value]) => node.setAttribute(key, value));
  node.append(...children);
  return node;
}

const words = (status) => status.replaceAll("_", " ");
const number = (n) => n.toLocaleString("en-US");

// The rows that have come, and who wants to know of more.
class Store {
  constructor(model) {
    this.model = model;
    this.views = new Set();
    this.page = `${Date.now()}-${Math.random()}`;
    this.watched = false;
    this.forget();
    model.on("change:_facts", () => {
      if (this.facts.version !== this.version) this.forget();
      this.tell();
    });
    for (const name of ["_notes", "_chosen", "status", "model", "text", "since", "until", "sort"]) model.on(`change:${name}`, () => this.tell());
    model.on("change:_details", () => this.views.forEach((view) => view.details.show()));
    model.on("msg:custom", (message) => this.receive(message));
  }

  get facts() {
    return this.model.get("_facts") ?? {};
  }

  get(name) {
    return this.model.get(name);
  }

  set(values) {
    Object.entries(values).forEach(([name, value]) => this.model.set(name, value));
    this.model.save_changes();
    this.tell();
  }

  forget() {
    this.version = this.facts.version;
    this.rows = new Map();
    this.asked = new Set();
    clearTimeout(this.timer);
    this.silent = false;
  }

  receive({ version, start, rows }) {
    if (version !== this.version) return;
    rows.forEach((row, place) => this.rows.set(start + place, row));
    this.asked.delete(start / PAGE);
    clearTimeout(this.timer);
    if (this.asked.size) this.expect();
    this.silent = false;
    this.tell();
  }

  need(first, last) {
    for (let page = Math.floor(first / PAGE); page * PAGE <= last; page++) {
      if (this.rows.has(page * PAGE) || this.asked.has(page)) continue;
      this.asked.add(page);
      this.model.send({ rows: [this.version, page * PAGE, (page + 1) * PAGE] });
      this.expect();
    }
  }

  expect() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.silent = true;
      this.asked.clear(); // the next look asks again
      this.tell();
    }, PATIENCE);
  }

  tell() {
    this.views.forEach((view) => view.update());
  }

  // The kernel looks at runs that go on only while somebody looks at the table.
  watch() {
    const watched = [...this.views].some((view) => view.root.isConnected);
    if (watched === this.watched) return;
    this.watched = watched;
    this.model.send(watched ? { hello: this.page } : { bye: this.page });
  }
}

class View {
  constructor(store) {
    this.store = store;
    this.id = `nbruns-runs-${++counter}`;
    this.filters = new Filters(store);
    this.grid = new Grid(store, this.id, () => this.details.close());
    this.details = new Details(store, this.id, () => this.grid.scroll.focus());
    this.notes = element("div", "nbruns-notes", { role: "alert" });
    const main = element("div", "nbruns-main", {}, this.grid.root, this.details.root);
    this.root = element("div", "nbruns nbruns-runs mathjax_ignore tex2jax_ignore", { "data-lm-suppress-shortcuts": "true" }, this.filters.root, main, this.notes);
    this.root.addEventListener("focusin", ({ target }) => (this.focused = target));
    this.root.addEventListener("focusout", () => setTimeout(() => !this.root.contains(document.activeElement) && (this.focused = null)));
    this.resize = new ResizeObserver(() => this.grid.draw());
    this.resize.observe(this.grid.scroll);
    this.clock = setInterval(() => this.details.tick(), 1000);
    store.views.add(this);
    this.update();
    this.details.show();
  }

  update() {
    this.filters.update();
    this.grid.update();
    const told = Object.values(this.store.get("_notes") ?? {});
    if (this.store.silent) told.push("The kernel does not answer. It is busy with a cell, or gone.");
    const wanted = told.join("\n");
    if (this.notes.textContent !== wanted) this.notes.textContent = wanted;
    this.notes.hidden = !wanted;
  }

  // Put the view where its place is now: the output that holds it may have been drawn anew around it.
  moveTo(place) {
    const focused = this.focused;
    place.replaceChildren(this.root);
    this.grid.scroll.scrollTop = this.grid.top;
    if (focused && this.root.contains(focused)) focused.focus({ preventScroll: true });
    this.update();
  }

  close() {
    this.store.views.delete(this);
    this.resize.disconnect();
    clearInterval(this.clock);
  }
}

class Filters {
  constructor(store) {
    this.store = store;
    this.search = element("input", "nbruns-search", { type: "search", placeholder: "Search ids, errors, metadata", "aria-label": "Search runs", spellcheck: "false" });
    this.search.addEventListener("input", (event) => !event.isComposing && this.soon());
    this.search.addEventListener("compositionend", () => this.soon());
    this.models = element("select", "", { "aria-label": "Model" });
    this.models.addEventListener("change", () => store.set({ model: this.models.value ? [this.models.value] : [] }));
    this.times = element("select", "", { "aria-label": "Created" });
    this.times.addEventListener("change", () => this.setTimes());
    this.from = element("input", "", { type: "datetime-local", "aria-label": "Created from, UTC" });
    this.to = element("input", "", { type: "datetime-local", "aria-label": "Created until, UTC" });
    for (const input of [this.from, this.to]) input.addEventListener("change", () => store.set({ since: this.from.value, until: this.to.value }));
    this.range = element("span", "nbruns-range", {}, this.from, " – ", this.to);
    this.count = element("span", "nbruns-count", { role: "status" });
    this.refresh = element("button", "nbruns-refresh", { type: "button", title: "List the runs again" }, "Refresh");
    this.refresh.addEventListener("click", () => store.model.send({ refresh: true }));
    this.chips = element("div", "nbruns-chips", { role: "group", "aria-label": "Status" });
    this.chip = new Map();
    this.custom = false;
    const bar = element("div", "nbruns-filters", {}, this.search, this.models, this.times, this.range, this.count, this.refresh);
    this.root = element("div", "nbruns-top", { role: "search", "aria-label": "Filter runs" }, bar, this.chips);
  }

  soon() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.store.set({ text: this.search.value }), 200);
  }

  setTimes() {
    this.custom = this.times.value === "custom";
    if (this.custom) this.update();
    else this.store.set({ since: this.times.value, until: "" });
  }

  update() {
    const { facts } = this.store;
    if (document.activeElement !== this.search) this.search.value = this.store.get("text");
    this.updateModels(facts.models ?? []);
    this.updateTimes();
    this.updateChips(facts.statuses ?? []);
    const shown = facts.shown === facts.all ? `${number(facts.all ?? 0)} runs` : `${number(facts.shown)} of ${number(facts.all)} runs`;
    const loading = facts.state === "loading";
    const text = loading ? (facts.all ? `${number(facts.all)} runs so far …` : "Listing …") : shown + (facts.active ? `, ${number(facts.active)} going on` : "");
    if (this.count.textContent !== text) this.count.textContent = text;
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
    fillSelect(this.times, [...TIMES, ["custom", "From … to …"]], custom ? "custom" : since);
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

class Grid {
  constructor(store, id, onEscape) {
    this.store = store;
    this.id = id;
    this.active = 0;
    this.anchor = 0;
    this.top = 0;
    this.lines = new Map();
    this.head = element("div", "nbruns-line nbruns-heads", { role: "row", "aria-rowindex": "1" });
    this.body = element("div", "nbruns-body", { role: "rowgroup" });
    this.scroll = element("div", "nbruns-grid", { role: "grid", tabindex: "0", "aria-label": "Runs", "aria-multiselectable": "true" }, element("div", "nbruns-headgroup", { role: "rowgroup" }, this.head), this.body);
    this.empty = element("div", "nbruns-empty");
    this.root = element("div", "nbruns-list", {}, this.scroll, this.empty);
    this.scroll.addEventListener("scroll", () => {
      this.top = this.scroll.scrollTop;
      this.draw();
    });
    this.scroll.addEventListener("keydown", (event) => event.target === this.scroll && this.key(event, onEscape));
    this.body.addEventListener("click", (event) => this.click(event));
  }

  get count() {
    return this.store.facts.shown ?? 0;
  }

  update() {
    this.active = Math.max(0, Math.min(this.active, this.count - 1));
    this.scroll.setAttribute("aria-rowcount", String(this.count + 1));
    this.body.style.height = `${this.count * ROW}px`;
    this.heads();
    this.sayWhyEmpty();
    this.draw();
  }

  heads() {
    const columns = this.store.facts.columns ?? [];
    if (this.head.children.length !== columns.length) {
      this.head.replaceChildren(...columns.map((column, place) => this.headOf(column, place)));
      this.scroll.setAttribute("aria-colcount", String(columns.length));
    }
    const sort = this.store.get("sort");
    columns.forEach(([name], place) => {
      const order = sort === name ? "ascending" : sort === `-${name}` ? "descending" : "none";
      this.head.children[place].setAttribute("aria-sort", order);
    });
  }

  headOf([name, label, kind], place) {
    const button = element("button", "nbruns-sort", { type: "button" }, label);
    button.addEventListener("click", () => {
      const [up, down] = [name, `-${name}`];
      const sort = this.store.get("sort");
      this.store.set({ sort: sort === up ? down : sort === down ? up : KINDS_DOWN.has(kind) ? down : up });
    });
    return element("div", `nbruns-cell nbruns-${kind}`, { role: "columnheader", "aria-colindex": String(place + 1) }, button);
  }

  sayWhyEmpty() {
    const { state, all } = this.store.facts;
    const text = this.count ? "" : all ? "No run fits the filter." : { loading: "Listing the runs …", error: "The runs could not be listed." }[state] ?? "There are no runs yet. They will be here when there are, after Refresh.";
    this.empty.hidden = !text;
    this.scroll.hidden = !all;
    if (this.empty.firstChild?.textContent === text) return;
    this.empty.replaceChildren(element("p", "", {}, text));
    if (!all || this.count) return;
    const clear = element("button", "", { type: "button" }, "Clear the filter");
    clear.addEventListener("click", () => this.store.set({ status: [], model: [], text: "", since: "", until: "" }));
    this.empty.append(clear);
  }

  draw() {
    if (!this.count || !this.scroll.clientHeight) return this.drop(() => false);
    const first = Math.max(0, Math.floor(this.scroll.scrollTop / ROW) - MARGIN);
    const last = Math.min(this.count - 1, Math.ceil((this.scroll.scrollTop + this.scroll.clientHeight) / ROW) + MARGIN);
    this.store.need(first, last);
    const inView = (place) => place === this.active || (place >= first && place <= last);
    this.drop(inView);
    const chosen = new Set(this.store.get("_chosen"));
    for (let place = first; place <= last; place++) this.line(place, chosen);
    this.line(this.active, chosen);
    this.scroll.setAttribute("aria-activedescendant", `${this.id}-${this.active}`);
  }

  drop(keep) {
    for (const [place, line] of this.lines) if (!keep(place)) (line.remove(), this.lines.delete(place));
  }

  line(place, chosen) {
    let line = this.lines.get(place);
    if (!line) {
      line = element("div", "nbruns-line", { role: "row", id: `${this.id}-${place}`, "aria-rowindex": String(place + 2) });
      line.style.transform = `translateY(${place * ROW}px)`;
      line.place = place;
      this.lines.set(place, line);
      this.body.append(line);
    }
    const cells = this.store.rows.get(place);
    if (cells && line.cells !== cells) this.fill(line, cells);
    line.classList.toggle("nbruns-active", place === this.active);
    line.setAttribute("aria-selected", String(Boolean(line.cells) && chosen.has(line.cells.at(-1))));
    line.setAttribute("aria-busy", String(!line.cells));
  }

  fill(line, cells) {
    line.cells = cells;
    const { columns } = this.store.facts;
    line.replaceChildren(...cells.map((text, place) => cellOf(text, columns[place], place)));
  }

  click(event) {
    const line = event.target.closest(".nbruns-line");
    if (!line?.cells) return;
    this.scroll.focus({ preventScroll: true });
    this.active = line.place;
    if (event.shiftKey) return this.range();
    this.anchor = line.place;
    if (event.ctrlKey || event.metaKey) this.toggle(line.cells.at(-1));
    else this.open(line);
    this.draw();
  }

  toggle(id) {
    const chosen = this.store.get("_chosen");
    this.store.set({ _chosen: chosen.includes(id) ? chosen.filter((other) => other !== id) : [...chosen, id] });
  }

  range() {
    this.store.model.send({ choose: [this.store.version, this.anchor, this.active] });
    this.draw();
  }

  open(line) {
    this.store.set({ _chosen: [line.cells.at(-1)] });
    this.store.model.send({ open: line.cells.at(-1) });
  }

  key(event, onEscape) {
    const inView = Math.max(1, Math.floor(this.scroll.clientHeight / ROW) - 2);
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: inView, PageUp: -inView, Home: -Infinity, End: Infinity };
    const line = this.lines.get(this.active);
    if (event.key in moves) this.move(moves[event.key], event.shiftKey);
    else if (event.key === "Enter" && line?.cells) this.open(line);
    else if (event.key === " " && line?.cells) ((this.anchor = this.active), this.toggle(line.cells.at(-1)));
    else if (event.key === "Escape") onEscape();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  move(by, extend) {
    this.active = Math.max(0, Math.min(this.count - 1, this.active + by));
    const top = this.active * ROW;
    const height = this.scroll.clientHeight - ROW; // less the heading, which stays
    if (top < this.scroll.scrollTop) this.scroll.scrollTop = top;
    else if (top + ROW > this.scroll.scrollTop + height) this.scroll.scrollTop = top + ROW - height;
    if (extend) this.range();
    else this.anchor = this.active;
    this.draw();
  }
}

function cellOf(text, [, , kind], place) {
  const cell = element("div", `nbruns-cell nbruns-${kind}`, { role: "gridcell", "aria-colindex": String(place + 1) });
  if (kind === "status") {
    cell.append(element("span", "nbruns-state-of", { "data-status": text }, words(text)));
  } else {
    cell.textContent = text;
    if (kind === "why" || kind === "id") cell.title = text;
  }
  return cell;
}

class Details {
  constructor(store, id, onClose) {
    this.store = store;
    this.id = `${id}-details`;
    this.onClose = onClose;
    this.section = "Transcript";
    this.head = element("div", "nbruns-head");
    const close = element("button", "nbruns-close", { type: "button", "aria-label": "Close the run" }, "Close");
    close.addEventListener("click", () => this.close());
    this.bar = element("div", "nbruns-bar", {}, this.head, close);
    this.tabs = element("div", "nbruns-tabs", { role: "tablist", "aria-label": "Parts of the run" });
    this.tabs.addEventListener("keydown", (event) => this.key(event));
    this.panel = element("div", "nbruns-panel", { role: "tabpanel", id: `${this.id}-panel`, tabindex: "0" });
    this.root = element("section", "nbruns-details", { "aria-label": "The opened run" }, this.bar, this.tabs, this.panel);
    this.root.addEventListener("keydown", (event) => event.key === "Escape" && this.close());
    this.root.hidden = true;
  }

  close() {
    if (this.root.hidden) return;
    this.store.model.send({ open: "" });
    this.onClose();
  }

  show() {
    const details = this.store.get("_details") ?? {};
    this.root.hidden = !details.id;
    this.root.setAttribute("aria-busy", String(details.state === "loading"));
    const sections = new Map(details.sections ?? []);
    this.tabs.hidden = !sections.size;
    if (!details.id) return;
    if (sections.size) setHtml(this.head, details.head);
    else this.head.replaceChildren(element("span", "nbruns-id", {}, details.id));
    if (sections.size) this.showTabs([...sections.keys()]);
    const same = this.shown === `${details.id} ${this.section}`;
    const top = same ? this.panel.scrollTop : 0;
    if (sections.size) setHtml(this.panel, `<div class="nbruns-blocks">${sections.get(this.section)}</div>`);
    else this.panel.replaceChildren(element("p", `nbruns-told nbruns-${details.state}`, {}, details.state === "error" ? details.words : "Asking for the run …"));
    this.panel.scrollTop = top;
    this.shown = `${details.id} ${this.section}`;
    this.tick();
  }

  showTabs(names) {
    if (this.tabs.children.length !== names.length) this.tabs.replaceChildren(...names.map((name) => this.tab(name)));
    for (const tab of this.tabs.children) {
      const selected = tab.textContent === this.section;
      tab.setAttribute("aria-selected", String(selected));
      tab.tabIndex = selected ? 0 : -1;
      if (selected) this.panel.setAttribute("aria-labelledby", tab.id);
    }
  }

  tab(name) {
    const tab = element("button", "nbruns-tab", { type: "button", role: "tab", id: `${this.id}-${name.replace(" ", "-")}`, "aria-controls": this.panel.id }, name);
    tab.addEventListener("click", () => this.choose(tab));
    return tab;
  }

  choose(tab) {
    this.section = tab.textContent;
    this.show();
    tab.focus();
  }

  key(event) {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    const tabs = [...this.tabs.children];
    const now = tabs.findIndex((tab) => tab.textContent === this.section);
    this.choose(tabs[(now + by + tabs.length) % tabs.length]);
    event.preventDefault();
  }

  tick() {
    for (const time of this.head.querySelectorAll("[data-since]")) {
      time.textContent = `${number(Math.max(0, Math.round(Date.now() / 1000 - Number(time.dataset.since))))} s`;
    }
  }
}

function setHtml(node, html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  node.replaceChildren(template.content);
}

// A cell's output holds a plain table, which is what the notebook saves. Where this model lives, the live table
// takes the plain one's place, again whenever JupyterLab draws the output anew.
class Places {
  constructor(store) {
    this.store = store;
    this.selector = `[data-nbruns-table="${CSS.escape(store.get("_place"))}"]`;
    this.views = [];
    this.observer = new MutationObserver((records) => {
      if (records.some(({ target }) => !this.views.some((view) => view.root.contains(target)))) this.settle();
    });
    this.observer.observe(document.body, { childList: true, subtree: true });
    this.settle();
  }

  settle() {
    for (const place of document.querySelectorAll(this.selector)) {
      if (this.views.some((view) => view.root.parentNode === place)) continue;
      const view = this.views.find((view) => !view.root.isConnected) ?? this.another();
      view.plain = [...place.childNodes];
      view.moveTo(place);
    }
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.store.watch(), 500); // an output that is moved is gone for a moment
  }

  another() {
    const view = new View(this.store);
    this.views.push(view);
    return view;
  }

  close() {
    this.observer.disconnect();
    clearTimeout(this.timer);
    for (const view of this.views) {
      view.root.replaceWith(...view.plain);
      view.close();
    }
  }
}

export default () => {
  let store;
  return {
    initialize({ model }) {
      store = new Store(model);
      const places = new Places(store);
      return () => places.close();
    },
    render({ el }) {
      const view = new View(store);
      el.append(view.root);
      requestAnimationFrame(() => store.watch());
      return () => {
        view.close();
        store.watch();
      };
    },
  };
};
