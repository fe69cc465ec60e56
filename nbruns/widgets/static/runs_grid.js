// The visible rows, with keyboard and mouse handling. Run data is inserted as text only.

const ROW = 30; // pixels, as in runs_table.css
const MARGIN = 8; // rows rendered beyond the visible ones
const EM = 12.5; // pixels, as in runs_table.css
const GAP = 14;
const SIDES = 12 + 34; // the horizontal padding of a row, in pixels; the button for columns is on the right
const KINDS_DOWN = new Set(["time", "number"]); // sorted in descending order first

class Grid {
  constructor(store, id, onEscape) {
    this.store = store;
    this.id = id;
    this.active = 0;
    this.anchor = 0;
    this.top = 0;
    this.lines = new Map();
    this.shown = []; // indexes of the columns that fit
    this.head = element("div", "nbruns-line nbruns-heads", { role: "row", "aria-rowindex": "1" });
    this.body = element("div", "nbruns-body", { role: "rowgroup" });
    this.scroll = element("div", "nbruns-grid", { role: "grid", tabindex: "0", "aria-label": "Runs", "aria-multiselectable": "true" }, element("div", "nbruns-headgroup", { role: "rowgroup" }, this.head), this.body);
    this.empty = element("div", "nbruns-empty");
    this.chooser = new Chooser(store, this.id, () => this.shown);
    this.root = element("div", "nbruns-list", {}, this.scroll, this.empty, this.chooser.root);
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
    this.chooser.update();
  }

  heads() {
    const columns = this.store.facts.columns ?? [];
    this.arrange(columns);
    const sort = this.store.get("sort");
    this.shown.forEach((column, place) => {
      const [name] = columns[column];
      const order = sort === name ? "ascending" : sort === `-${name}` ? "descending" : "none";
      this.head.children[place].setAttribute("aria-sort", order);
    });
  }

  // Determine the columns that fit, leaving out the least important ones, and their widths.
  arrange(columns) {
    if (!columns.length) return;
    const space = (this.root.clientWidth || 900) - SIDES;
    const ranked = columns.map((_, place) => place).sort((a, b) => columns[a][5] - columns[b][5]);
    const widthOf = (places) => places.reduce((sum, place) => sum + columns[place][3] * EM + GAP, -GAP);
    while (ranked.length > 1 && widthOf(ranked) > space) ranked.pop();
    const shown = ranked.sort((a, b) => a - b);
    const key = JSON.stringify([shown, shown.map((place) => columns[place])]);
    if (key === this.arranged) return;
    this.arranged = key;
    this.shown = shown;
    const tracks = shown.map((place) => (columns[place][4] ? `minmax(${columns[place][3]}em, ${columns[place][4]}fr)` : `${columns[place][3]}em`));
    const grows = shown.some((place) => columns[place][4]);
    this.scroll.style.setProperty("--nb-columns", grows ? tracks.join(" ") : `${tracks.slice(0, -1).join(" ")} minmax(${columns[shown.at(-1)][3]}em, 1fr)`);
    this.head.replaceChildren(...shown.map((column, place) => this.headOf(columns[column], place)));
    this.scroll.setAttribute("aria-colcount", String(shown.length));
    this.drop(() => false); // rows of other columns
  }

  headOf([name, label, kind, , , , sortable], place) {
    const cell = element("div", `nbruns-cell nbruns-${kind}`, { role: "columnheader", "aria-colindex": String(place + 1) });
    if (!sortable) {
      cell.append(element("span", "nbruns-unsorted", {}, label));
      return cell;
    }
    const button = element("button", "nbruns-sort", { type: "button" }, label);
    button.addEventListener("click", () => {
      const [up, down] = [name, `-${name}`];
      const sort = this.store.get("sort");
      this.store.set({ sort: sort === up ? down : sort === down ? up : KINDS_DOWN.has(kind) ? down : up });
    });
    cell.append(button);
    return cell;
  }

  sayWhyEmpty() {
    const { state, all, searching } = this.store.facts;
    const text = this.count ? "" : all ? (searching ? "Searching messages…" : "No matching runs") : { loading: "Loading runs…", error: "Failed to list runs" }[state] ?? "No runs yet";
    this.empty.hidden = !text;
    this.scroll.hidden = !this.count;
    this.chooser.button.hidden = !this.count;
    if (this.empty.firstChild?.textContent === text) return;
    this.empty.replaceChildren(element("p", "", {}, text));
    if (!all || this.count) return;
    const clear = element("button", "", { type: "button" }, "Clear filters");
    clear.addEventListener("click", () => this.store.set({ status: [], model: [], assistant: [], metadata: {}, text: "", since: "", until: "" }));
    this.empty.append(clear);
  }

