// The page's state of a runs table. The kernel filters and sorts. The page requests missing rows with
// {rows: [version, start, stop]} and receives {version, start, rows}; a row ends with the run's id. Questions and
// answers that are not loaded yet are null: the page requests those in view with {texts: [version, first, last]} and
// receives {texts: {id: [question, answer]}}. {renamed: true} means that names of assistants have been loaded. `_facts`
// contains the row count and the columns.

const PAGE = 100; // rows per request
const SETTLED = 150; // ms without scrolling until questions and answers are requested
const KERNEL_TIMEOUT = 5000; // ms until the page reports that the kernel is not responding

function element(tag, name = "", attributes = {}, ...children) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  Object.entries(attributes).forEach(([key, value]) => node.setAttribute(key, value));
  node.append(...children);
  return node;
}

const TEXTS = ["question", "answer"]; // in the order in which they are received
const ZONE = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";
const words = (status) => status.replaceAll("_", " ");
const number = (n) => n.toLocaleString("en-US");

// The rows received so far, and the views to notify of new ones.
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
    for (const name of ["_notes", "_chosen", "columns", "status", "model", "assistant", "metadata", "text", "since", "until", "sort", "timezone"]) model.on(`change:${name}`, () => this.tell());
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
    this.wanted = ""; // the rows whose texts have been requested
    clearTimeout(this.timer);
    this.silent = false;
  }

  receive({ version, start, rows, texts, renamed }) {
    if (texts) return this.receiveTexts(texts);
    if (renamed) {
      this.rows.clear(); // requested again by the next draw
      this.asked.clear();
      return this.tell();
    }
    if (version !== this.version) return;
    rows.forEach((row, place) => this.rows.set(start + place, row));
    this.asked.delete(start / PAGE);
    clearTimeout(this.timer);
    if (this.asked.size) this.expect();
    this.silent = false;
    this.tell();
  }

  receiveTexts(texts) {
    const places = TEXTS.map((name) => this.facts.columns.findIndex(([column]) => column === name));
    for (const [place, row] of this.rows) {
      const found = texts[row.at(-1)];
      if (!found) continue;
      const filled = [...row];
      places.forEach((column, part) => column >= 0 && (filled[column] = found[part]));
      this.rows.set(place, filled);
    }
    this.tell();
  }

  needTexts(first, last) {
    const wanted = `${this.version} ${first} ${last}`;
    if (wanted === this.wanted) return;
    clearTimeout(this.settling);
    this.settling = setTimeout(() => {
      for (let place = first; place <= last; place++) {
        if (!this.rows.get(place)?.includes(null)) continue;
        this.wanted = wanted;
        this.model.send({ texts: [this.version, first, last] });
        return;
      }
    }, SETTLED);
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
      this.asked.clear(); // the next draw requests them again
      this.tell();
    }, KERNEL_TIMEOUT);
  }

  tell() {
    this.views.forEach((view) => view.update());
  }

  // The kernel polls active runs only while a page shows the table.
  watch() {
    const watched = [...this.views].some((view) => view.root.isConnected);
    if (watched === this.watched) return;
    this.watched = watched;
    this.model.send(watched ? { hello: this.page } : { bye: this.page });
  }
}
