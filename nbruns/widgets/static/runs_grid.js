// The visible rows, with keyboard and mouse handling. Run data is inserted as text only.

const ROW = 30; // pixels, as in runs_table.css
const MARGIN = 8; // rows rendered beyond the visible ones
const KINDS_DOWN = new Set(["time", "number"]); // sorted in descending order first

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
    const text = this.count ? "" : all ? "No matching runs" : { loading: "Loading runs…", error: "Failed to list runs" }[state] ?? "No runs yet";
    this.empty.hidden = !text;
    this.scroll.hidden = !this.count;
    if (this.empty.firstChild?.textContent === text) return;
    this.empty.replaceChildren(element("p", "", {}, text));
    if (!all || this.count) return;
    const clear = element("button", "", { type: "button" }, "Clear filters");
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
    const height = this.scroll.clientHeight - ROW; // minus the sticky heading
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