  draw() {
    if (!this.count || !this.scroll.clientHeight) return this.drop(() => false);
    const first = Math.max(0, Math.floor(this.scroll.scrollTop / ROW) - MARGIN);
    const last = Math.min(this.count - 1, Math.ceil((this.scroll.scrollTop + this.scroll.clientHeight) / ROW) + MARGIN);
    this.store.need(first, last);
    this.store.needTexts(first, last);
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
    // Keep the elements. If an element is replaced between press and release, the click is lost.
    if (!line.firstChild) line.append(...this.shown.map((column, place) => cellOf(columns[column], place)));
    this.shown.forEach((column, place) => write(line.children[place], cells[column], columns[column]));
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
    const height = this.scroll.clientHeight - ROW; // minus the sticky heading
    if (top < this.scroll.scrollTop) this.scroll.scrollTop = top;
    else if (top + ROW > this.scroll.scrollTop + height) this.scroll.scrollTop = top + ROW - height;
    if (extend) this.range();
    else this.anchor = this.active;
    this.draw();
  }
}

function cellOf([, , kind], place) {
  const cell = element("div", `nbruns-cell nbruns-${kind}`, { role: "gridcell", "aria-colindex": String(place + 1) });
  if (kind === "status") cell.append(element("span", "nbruns-state-of"));
  if (kind === "said") cell.dir = "auto";
  return cell;
}

function write(cell, text, [, , kind]) {
  if (cell.text === text) return;
  cell.text = text;
  cell.toggleAttribute("aria-busy", false);
  if (text === null) cell.setAttribute("aria-busy", "true"); // not loaded yet
  if (kind === "status") {
    cell.firstChild.dataset.status = text;
    cell.firstChild.textContent = words(text);
  } else {
    cell.textContent = text ?? "";
    if (["why", "id", "said", "text"].includes(kind)) cell.title = text ?? "";
  }
}

// The button at the right end of the headings, and the menu that it opens.
class Chooser {
  constructor(store, id, shown) {
    this.store = store;
    this.shown = shown;
    this.menu = element("div", "nbruns-columns", { popover: "auto", id: `${id}-columns`, role: "group", "aria-label": "Columns" });
    this.button = element("button", "nbruns-choose", { type: "button", popovertarget: this.menu.id, "aria-label": "Choose columns", title: "Choose columns" });
    this.root = element("div", "nbruns-chooser", {}, this.button, this.menu);
    this.root.hidden = !this.menu.showPopover;
    this.open = false;
    this.follow = ({ target }) => (target === window || !this.menu.contains(target)) && this.place();
    this.menu.addEventListener("beforetoggle", (event) => event.newState === "open" && this.fill());
    this.menu.addEventListener("toggle", (event) => {
      this.open = event.newState === "open";
      // The menu is in the top layer, while the page below can scroll.
      for (const name of ["scroll", "resize"]) window[this.open ? "addEventListener" : "removeEventListener"](name, this.follow, true);
      if (!this.open) return;
      this.place();
      if (!this.menu.contains(document.activeElement)) this.menu.querySelector("input").focus({ preventScroll: true });
    });
    this.menu.addEventListener("keydown", (event) => event.key !== "Escape" && event.stopPropagation());
  }

  // Reopen the menu after its element was moved in the page, which closes it without an event.
  reopen() {
    if (this.open && !this.menu.matches(":popover-open")) this.menu.showPopover();
  }

  fill() {
    if (this.menu.firstChild) return;
    const { choices, defaults } = this.store.facts;
    const chosen = this.store.get("columns");
    const boxes = choices.map(([name, label]) => {
      const box = element("input", "", { type: "checkbox", "data-column": name });
      box.checked = chosen.includes(name);
      box.addEventListener("change", () => this.choose(name, box.checked));
      return element("label", "", {}, box, label, element("span", "nbruns-no-space"));
    });
    const reset = element("button", "", { type: "button" }, "Default columns");
    reset.addEventListener("click", () => this.store.set({ columns: defaults }));
    this.menu.replaceChildren(...boxes, reset);
    this.update();
  }

  // Below the button, or above it where there is more space.
  place() {
    const [button, menu] = [this.button.getBoundingClientRect(), this.menu.getBoundingClientRect()];
    const below = window.innerHeight - button.bottom;
    const above = below < menu.height + 8 && button.top > below;
    this.menu.style.maxHeight = `${Math.max(120, (above ? button.top : below) - 12)}px`;
    this.menu.style.left = `${Math.max(4, button.right - menu.width)}px`;
    this.menu.style.top = above ? "auto" : `${button.bottom + 4}px`;
    this.menu.style.bottom = above ? `${window.innerHeight - button.top + 4}px` : "auto";
  }

  choose(name, wanted) {
    const order = this.store.facts.choices.map(([each]) => each);
    const chosen = this.store.get("columns").filter((each) => each !== name);
    if (wanted) {
      const next = chosen.findIndex((each) => order.indexOf(each) > order.indexOf(name));
      chosen.splice(next < 0 ? chosen.length : next, 0, name);
    }
    if (chosen.length) this.store.set({ columns: chosen });
    this.update();
  }

  update() {
    const [chosen, columns] = [this.store.get("columns"), this.store.facts.columns ?? []];
    const shown = this.shown().map((place) => columns[place][0]);
    for (const box of this.menu.querySelectorAll("input")) {
      const { column } = box.dataset;
      box.checked = chosen.includes(column);
      box.disabled = box.checked && chosen.length === 1;
      const known = columns.some(([name]) => name === column);
      box.nextElementSibling.textContent = known && box.checked && !shown.includes(column) ? "no space" : "";
    }
  }
}
